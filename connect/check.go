package connect

import (
	"context"

	"github.com/penstockdev/penstock/flow"
)

// CheckStatus is how a Check has ended.
type CheckStatus string

// The statuses.
const (
	CheckOK      CheckStatus = "ok"
	CheckWarning CheckStatus = "warning" // it works, and a person should know
	CheckFailed  CheckStatus = "failed"  // the flow would not start, or would stop
)

// Check is one thing that was looked at on a real service.
type Check struct {
	// What was looked at, short and with its name: "topic orders", "role app on table orders".
	What   string      `json:"what"`
	Status CheckStatus `json:"status"`
	// Found is a sentence about what was found, with numbers and versions.
	Found string `json:"found"`
	// Next is what to do, with the command or the setting; empty where all is well.
	Next string `json:"next,omitempty"`
	// Field is the YAML path below the connector's section that this is about, like
	// topics or columns.id; empty if it is about none.
	Field string `json:"field,omitempty"`
}

// Checker is a source, sink or dead-letter queue that can look at its services before a
// flow runs: whether they can be reached, their versions, topics, tables, columns and
// types, rights, limits and clocks. It creates and changes nothing, takes part in nothing,
// and is called without Open. Setup has the flow's name and the columns, and, where the source could be
// reached, the cluster.
type Checker interface {
	Check(ctx context.Context, s flow.Setup) []Check
}

// Table is a table as it is.
type Table struct {
	Name    string        `json:"name"`
	Columns []TableColumn `json:"columns"`
	// Keys are the column names of the primary key and of the other unique keys, the primary
	// key first.
	Keys [][]string `json:"keys,omitempty"`
}

// TableColumn is a column of a Table.
type TableColumn struct {
	Name string `json:"name"`
	// Type is the database's own name of the type, Field what a decoder is to
	// make for it; Field.Name is Name.
	Type  string     `json:"type"`
	Field flow.Field `json:"-"`
	// Supported is false where Penstock cannot write the type.
	Supported bool `json:"supported"`
	NotNull   bool `json:"not_null,omitempty"`
	// Filled says that the database fills the column by itself (a default, an identity, generated).
	Filled bool `json:"filled,omitempty"`
}

// Describer is a sink that can describe the table it is configured for. Called without
// Open; creates and changes nothing.
type Describer interface {
	// Describe returns nil if there is no such table.
	Describe(ctx context.Context) (*Table, error)
}
