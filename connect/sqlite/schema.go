package sqlite

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// The tables of the checkpoint. Their format is number formatVersion; docs/
// specifies it.
const (
	flowTable       = "penstock_flow"
	checkpointTable = "penstock_checkpoint"
	formatVersion   = 1
)

// ownTables creates what the sink keeps for itself. None is STRICT, so that older
// versions of SQLite can read the file.
func ownTables(deadLetters string) []string {
	return []string{
		`CREATE TABLE IF NOT EXISTS ` + flowTable + ` (
  flow           TEXT PRIMARY KEY NOT NULL,
  format_version INTEGER NOT NULL,
  cluster_id     TEXT NOT NULL,
  source         TEXT NOT NULL,
  target         TEXT NOT NULL,
  created_at     TEXT NOT NULL
)`,
		`CREATE TABLE IF NOT EXISTS ` + checkpointTable + ` (
  flow          TEXT NOT NULL,
  cluster_id    TEXT NOT NULL,
  topic         TEXT NOT NULL,
  partition     INTEGER NOT NULL,
  topic_id      TEXT NOT NULL,
  next_offset   INTEGER NOT NULL,
  leader_epoch  INTEGER NOT NULL,
  owner_epoch   INTEGER NOT NULL,
  owner_backend TEXT NOT NULL,
  updated_at    TEXT NOT NULL,
  PRIMARY KEY (flow, cluster_id, topic, partition)
) WITHOUT ROWID`,
		`CREATE TABLE IF NOT EXISTS ` + quote(deadLetters) + ` (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  flow         TEXT NOT NULL,
  cluster_id   TEXT NOT NULL,
  topic        TEXT NOT NULL,
  topic_id     TEXT NOT NULL,
  partition    INTEGER NOT NULL,
  "offset"     INTEGER NOT NULL,
  timestamp    TEXT NOT NULL,
  "key"        BLOB,
  value        BLOB,
  headers      TEXT NOT NULL,
  stage        TEXT NOT NULL,
  class        TEXT NOT NULL,
  column_name  TEXT NOT NULL,
  message      TEXT NOT NULL,
  created_at   TEXT NOT NULL,
  job          TEXT
)`,
		positionIndexDDL(deadLetters),
	}
}

// positionIndex finds the rows of a dead letter.
func positionIndex(deadLetters string) string { return deadLetters + "_position" }

func positionIndexDDL(deadLetters string) string {
	return fmt.Sprintf(`CREATE INDEX IF NOT EXISTS %s ON %s (flow, topic, partition, "offset")`, quote(positionIndex(deadLetters)), quote(deadLetters))
}

// tableColumn is one column of the target as it is.
type tableColumn struct {
	name, declared string
	notNull        bool
	hasDefault     bool
	generated      bool
	pk             int // place in the primary key, from 1; 0: it is not in it
}

func tableColumns(c *conn, table string) ([]tableColumn, error) {
	var cols []tableColumn
	err := c.run(func(s *stmt) error {
		hidden := s.int(4)
		cols = append(cols, tableColumn{
			name: s.text(0), declared: s.text(1), notNull: s.int(2) != 0, hasDefault: s.int(3) != 0,
			generated: hidden > 1, pk: int(s.int(5)),
		})
		return nil
	}, `SELECT name, type, "notnull", dflt_value IS NOT NULL, hidden, pk FROM pragma_table_xinfo(?)`, table)
	return cols, err
}

// target is a table that the flow writes.
type target struct {
	TableConfig
	fields []flow.Field
	cols   []tableColumn
}

// String is how messages name the table.
func (t *target) String() string {
	if t.Route == "" {
		return strconv.Quote(t.Table)
	}
	return fmt.Sprintf("%q (route %s)", t.Table, t.Route)
}

// createTable is the DDL of the table that the fields ask for.
func createTable(t *target, strict bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (\n", quote(t.Table))
	for _, f := range t.fields {
		fmt.Fprintf(&b, "  %s %s", quote(f.Name), storageType(f.Kind))
		if f.Required || slices.Contains(t.Key, f.Name) {
			b.WriteString(" NOT NULL")
		}
		b.WriteString(",\n")
	}
	if len(t.Key) > 0 {
		fmt.Fprintf(&b, "  PRIMARY KEY (%s)\n)", quoteAll(t.Key))
	} else {
		s := strings.TrimSuffix(b.String(), ",\n")
		b.Reset()
		b.WriteString(s + "\n)")
	}
	if strict {
		b.WriteString(" STRICT")
	}
	return b.String()
}

func storageType(k flow.Kind) string {
	switch k {
	case flow.KindBool, flow.KindInt64:
		return "INTEGER"
	case flow.KindFloat64:
		return "REAL"
	case flow.KindBytes:
		return "BLOB"
	case flow.KindDecimal, flow.KindString, flow.KindTimestamp, flow.KindDate, flow.KindJSON, flow.KindList:
		return "TEXT"
	default:
		return "TEXT"
	}
}

// prepareTargets checks the tables against the fields of their routes, and
// creates those that it is asked to. What needs a person is fatal, and said of all
// tables at once.
func prepareTargets(c *conn, cfg *SinkConfig, setup flow.Setup) ([]target, error) {
	var targets []target
	var errs []error
	created := map[string][]flow.Field{} // by name in lower case
	for i, table := range cfg.tables() {
		t := target{TableConfig: table, fields: setup.Fields}
		if setup.Routes != nil {
			t.fields = setup.Routes[i]
		}
		err := t.prepare(c, cfg, created)
		if err == nil {
			err = t.checkStatement(c)
		}
		switch {
		case err == nil:
		case flow.ClassOf(err) == flow.ClassFatal:
			errs = append(errs, err)
		default:
			return nil, err
		}
		targets = append(targets, t)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, flow.Fatal(err)
	}
	return targets, nil
}

func (t *target) prepare(c *conn, cfg *SinkConfig, created map[string][]flow.Field) error {
	if len(t.fields) == 0 {
		return flow.Fatal(fmt.Errorf("the SQLite sink writes columns, and nothing makes any for table %s: add a decode section", t))
	}
	// Before the table is made with a key that it cannot have.
	if f := t.keyFault(); f != nil {
		return flow.Fatal(f)
	}
	var err error
	if t.cols, err = tableColumns(c, t.Table); err != nil {
		return err
	}
	other, made := created[strings.ToLower(t.Table)]
	switch {
	case made && !slices.EqualFunc(t.fields, other, func(a, b flow.Field) bool { return a.Name == b.Name && a.Type == b.Type }):
		return flow.Fatal(fmt.Errorf("%s has no table %s, and another route, which writes it, too, decodes other columns: create it with the columns of both", cfg.Path, t))
	case len(t.cols) == 0:
		ddl := createTable(t, cfg.Strict)
		if !t.CreateTable {
			return flow.Fatal(t.absent(cfg, ddl))
		}
		if err := c.exec(ddl); err != nil {
			return fmt.Errorf("creating the table: %w\n%s;", err, ddl)
		}
		created[strings.ToLower(t.Table)] = t.fields
		if t.cols, err = tableColumns(c, t.Table); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range t.faults() {
		errs = append(errs, f)
	}
	return flow.Fatal(errors.Join(errs...))
}

func (t *target) absent(cfg *SinkConfig, ddl string) *fault {
	return &fault{"", fmt.Sprintf("%s has no table %s", cfg.Path, t), "set create_table, or create it:\n" + ddl + ";"}
}

// fault is what keeps a flow from writing a table.
type fault struct {
	// column is the flow's or the table's column at fault; empty if it is the table.
	column string
	text   string
	mend   string // how; empty if the text says so
}

func (f *fault) Error() string {
	if f.mend == "" {
		return f.text
	}
	return f.text + ": " + f.mend
}

func (t *target) keyFault() *fault {
	for _, k := range t.Key {
		if !slices.ContainsFunc(t.fields, func(f flow.Field) bool { return f.Name == k }) {
			return &fault{k, fmt.Sprintf("key column %q of table %s is not among the decoded columns (%s)", k, t, fieldNames(t.fields)), "decode it"}
		}
	}
	return nil
}

// faults are those of the columns.
func (t *target) faults() []*fault {
	var faults []*fault
	for _, f := range t.fields {
		c := t.column(f.Name)
		switch {
		case c == nil:
			faults = append(faults, &fault{
				f.Name, fmt.Sprintf("table %s has no column %q (it has %s)", t, f.Name, columnNames(t.cols)),
				fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s;", quote(t.Table), quote(f.Name), storageType(f.Kind)),
			})
		case c.generated:
			faults = append(faults, &fault{f.Name, fmt.Sprintf("column %q of table %s is computed by the database and cannot be written", f.Name, t), "leave it out of the flow's columns"})
		}
	}
	for _, c := range t.cols {
		if c.notNull && !c.filled() && !slices.ContainsFunc(t.fields, func(f flow.Field) bool { return strings.EqualFold(c.name, f.Name) }) {
			faults = append(faults, &fault{c.name, fmt.Sprintf("column %q of table %s must not be null and has no default, and nothing is decoded into it", c.name, t), "decode it, or give it a default"})
		}
	}
	return faults
}

func (t *target) column(name string) *tableColumn {
	for i := range t.cols {
		if strings.EqualFold(t.cols[i].name, name) {
			return &t.cols[i]
		}
	}
	return nil
}

// filled says that the database fills the column by itself.
func (c *tableColumn) filled() bool {
	rowid := c.pk == 1 && strings.EqualFold(c.declared, "INTEGER")
	return c.hasDefault || c.generated || rowid
}

// insertSQL is the statement that writes one row.
func (t *target) insertSQL() string {
	names := make([]string, len(t.fields))
	for i, f := range t.fields {
		names[i] = f.Name
	}
	sql := fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)", quote(t.Table), quoteAll(names), strings.Repeat(", ?", len(names)-1))
	if t.Mode == ModeAppend {
		return sql
	}
	var set []string
	for _, n := range names {
		if !slices.Contains(t.Key, n) {
			set = append(set, quote(n)+" = excluded."+quote(n))
		}
	}
	sql += " ON CONFLICT (" + quoteAll(t.Key) + ") DO "
	if t.Mode == ModeIgnore || len(set) == 0 {
		return sql + "NOTHING"
	}
	return sql + "UPDATE SET " + strings.Join(set, ", ")
}

// deleteSQL is the statement that a tombstone becomes.
func (t *target) deleteSQL() string {
	where := make([]string, len(t.Key))
	for i, k := range t.Key {
		where[i] = quote(k) + " = ?"
	}
	return fmt.Sprintf("DELETE FROM %s WHERE %s", quote(t.Table), strings.Join(where, " AND "))
}

// checkStatement prepares what the writer will run: SQLite itself says
// whether the key has an index, and whatever else does not fit.
func (t *target) checkStatement(c *conn) error {
	s, err := c.prepare(t.insertSQL())
	if err == nil {
		s.finalize()
		return nil
	}
	if strings.Contains(err.Error(), "ON CONFLICT clause does not match") {
		return flow.Fatal(&fault{
			"", fmt.Sprintf("table %s has no primary key or unique index over exactly (%s), which mode %s needs", t, strings.Join(t.Key, ", "), t.Mode),
			fmt.Sprintf("CREATE UNIQUE INDEX %s ON %s (%s);", quote(t.Table+"_key"), quote(t.Table), quoteAll(t.Key)),
		})
	}
	return fmt.Errorf("the statement that writes a row into %s: %w", t, err)
}

func fieldNames(fields []flow.Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return strings.Join(names, ", ")
}

func columnNames(cols []tableColumn) string {
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}
