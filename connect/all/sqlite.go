package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/sqlite"
	"github.com/penstockdev/penstock/flow"
)

func sqliteConnectors() []connect.Entry {
	return []connect.Entry{connect.Sink[sqlite.SinkConfig]{
		Name: "sqlite", Doc: "A table of a SQLite file, exactly once: rows, positions and dead letters in one transaction.",
		NeedsColumns: true, StoresDeadLetters: true,
		New: func(c sqlite.SinkConfig) (flow.Sink, error) { return sqlite.NewSink(c) },
		Complete: func(c *sqlite.SinkConfig, with connect.Context) error {
			return connect.CheckKey(c.Mode, c.Key, with)
		},
	}}
}
