package sqlite

import (
	"errors"
	"fmt"
	"slices"
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
  id           INTEGER PRIMARY KEY,
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
  created_at   TEXT NOT NULL
)`,
	}
}

// tableColumn is one column of the target as it is.
type tableColumn struct {
	name, declared string
	notNull        bool
	hasDefault     bool
	generated      bool
	pk             bool
}

func tableColumns(c *conn, table string) ([]tableColumn, error) {
	var cols []tableColumn
	err := c.run(func(s *stmt) error {
		hidden := s.int(4)
		cols = append(cols, tableColumn{
			name: s.text(0), declared: s.text(1), notNull: s.int(2) != 0, hasDefault: s.int(3) != 0,
			generated: hidden > 1, pk: s.int(5) != 0,
		})
		return nil
	}, `SELECT name, type, "notnull", dflt_value IS NOT NULL, hidden, pk FROM pragma_table_xinfo(?)`, table)
	return cols, err
}

// createTable is the DDL of the table that the fields ask for.
func createTable(cfg *SinkConfig, fields []flow.Field) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (\n", quote(cfg.Table))
	for _, f := range fields {
		fmt.Fprintf(&b, "  %s %s", quote(f.Name), storageType(f.Kind))
		if f.Required || slices.Contains(cfg.Key, f.Name) {
			b.WriteString(" NOT NULL")
		}
		b.WriteString(",\n")
	}
	if len(cfg.Key) > 0 {
		fmt.Fprintf(&b, "  PRIMARY KEY (%s)\n)", quoteAll(cfg.Key))
	} else {
		s := strings.TrimSuffix(b.String(), ",\n")
		b.Reset()
		b.WriteString(s + "\n)")
	}
	if cfg.Strict {
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

// prepareTarget checks the target table against the fields, and creates it if
// asked to. Errors are fatal: they need a person.
func prepareTarget(c *conn, cfg *SinkConfig, fields []flow.Field) ([]tableColumn, error) {
	if len(fields) == 0 {
		return nil, flow.Fatal(errors.New("the SQLite sink writes columns, and nothing in this flow makes any: add a decode section"))
	}
	for _, k := range cfg.Key {
		if !slices.ContainsFunc(fields, func(f flow.Field) bool { return f.Name == k }) {
			return nil, flow.Fatal(fmt.Errorf("key column %q is not among the decoded columns (%s)", k, fieldNames(fields)))
		}
	}
	cols, err := tableColumns(c, cfg.Table)
	if err != nil {
		return nil, err
	}
	if len(cols) == 0 {
		ddl := createTable(cfg, fields)
		if !cfg.CreateTable {
			return nil, flow.Fatal(fmt.Errorf("%s has no table %q; set create_table, or create it:\n%s;", cfg.Path, cfg.Table, ddl))
		}
		if err := c.exec(ddl); err != nil {
			return nil, fmt.Errorf("creating the table: %w\n%s;", err, ddl)
		}
		if cols, err = tableColumns(c, cfg.Table); err != nil {
			return nil, err
		}
	}
	for _, f := range fields {
		i := slices.IndexFunc(cols, func(t tableColumn) bool { return strings.EqualFold(t.name, f.Name) })
		switch {
		case i < 0:
			return nil, flow.Fatal(fmt.Errorf("table %q has no column %q (it has %s): ALTER TABLE %s ADD COLUMN %s %s;",
				cfg.Table, f.Name, columnNames(cols), quote(cfg.Table), quote(f.Name), storageType(f.Kind)))
		case cols[i].generated:
			return nil, flow.Fatal(fmt.Errorf("column %q of table %q is computed by the database and cannot be written", f.Name, cfg.Table))
		}
	}
	for _, t := range cols {
		rowid := t.pk && strings.EqualFold(t.declared, "INTEGER")
		if t.notNull && !t.hasDefault && !t.generated && !rowid &&
			!slices.ContainsFunc(fields, func(f flow.Field) bool { return strings.EqualFold(t.name, f.Name) }) {
			return nil, flow.Fatal(fmt.Errorf("column %q of table %q must not be null and has no default, and nothing is decoded into it", t.name, cfg.Table))
		}
	}
	return cols, nil
}

// insertSQL is the statement that writes one row.
func insertSQL(cfg *SinkConfig, fields []flow.Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	sql := fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)", quote(cfg.Table), quoteAll(names), strings.Repeat(", ?", len(names)-1))
	if cfg.Mode == ModeAppend {
		return sql
	}
	var set []string
	for _, n := range names {
		if !slices.Contains(cfg.Key, n) {
			set = append(set, quote(n)+" = excluded."+quote(n))
		}
	}
	sql += " ON CONFLICT (" + quoteAll(cfg.Key) + ") DO "
	if cfg.Mode == ModeIgnore || len(set) == 0 {
		return sql + "NOTHING"
	}
	return sql + "UPDATE SET " + strings.Join(set, ", ")
}

// deleteSQL is the statement that a tombstone becomes.
func deleteSQL(cfg *SinkConfig) string {
	where := make([]string, len(cfg.Key))
	for i, k := range cfg.Key {
		where[i] = quote(k) + " = ?"
	}
	return fmt.Sprintf("DELETE FROM %s WHERE %s", quote(cfg.Table), strings.Join(where, " AND "))
}

// checkStatements prepares what the writer will run: SQLite itself says
// whether the key has an index, and whatever else does not fit.
func checkStatements(c *conn, cfg *SinkConfig, fields []flow.Field) error {
	s, err := c.prepare(insertSQL(cfg, fields))
	if err == nil {
		s.finalize()
		return nil
	}
	if strings.Contains(err.Error(), "ON CONFLICT clause does not match") {
		return flow.Fatal(fmt.Errorf("table %q has no primary key or unique index over exactly (%s), which mode %s needs: "+
			"CREATE UNIQUE INDEX %s ON %s (%s);", cfg.Table, strings.Join(cfg.Key, ", "), cfg.Mode,
			quote(cfg.Table+"_key"), quote(cfg.Table), quoteAll(cfg.Key)))
	}
	return fmt.Errorf("the statement that writes a row into %q: %w", cfg.Table, err)
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
