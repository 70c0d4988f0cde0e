package postgres

import (
	"errors"
	"fmt"
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

	Table string `yaml:"table" required:"true" doc:"Table to write, with its schema or without. Quote names as in SQL where they need it: public.\"Order Items\"."`

	Mode string `yaml:"mode" default:"append" enum:"append,ignore,upsert" doc:"append: every record is a new row. ignore: a record whose key is there already is left out. upsert: a record replaces the row of its key, and a tombstone deletes it."`

	Key []string `yaml:"key" doc:"Columns that identify a row. Needed for ignore and upsert, where they must have a unique index; with create_table they become the primary key."`

	CreateTable bool `yaml:"create_table" doc:"Create the table, from the columns that the flow decodes, if it does not exist."`

	DeadLetterTable string `yaml:"dead_letter_table" default:"penstock_dead_letter" doc:"Table for records that cannot be processed; in checkpoint_schema unless it names a schema. Created if missing."`

	CheckpointSchema string `yaml:"checkpoint_schema" doc:"Schema of the penstock_ tables. Default: the schema of the table."`

	MaxConnectionShare float64 `yaml:"max_connection_share" default:"0.6" doc:"Part of the connections that the server, the database and the role allow which this process may use; bounds the number of lanes."`

	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" doc:"How long one attempt to connect may take."`

	StatementTimeout time.Duration `yaml:"statement_timeout" default:"60s" doc:"How long one statement may run on the server."`

	LockTimeout time.Duration `yaml:"lock_timeout" default:"500ms" doc:"How long to wait for a checkpoint that somebody else has locked, before a predecessor that hangs is removed."`
}

// Validate refuses what cannot work with a *connect.FieldError.
func (c *SinkConfig) Validate() error {
	if _, err := parseURL(c.URL); err != nil {
		return connect.Errorf("url", "%w", err)
	}
	if c.Password != "" && c.PasswordFile != "" {
		return connect.Errorf("password_file", "give password or password_file, not both")
	}
	table, err := parseTableName(c.Table)
	if err != nil {
		return connect.Errorf("table", "%w", err)
	}
	if slices.Contains([]string{flowTable, checkpointTable, deadLetterTable}, table.name) {
		return connect.Errorf("table", "%s is one of the tables that Penstock keeps for itself", table)
	}
	if !slices.Contains([]string{"", ModeAppend, ModeIgnore, ModeUpsert}, c.Mode) {
		return connect.Errorf("mode", "%q is not a mode: want append, ignore or upsert", c.Mode)
	}
	if len(c.Key) == 0 && (c.Mode == ModeIgnore || c.Mode == ModeUpsert) {
		return connect.Errorf("key", "mode %s needs the columns that identify a row", c.Mode)
	}
	for i, k := range c.Key {
		if k == "" || slices.Contains(c.Key[:i], k) {
			return connect.Errorf("key", "column %q is empty or there twice", k)
		}
	}
	if c.DeadLetterTable != "" {
		dead, err := parseTableName(c.DeadLetterTable)
		if err != nil {
			return connect.Errorf("dead_letter_table", "%w", err)
		}
		if dead.name == flowTable || dead.name == checkpointTable {
			return connect.Errorf("dead_letter_table", "%s holds positions, not dead letters", dead)
		}
		// Where the schemas are not known yet, Open compares again.
		if dead == table || (dead.name == table.name && dead.schema == "" && c.CheckpointSchema == "") {
			return connect.Errorf("dead_letter_table", "%s is the table of the data: dead letters need another", dead)
		}
	}
	if c.CheckpointSchema != "" {
		if n, err := parseTableName(c.CheckpointSchema); err != nil || n.schema != "" {
			return connect.Errorf("checkpoint_schema", "%q is not the name of a schema", c.CheckpointSchema)
		}
	}
	if c.MaxConnectionShare < 0 || c.MaxConnectionShare > 1 {
		return connect.Errorf("max_connection_share", "%v is not between 0 and 1", c.MaxConnectionShare)
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"connect_timeout", c.ConnectTimeout}, {"statement_timeout", c.StatementTimeout}, {"lock_timeout", c.LockTimeout}} {
		if d.value < 0 || (d.value > 0 && d.value < time.Millisecond) {
			return connect.Errorf(d.path, "%s is too short: want at least 1ms", d.value)
		}
	}
	return nil
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
