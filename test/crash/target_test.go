package crash

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

// target is a database that flows write to.
type target struct {
	t      *testing.T
	driver string
	// dsn is how the test reaches the database; url how the flow does, which
	// may be through a proxy.
	dsn, url string
	db       *sql.DB
}

// The table numbers rows as they are inserted, which shows their order. It has
// no key that could refuse a duplicate.
const (
	pgTable     = "CREATE TABLE t (row_id bigint GENERATED ALWAYS AS IDENTITY, device_id text, seq bigint, part int, off bigint)"
	sqliteTable = "CREATE TABLE t (device_id TEXT, seq INTEGER, part INTEGER, off INTEGER)"
)

func postgresTarget(t *testing.T) *target {
	t.Helper()
	return newPostgresTarget(t, testservice.Postgres(t))
}

func newPostgresTarget(t *testing.T, url string) *target {
	t.Helper()
	d := &target{t: t, driver: "pgx", dsn: url, url: url}
	d.open(pgTable)
	return d
}

func sqliteTarget(t *testing.T) *target {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.db")
	d := &target{t: t, driver: "sqlite", dsn: "file:" + path + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)", url: path}
	d.open(sqliteTable)
	return d
}

func (d *target) open(table string) {
	d.t.Helper()
	db, err := sql.Open(d.driver, d.dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	db.SetMaxOpenConns(2)
	d.db = db
	d.t.Cleanup(func() { _ = db.Close() })
	if table != "" {
		d.exec(table)
	}
}

func (d *target) exec(query string) {
	d.t.Helper()
	if _, err := d.db.ExecContext(d.t.Context(), query); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
}

// sink is the flow's sink section.
func (d *target) sink() string {
	if d.driver == "sqlite" {
		// Killing a process does not lose what the system has: no fsync needed.
		return fmt.Sprintf("  sqlite:\n    path: %q\n    table: t\n    synchronous: normal\n", d.url)
	}
	return fmt.Sprintf("  postgres:\n    url: %q\n    table: public.t\n", d.url)
}

// count is how many rows there are. It is 0 while the database does not answer.
func (d *target) count(query string) int {
	ctx, cancel := context.WithTimeout(d.t.Context(), 5*time.Second)
	defer cancel()
	var n int
	if err := d.db.QueryRowContext(ctx, query).Scan(&n); err != nil {
		return 0
	}
	return n
}

func (d *target) rowCount() int  { return d.count("SELECT count(*) FROM t") }
func (d *target) deadCount() int { return d.count("SELECT count(*) FROM penstock_dead_letter") }

// rows are all rows, in the order of their insertion.
func (d *target) rows() []row {
	d.t.Helper()
	order := "row_id"
	if d.driver == "sqlite" {
		order = "rowid"
	}
	var all []row
	d.query("SELECT part, off, device_id, seq FROM t ORDER BY "+order, func(scan func(...any) error) error {
		var r row
		err := scan(&r.part, &r.off, &r.device, &r.seq)
		all = append(all, r)
		return err
	})
	return all
}

// dead are the positions of all dead letters.
func (d *target) dead() []place {
	d.t.Helper()
	var all []place
	d.query(`SELECT partition, "offset" FROM penstock_dead_letter`, func(scan func(...any) error) error {
		var p place
		err := scan(&p.part, &p.off)
		all = append(all, p)
		return err
	})
	return all
}

func (d *target) query(query string, each func(scan func(...any) error) error) {
	d.t.Helper()
	rows, err := d.db.QueryContext(d.t.Context(), query)
	if err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			d.t.Fatalf("%s: %v", query, err)
		}
	}
	if err := rows.Err(); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
}
