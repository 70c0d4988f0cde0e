package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const table = "telemetry"

// Database is the benchmark's own database on the server, with one connection
// for what surrounds the measurements.
type Database struct {
	URL string

	name  string
	admin string // URL of the database that this one was made from
	conn  *pgx.Conn
	// server is the process id of the server's first process, 0 where it runs
	// elsewhere.
	server int
}

// openDatabase makes a database and the table in it.
func openDatabase(ctx context.Context, admin string) (_ *Database, err error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("PostgreSQL must be given as a URL: postgres://user@host:port/database")
	}
	d := &Database{name: "penstock_bench_" + strconv.Itoa(os.Getpid()), admin: admin}
	if err := d.inAdmin(ctx, "CREATE DATABASE "+d.name+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"); err != nil {
		return nil, fmt.Errorf("making a database for the benchmark: %w", err)
	}
	u.Path = "/" + d.name
	d.URL = u.String()
	if err := d.Connect(ctx); err != nil {
		return nil, errors.Join(err, d.Close(context.WithoutCancel(ctx)))
	}
	_, err = d.conn.Exec(ctx, `CREATE TABLE `+table+` (
		device_id text NOT NULL,
		seq       bigint NOT NULL,
		ts        timestamptz,
		temp      double precision,
		payload   text,
		PRIMARY KEY (device_id, seq)
	) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)`)
	if err != nil {
		return nil, errors.Join(err, d.Close(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// Connect connects, again if the server was started anew.
func (d *Database) Connect(ctx context.Context) (err error) {
	if d.conn != nil {
		_ = d.conn.Close(ctx) // broken, as a rule
	}
	if d.conn, err = pgx.Connect(ctx, d.URL); err == nil {
		d.server = parentPID(int(d.conn.PgConn().PID()))
	}
	return err
}

func (d *Database) inAdmin(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, d.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what it was for has its own error
	_, err = conn.Exec(ctx, sql)
	return err
}

// Close drops the database.
func (d *Database) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var err error
	if d.conn != nil {
		err = d.conn.Close(ctx)
	}
	return errors.Join(err, d.inAdmin(ctx, "DROP DATABASE IF EXISTS "+d.name+" WITH (FORCE)"))
}

// Settings are those of the server that bear on the figures, with its version.
func (d *Database) Settings(ctx context.Context) (map[string]string, error) {
	rows, err := d.conn.Query(ctx, `SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)`, []string{
		"server_version", "shared_buffers", "wal_level", "max_wal_size", "checkpoint_timeout", "fsync",
		"synchronous_commit", "full_page_writes", "wal_compression", "autovacuum",
	})
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	return settings, err
}

// Reset empties the table and every table that Penstock keeps, and has the
// server write out what it holds.
func (d *Database) Reset(ctx context.Context) error {
	var names []string
	err := d.conn.QueryRow(ctx, `SELECT array_agg(format('%I.%I', schemaname, tablename))
		FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`).Scan(&names)
	if err == nil {
		_, err = d.conn.Exec(ctx, "TRUNCATE "+strings.Join(names, ", "))
	}
	if err == nil {
		err = d.Checkpoint(ctx)
	}
	return err
}

// Checkpoint has the server write out what it holds.
func (d *Database) Checkpoint(ctx context.Context) error {
	_, err := d.conn.Exec(ctx, "CHECKPOINT")
	return err
}

// Fill loads the rows of a COPY file, outside of any measurement.
func (d *Database) Fill(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	_, err = d.conn.PgConn().CopyFrom(ctx, f, "COPY "+table+" FROM STDIN (FORMAT binary)")
	return err
}

// sums are what the rows of a table add up to. The primary key sees to it that
// no row is there twice.
type sums struct{ rows, seqs, payload int64 }

// next adds record i, and returns a copy of its JSON.
func (s *sums) next(g *generator, i int) []byte {
	raw := bytes.Clone(g.JSON(i))
	s.rows++
	s.seqs += int64(i / devices)
	s.payload += int64(recordSize - len(`"}`) - g.payloadAt)
	return raw
}

// Verify compares what the table holds with what it must hold: a side that is
// fast because it loses rows is no side.
func (d *Database) Verify(ctx context.Context, want sums) error {
	var got sums
	err := d.conn.QueryRow(ctx, `SELECT count(*), coalesce(sum(seq), 0)::bigint, coalesce(sum(length(payload)), 0) FROM `+table).
		Scan(&got.rows, &got.seqs, &got.payload)
	if err != nil {
		return err
	}
	return want.compare(got)
}

func (s sums) compare(got sums) error {
	if got != s {
		return fmt.Errorf("the table holds %d rows (sum of seq %d, %d payload bytes), want %d (%d, %d)",
			got.rows, got.seqs, got.payload, s.rows, s.seqs, s.payload)
	}
	return nil
}

// Progress is how many records the flow's checkpoint has passed: the topics
// here begin at offset 0 and have no gaps.
func (d *Database) Progress(ctx context.Context, flow string) (int64, error) {
	return d.progressUpTo(ctx, flow, math.MaxInt64)
}

// progressUpTo counts only so many offsets of each partition.
func (d *Database) progressUpTo(ctx context.Context, flow string, offset int64) (n int64, err error) {
	err = d.conn.QueryRow(ctx, `SELECT coalesce(sum(least(next_offset, $2)), 0)::bigint FROM penstock_checkpoint WHERE flow = $1`, flow, offset).Scan(&n)
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "42P01" {
		return 0, nil // the flow has not made its tables yet
	}
	return n, err
}

// CPU is the processor time that the server has used so far, all its processes
// together; 0 where it cannot be read.
func (d *Database) CPU() time.Duration {
	if d.server == 0 {
		return 0
	}
	// A process that ends moves its time to its parent's. Should that happen
	// while they are read, they are read again.
	var ticks int64
	for range 20 {
		before, children := childrenOf(d.server)
		_, ticks = procStat(d.server)
		ticks += children
		if after, _ := childrenOf(d.server); after == before {
			break
		}
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 on every Linux that Go runs on
}

// childrenOf returns the process ids of a process's children, as one string,
// and their processor time together in ticks.
func childrenOf(pid int) (ids string, ticks int64) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return "", 0
	}
	for _, path := range all {
		id := filepath.Base(filepath.Dir(path))
		n, err := strconv.Atoi(id)
		if err != nil {
			continue
		}
		if parent, own := procStat(n); parent == pid {
			ids += id + " "
			ticks += own
		}
	}
	return ids, ticks
}

// procStat returns a process's parent, and its processor time in ticks: its
// own and that of children that have ended.
func procStat(pid int) (parent int, ticks int64) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	// The name, in parentheses, may hold anything; fields are counted after it.
	_, rest, ok := strings.Cut(string(raw[max(0, strings.LastIndexByte(string(raw), ')')):]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 15 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(f[1]) // the kernel writes numbers
	for _, s := range f[11:15] {   // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(s, 10, 64)
		ticks += n
	}
	return parent, ticks
}

func parentPID(pid int) int {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil || !strings.HasPrefix(string(raw), "postgres") {
		return 0 // another machine's process id
	}
	parent, _ := procStat(pid)
	return parent
}
