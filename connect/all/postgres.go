package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/postgres"
	"github.com/penstockdev/penstock/flow"
)

func postgresConnectors() []connect.Entry {
	return []connect.Entry{connect.RoutedSink[postgres.SinkConfig, postgres.TableConfig]{
		Sink: connect.Sink[postgres.SinkConfig]{
			Name: "postgres", Doc: "PostgreSQL tables, exactly once: rows, positions and dead letters in one transaction.",
			NeedsColumns: true, StoresDeadLetters: true,
			New: func(c postgres.SinkConfig) (flow.Sink, error) { return postgres.NewSink(c) },
			Complete: func(c *postgres.SinkConfig, with connect.Context) error {
				return connect.CheckKey(c.Mode, c.Key, with)
			},
		},
		SetRoutes: func(c *postgres.SinkConfig, names []string, routes []postgres.TableConfig) {
			for i := range routes {
				routes[i].Route = names[i]
			}
			c.Routes = routes
		},
		CompleteRoute: func(c *postgres.TableConfig, with connect.Context) error {
			return connect.CheckKey(c.Mode, c.Key, with)
		},
	}}
}
