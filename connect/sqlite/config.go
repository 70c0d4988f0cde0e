package sqlite

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// The modes of writing.
const (
	ModeAppend = "append"
	ModeIgnore = "ignore"
	ModeUpsert = "upsert"
)

// SinkConfig configures the sink.
type SinkConfig struct {
	Path string `yaml:"path" required:"true" doc:"The database file. It is created if it does not exist; its directory is not."`

	TableConfig

	Strict bool `yaml:"strict" doc:"Create the table as STRICT (needs SQLite 3.37 in everything that reads the file)."`

	DeadLetterTable string `yaml:"dead_letter_table" default:"penstock_dead_letter" doc:"The table that takes records which cannot be decoded or written. It is created if it does not exist."`

	Synchronous string        `yaml:"synchronous" default:"full" enum:"full,normal" doc:"full: a batch survives the loss of power when it is committed. normal: one fsync per checkpoint of the WAL instead of one per batch; the loss of power may undo the last batches together with their positions, and they are read again."`
	BusyTimeout time.Duration `yaml:"busy_timeout" default:"5s" doc:"How long a write waits for another process that holds the database before it counts as failed and is retried."`
	Cache       connect.Bytes `yaml:"cache" default:"32MiB" doc:"Memory for the database's pages."`

	// Routes are the tables of the flow's routes, in their order (flow.Config.Routes).
	// Nil: all records go into the one table of TableConfig, which is empty otherwise.
	Routes []TableConfig `yaml:"-"`
}

// TableConfig says which table is written, and how.
type TableConfig struct {
	// Route is the name of the flow's route, for messages. Not used without routes.
	Route string `yaml:"-"`

	Table string `yaml:"table" required:"true" doc:"The table that rows are written to."`

	Mode string `yaml:"mode" default:"append" enum:"append,ignore,upsert" doc:"append inserts every row; ignore leaves out rows whose key exists; upsert replaces the row with the same key, and a tombstone deletes it."`
	// Key needs a primary key or a unique index over exactly these columns in
	// the modes ignore and upsert; with create_table it becomes the primary key.
	Key []string `yaml:"key" doc:"The columns that identify a row. Required for ignore and upsert; the primary key of a table that is created."`

	CreateTable bool `yaml:"create_table" doc:"Create the table from the decoded columns if it does not exist. SQLite has few types: numeric and numeric(p,s) become TEXT with all digits as they came (123.456 stays 123.456 in a numeric(5,2)), times and dates TEXT, arrays and json TEXT, bool INTEGER."`
}

// Validate refuses what cannot work with a *connect.FieldError for each fault.
func (c *SinkConfig) Validate() error {
	var errs []error
	refuse := func(field, format string, args ...any) { errs = append(errs, connect.Errorf(field, format, args...)) }
	switch {
	case c.Path == "":
		refuse("path", "the database file is required, like telemetry.db")
	case strings.HasPrefix(c.Path, ":memory:"), strings.HasPrefix(c.Path, "file:"), strings.ContainsRune(c.Path, 0):
		refuse("path", "want the path of a file, not %q: the positions must survive the process", c.Path)
	}
	errs = append(errs, c.validateTables())
	if d := strings.ToLower(c.DeadLetterTable); d == flowTable || d == checkpointTable || strings.HasPrefix(d, "sqlite_") {
		refuse("dead_letter_table", "%q is reserved", c.DeadLetterTable)
	}
	if slices.ContainsFunc(c.tables(), func(t TableConfig) bool { return strings.EqualFold(c.DeadLetterTable, t.Table) }) {
		refuse("dead_letter_table", "is the table of the data; dead letters need one of their own")
	}
	if c.Synchronous != "full" && c.Synchronous != "normal" {
		refuse("synchronous", "%q is neither full nor normal", c.Synchronous)
	}
	if c.BusyTimeout < 0 {
		refuse("busy_timeout", "must not be negative")
	}
	if c.Cache < 0 {
		refuse("cache", "must not be negative")
	}
	return errors.Join(errs...)
}

// tables are those of all routes; without routes the one.
func (c *SinkConfig) tables() []TableConfig {
	if len(c.Routes) > 0 {
		return c.Routes
	}
	return []TableConfig{c.TableConfig}
}

func (c *SinkConfig) validateTables() error {
	if len(c.Routes) == 0 {
		return c.TableConfig.validate("")
	}
	if c.Table != "" || len(c.Key) > 0 || c.CreateTable {
		return connect.Errorf("table", "every route has a table of its own: leave out table, mode, key and create_table beside them")
	}
	var errs []error
	for i := range c.Routes {
		t := &c.Routes[i]
		at := fmt.Sprintf("routes.%d.", i)
		errs = append(errs, t.validate(at))
		for j := range i {
			if !strings.EqualFold(t.Table, c.Routes[j].Table) {
				continue
			}
			if why := c.Routes[j].conflict(t); why != "" {
				errs = append(errs, connect.Errorf(at+"table", "%s is the table of another route, too, and %s", t.Table, why))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// validate returns a *connect.FieldError for each fault; at comes before its path.
func (c *TableConfig) validate(at string) error {
	var errs []error
	refuse := func(field, format string, args ...any) {
		errs = append(errs, connect.Errorf(at+field, format, args...))
	}
	switch {
	case c.Table == "":
		refuse("table", "the table is required")
	case reserved(c.Table):
		refuse("table", "%q is reserved: names that begin with sqlite_ or penstock_ are not for data", c.Table)
	}
	switch {
	case !slices.Contains([]string{ModeAppend, ModeIgnore, ModeUpsert}, c.Mode):
		refuse("mode", "%q is none of append, ignore, upsert", c.Mode)
	case c.Mode != ModeAppend && len(c.Key) == 0:
		refuse("key", "mode %s needs the columns that identify a row", c.Mode)
	}
	for i, k := range c.Key {
		if k == "" || slices.Contains(c.Key[:i], k) {
			refuse(fmt.Sprintf("key[%d]", i), "column %q is empty or twice", k)
		}
	}
	return errors.Join(errs...)
}

// conflict says why two routes cannot write into one table like this, or "".
func (c *TableConfig) conflict(other *TableConfig) string {
	switch {
	case c.Mode != other.Mode:
		return fmt.Sprintf("its mode is %s there and %s here: rows of one would be in the way of the other's", c.Mode, other.Mode)
	case !slices.Equal(slices.Sorted(slices.Values(c.Key)), slices.Sorted(slices.Values(other.Key))):
		return "its key is another one there: two routes into one table recognise rows by the same columns"
	}
	return ""
}

func reserved(table string) bool {
	t := strings.ToLower(table)
	return strings.HasPrefix(t, "sqlite_") || strings.HasPrefix(t, "penstock_")
}
