package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/sqlite"
	"github.com/penstockdev/penstock/flow"
)

func sqliteConnectors() []connect.Entry {
	return []connect.Entry{connect.RoutedSink[sqlite.SinkConfig, sqlite.TableConfig]{
		Sink: connect.Sink[sqlite.SinkConfig]{
			Name: "sqlite", Doc: "Tables of a SQLite file, exactly once: rows, positions and dead letters in one transaction.",
			NeedsColumns: true, StoresDeadLetters: true,
			New: func(c sqlite.SinkConfig) (flow.Sink, error) { return sqlite.NewSink(c) },
			Complete: func(c *sqlite.SinkConfig, with connect.Context) error {
				return connect.CheckKey(c.Mode, c.Key, with)
			},
		},
		SetRoutes: func(c *sqlite.SinkConfig, names []string, routes []sqlite.TableConfig) {
			for i := range routes {
				routes[i].Route = names[i]
			}
			c.Routes = routes
		},
		CompleteRoute: func(c *sqlite.TableConfig, with connect.Context) error {
			return connect.CheckKey(c.Mode, c.Key, with)
		},
	}}
}
