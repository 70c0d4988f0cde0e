// Package all makes the registry of every connector of Penstock: one file per
// connector that adds it. It is the only place that knows all of them.
package all

import (
	"fmt"

	"github.com/penstockdev/penstock/connect"
)

// Registry is a new registry of all connectors.
func Registry() (*connect.Registry, error) {
	r := &connect.Registry{}
	for _, entries := range [][]connect.Entry{
		kafkaConnectors(),
		jsonConnectors(),
		postgresConnectors(),
		sqliteConnectors(),
		stdoutConnectors(),
	} {
		if err := r.Add(entries...); err != nil {
			return nil, fmt.Errorf("the registry of all connectors: %w", err)
		}
	}
	return r, nil
}
