package rig

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	_ "modernc.org/sqlite"             // the driver sqlite

	"github.com/penstockdev/penstock/internal/testservice"
)

// Target is what flows write to: a database, or topics.
type Target struct {
	T      *testing.T
	Driver string
	// DSN is how the test reaches the database; URL how the flow does, which
	// may be through a proxy.
	DSN, URL string
	db       *sql.DB
	copy     *copyTopics // in place of the database
}

// The tables number rows as they are inserted, which shows their order. They
// have no key that could refuse a duplicate.
const (
	PostgresTable = "CREATE TABLE t (row_id bigint GENERATED ALWAYS AS IDENTITY, device_id text, seq bigint, part int, off bigint)"
	SQLiteTable   = "CREATE TABLE t (device_id TEXT, seq INTEGER, part INTEGER, off INTEGER)"
)

// Postgres is a database of the test's own with an empty PostgresTable.
func Postgres(t *testing.T) *Target {
	t.Helper()
	return PostgresAt(t, testservice.Postgres(t), PostgresTable)
}

// PostgresAt is the database of that URL, with a table t that is made here.
func PostgresAt(t *testing.T, url, table string) *Target {
	t.Helper()
	return newTarget(t, "pgx", url, url, table)
}

// SQLite is a database file of the test's own with an empty SQLiteTable.
func SQLite(t *testing.T) *Target {
	t.Helper()
	return SQLiteWith(t, SQLiteTable)
}

// SQLiteWith is a database file of the test's own, with a table t that is made
// here.
func SQLiteWith(t *testing.T, table string) *Target {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.db")
	return newTarget(t, "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)", path, table)
}

func newTarget(t *testing.T, driver, dsn, url, table string) *Target {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(2)
	t.Cleanup(func() { _ = db.Close() })
	d := &Target{T: t, Driver: driver, DSN: dsn, URL: url, db: db}
	d.Exec(table)
	return d
}

// Exec runs a statement.
func (d *Target) Exec(query string) {
	d.T.Helper()
	if _, err := d.db.ExecContext(d.T.Context(), query); err != nil {
		d.T.Fatalf("%s: %v", query, err)
	}
}

// sink is the flow's sink section.
func (d *Target) sink() string {
	switch d.Driver {
	case "kafka":
		return d.copy.sink()
	case "sqlite":
		// Killing a process does not lose what the system has: no fsync needed.
		return fmt.Sprintf("  sqlite:\n    path: %q\n    table: t\n    synchronous: normal\n", d.URL)
	}
	return fmt.Sprintf("  postgres:\n    url: %q\n    table: public.t\n", d.URL)
}

// Count is how many rows there are. It is 0 while the database does not answer.
func (d *Target) Count(query string) int {
	ctx, cancel := context.WithTimeout(d.T.Context(), 5*time.Second)
	defer cancel()
	var n int
	if err := d.db.QueryRowContext(ctx, query).Scan(&n); err != nil {
		return 0
	}
	return n
}

// RowCount is how many rows there are, 0 while the database does not answer.
func (d *Target) RowCount() int {
	if d.copy != nil {
		n, _ := d.copy.count()
		return n
	}
	return d.Count("SELECT count(*) FROM t")
}

// DeadCount is how many dead letters there are.
func (d *Target) DeadCount() int {
	if d.copy != nil {
		_, n := d.copy.count()
		return n
	}
	return d.Count("SELECT count(*) FROM penstock_dead_letter")
}

// Doubled says whether a row is there twice by now.
func (d *Target) Doubled() bool {
	if d.copy != nil {
		return d.copy.doubled()
	}
	return d.Count("SELECT count(*) FROM (SELECT 1 FROM t GROUP BY part, off HAVING count(*) > 1) AS d") > 0
}

// Rows are all rows, in the order of their insertion.
func (d *Target) Rows() []Row {
	d.T.Helper()
	if d.copy != nil {
		rows, _, err := d.copy.seen()
		if err != nil {
			d.T.Error(err)
		}
		return rows
	}
	order := "row_id"
	if d.Driver == "sqlite" {
		order = "rowid"
	}
	var all []Row
	d.Query("SELECT part, off, device_id, seq FROM t ORDER BY "+order, func(scan func(...any) error) error {
		var r Row
		err := scan(&r.Part, &r.Off, &r.Device, &r.Seq)
		all = append(all, r)
		return err
	})
	return all
}

// Dead are the positions of all dead letters.
func (d *Target) Dead() []Place {
	d.T.Helper()
	if d.copy != nil {
		_, dead, _ := d.copy.seen()
		return dead
	}
	var all []Place
	d.Query(`SELECT partition, "offset" FROM penstock_dead_letter`, func(scan func(...any) error) error {
		var p Place
		err := scan(&p.Part, &p.Off)
		all = append(all, p)
		return err
	})
	return all
}

// Query calls each for every row of a query's result.
func (d *Target) Query(query string, each func(scan func(...any) error) error) {
	d.T.Helper()
	rows, err := d.db.QueryContext(d.T.Context(), query)
	if err != nil {
		d.T.Fatalf("%s: %v", query, err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err is looked at
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			d.T.Fatalf("%s: %v", query, err)
		}
	}
	if err := rows.Err(); err != nil {
		d.T.Fatalf("%s: %v", query, err)
	}
}
