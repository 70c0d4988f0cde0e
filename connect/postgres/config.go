package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// The write modes.
const (
	ModeAppend = "append"
	ModeIgnore = "ignore"
	ModeUpsert = "upsert"
)

// SinkConfig configures a Sink. The zero value of a field is its default.
type SinkConfig struct {
	URL string `yaml:"url" secret:"true" doc:"Where the database is: postgres://user@host:5432/database?sslmode=verify-full, or key=value pairs. sslmode, sslrootcert and the other parameters of libpq are understood; what is left out comes from PGHOST, PGUSER and the other variables of libpq."`

	Password connect.Secret `yaml:"password" doc:"Password; overrides the one in the URL."`

	PasswordFile string `yaml:"password_file" doc:"File that holds the password, read again for every connection; overrides the one in the URL."`

	TableConfig

	DeadLetterTable string `yaml:"dead_letter_table" default:"penstock_dead_letter" doc:"Table for records that cannot be processed; in checkpoint_schema unless it names a schema. Created if missing."`

	CheckpointSchema string `yaml:"checkpoint_schema" doc:"Schema of the penstock_ tables. Default: the schema of the table."`

	MaxConnectionShare float64 `yaml:"max_connection_share" default:"0.6" doc:"Part of the connections that the server, the database and the role allow which this process may use; bounds the number of lanes."`

	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" doc:"How long one attempt to connect may take."`

	StatementTimeout time.Duration `yaml:"statement_timeout" default:"60s" doc:"How long one statement may run on the server."`

	LockTimeout time.Duration `yaml:"lock_timeout" default:"500ms" doc:"How long to wait for a checkpoint that somebody else has locked, before a predecessor that hangs is removed."`

	// Routes are the tables of the flow's routes, in their order (flow.Config.Routes).
	// Nil: all records go into the one table of TableConfig, which is empty otherwise.
	Routes []TableConfig `yaml:"-"`

	// Logger receives what a person should know; nil: slog.Default().
	Logger *slog.Logger `yaml:"-"`
}

// TableConfig says which table is written, and how.
type TableConfig struct {
	// Route is the name of the flow's route, for messages. Not used without routes.
	Route string `yaml:"-"`

	Table string `yaml:"table" required:"true" doc:"Table to write, with its schema or without. Quote names as in SQL where they need it: public.\"Order Items\"."`

	Mode string `yaml:"mode" default:"append" enum:"append,ignore,upsert" doc:"append: every record is a new row. ignore: a record whose key is there already is left out. upsert: a record replaces the row of its key, and a tombstone deletes it."`

	Key []string `yaml:"key" doc:"Columns that identify a row. Needed for ignore and upsert, where they must have a unique index; with create_table they become the primary key."`

	CreateTable bool `yaml:"create_table" doc:"Create the table, from the columns that the flow decodes, if it does not exist."`
}

// Validate refuses what cannot work with a *connect.FieldError for each fault.
// Those of Routes[1] are at routes.1.
func (c *SinkConfig) Validate() error {
	var errs []error
	refuse := func(path, format string, args ...any) { errs = append(errs, connect.Errorf(path, format, args...)) }
	if _, err := parseURL(c.URL); err != nil {
		refuse("url", "%w", err)
	}
	if c.Password != "" && c.PasswordFile != "" {
		refuse("password_file", "give password or password_file, not both")
	}
	if err := c.validateTables(); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, c.validateOwnTables())
	}
	if c.MaxConnectionShare < 0 || c.MaxConnectionShare > 1 {
		refuse("max_connection_share", "%v is not between 0 and 1", c.MaxConnectionShare)
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"connect_timeout", c.ConnectTimeout}, {"statement_timeout", c.StatementTimeout}, {"lock_timeout", c.LockTimeout}} {
		if d.value < 0 || (d.value > 0 && d.value < time.Millisecond) {
			refuse(d.path, "%s is too short: want at least 1ms", d.value)
		}
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

// tablePath is where the fields of table i are.
func (c *SinkConfig) tablePath(i int, field string) string {
	if len(c.Routes) == 0 {
		return field
	}
	return fmt.Sprintf("routes.%d.%s", i, field)
}

func (c *SinkConfig) validateTables() error {
	if len(c.Routes) > 0 && (c.Table != "" || len(c.Key) > 0 || c.CreateTable) {
		return connect.Errorf("table", "every route has a table of its own: leave out table, mode, key and create_table beside them")
	}
	var errs []error
	tables := c.tables()
	for i := range tables {
		t := &tables[i]
		if err := t.validate(); err != nil {
			errs = append(errs, connect.Errorf(c.tablePath(i, err.Path), "%w", err.Err))
			continue
		}
		for j := range i {
			if sameName(tables[j].Table, t.Table) {
				if why := tables[j].conflict(t); why != "" {
					errs = append(errs, connect.Errorf(c.tablePath(i, "table"), "%s is the table of another route, too, and %s", t.Table, why))
					break
				}
			}
		}
	}
	return errors.Join(errs...)
}

// validate returns the first fault.
func (c *TableConfig) validate() *connect.FieldError {
	table, err := parseTableName(c.Table)
	switch {
	case err != nil:
		return connect.Errorf("table", "%w", err)
	case slices.Contains([]string{flowTable, checkpointTable, deadLetterTable}, table.name):
		return connect.Errorf("table", "%s is one of the tables that Penstock keeps for itself", table)
	case !slices.Contains([]string{"", ModeAppend, ModeIgnore, ModeUpsert}, c.Mode):
		return connect.Errorf("mode", "%q is not a mode: want append, ignore or upsert", c.Mode)
	case len(c.Key) == 0 && (c.Mode == ModeIgnore || c.Mode == ModeUpsert):
		return connect.Errorf("key", "mode %s needs the columns that identify a row", c.Mode)
	}
	for i, k := range c.Key {
		if k == "" || slices.Contains(c.Key[:i], k) {
			return connect.Errorf("key", "column %q is empty or there twice", k)
		}
	}
	return nil
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

// validateOwnTables is about the tables that Penstock keeps. Where schemas are
// not known yet, Open compares again.
func (c *SinkConfig) validateOwnTables() error {
	var errs []error
	if c.DeadLetterTable != "" {
		dead, err := parseTableName(c.DeadLetterTable)
		switch {
		case err != nil:
			errs = append(errs, connect.Errorf("dead_letter_table", "%w", err))
		case dead.name == flowTable || dead.name == checkpointTable:
			errs = append(errs, connect.Errorf("dead_letter_table", "%s holds positions, not dead letters", dead))
		default:
			for _, t := range c.tables() {
				table, err := parseTableName(t.Table)
				if err == nil && (dead == table || dead.name == table.name && dead.schema == "" && c.CheckpointSchema == "") {
					errs = append(errs, connect.Errorf("dead_letter_table", "%s is the table of the data: dead letters need another", dead))
					break
				}
			}
		}
	}
	if c.CheckpointSchema != "" {
		if n, err := parseTableName(c.CheckpointSchema); err != nil || n.schema != "" {
			errs = append(errs, connect.Errorf("checkpoint_schema", "%q is not the name of a schema", c.CheckpointSchema))
		}
	}
	return errors.Join(errs...)
}

// sameName says that two names are written for the same table, as far as that
// can be told without the database.
func sameName(a, b string) bool {
	x, errX := parseTableName(a)
	y, errY := parseTableName(b)
	return errX == nil && errY == nil && x == y
}

// password returns the password that overrides the URL's, and whether there is one.
func (c *SinkConfig) password() (string, bool, error) {
	if c.PasswordFile == "" {
		return c.Password.Reveal(), c.Password != "", nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", false, fmt.Errorf("password_file: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), true, nil
}

// tableName is a name as in SQL; schema is empty where none was given.
type tableName struct{ schema, name string }

func (n tableName) String() string {
	if n.schema == "" {
		return quoteName(n.name)
	}
	return quoteName(n.schema) + "." + quoteName(n.name)
}

// parseTableName reads name or schema.name. As in SQL, what is not quoted is
// folded to lower case, and "" in quotes is one quote.
func parseTableName(s string) (tableName, error) {
	var parts []string
	for rest := s; ; {
		part, after, err := parseName(rest)
		if err != nil {
			return tableName{}, fmt.Errorf("%q is not the name of a table: %w", s, err)
		}
		parts = append(parts, part)
		if after == "" {
			break
		}
		if after[0] != '.' {
			return tableName{}, fmt.Errorf("%q is not the name of a table: unexpected %q; quote names with special characters", s, after)
		}
		rest = after[1:]
	}
	switch len(parts) {
	case 1:
		return tableName{name: parts[0]}, nil
	case 2:
		return tableName{schema: parts[0], name: parts[1]}, nil
	}
	return tableName{}, fmt.Errorf("%q is not the name of a table: want name or schema.name; the database is part of the URL", s)
}

func parseName(s string) (name, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		var b strings.Builder
		for i := 1; i < len(s); i++ {
			if s[i] != '"' {
				b.WriteByte(s[i])
				continue
			}
			if i+1 < len(s) && s[i+1] == '"' {
				b.WriteByte('"')
				i++
				continue
			}
			if b.Len() == 0 {
				return "", "", errors.New("a name is empty")
			}
			return b.String(), s[i+1:], nil
		}
		return "", "", errors.New("a quote is not closed")
	}
	n := strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && r != '$' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r < 0x80
	})
	if n < 0 {
		n = len(s)
	}
	if n == 0 {
		return "", "", errors.New("a name is empty")
	}
	return strings.ToLower(s[:n]), s[n:], nil
}

// quoteName quotes an identifier where it needs it.
func quoteName(s string) string {
	plain := s != "" && !reserved[s]
	for i := range len(s) {
		c := s[i]
		plain = plain && (c == '_' || (c >= 'a' && c <= 'z') || (i > 0 && c >= '0' && c <= '9'))
	}
	if plain {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func quoteNames(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = quoteName(n)
	}
	return strings.Join(q, ", ")
}

// appendLiteral appends a string literal that means the same whatever
// standard_conforming_strings is.
func appendLiteral(dst []byte, s string) []byte {
	if strings.Contains(s, `\`) {
		dst = append(dst, " E"...)
		s = strings.ReplaceAll(s, `\`, `\\`)
	}
	dst = append(dst, '\'')
	dst = append(dst, strings.ReplaceAll(s, `'`, `''`)...)
	return append(dst, '\'')
}

func literal(s string) string { return strings.TrimPrefix(string(appendLiteral(nil, s)), " ") }

// reserved are the key words of PostgreSQL that cannot be column or table names
// without quotes (reserved, and those that can be function or type only).
var reserved = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(`all analyse analyze and any array as asc asymmetric authorization between binary both case cast check
		collate collation column concurrently constraint create cross current_catalog current_date current_role current_schema
		current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign
		freeze from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like
		limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
		returning right select session_user similar some symmetric system_user table tablesample then to trailing true union unique user
		using variadic verbose when where window with`) {
		m[w] = true
	}
	return m
}()
