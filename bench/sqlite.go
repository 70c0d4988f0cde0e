package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver that both sides use
)

// The sides that load SQLite.

// sqliteTable is the same for both sides.
const sqliteTable = `CREATE TABLE ` + table + ` (
	device_id TEXT NOT NULL, seq INTEGER NOT NULL, ts TEXT, temp REAL, payload TEXT,
	PRIMARY KEY (device_id, seq)
)`

// sqliteTime is how Penstock stores a timestamptz.
const sqliteTime = "2006-01-02T15:04:05.000000Z07:00"

// openSQLite opens a file with the settings that Penstock gives it by default.
func openSQLite(path string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+path+"?_pragma="+strings.Join([]string{
		"busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "temp_store(memory)", "cache_size(-32768)", "wal_autocheckpoint(8192)",
	}, "&_pragma="))
}

// sqliteFile is the target of the SQLite sides.
type sqliteFile struct{ path string }

// Reset makes a new file with the empty table.
func (s sqliteFile) Reset(ctx context.Context) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(s.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	db, err := openSQLite(s.path)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, sqliteTable)
	return errors.Join(err, db.Close())
}

// Verify compares what the table holds with what it must hold.
func (s sqliteFile) Verify(ctx context.Context, want sums) error {
	db, err := openSQLite(s.path)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // only read
	var got sums
	err = db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(seq), 0), coalesce(sum(length(payload)), 0) FROM `+table).
		Scan(&got.rows, &got.seqs, &got.payload)
	if err != nil {
		return err
	}
	return want.compare(got)
}

// sqliteBareSide is a loop with a prepared statement: the limit.
func (b *Bench) sqliteBareSide(name string) Side {
	file := sqliteFile{filepath.Join(b.dir, "bare.db")}
	return Side{
		Name: name, Prepare: file.Reset,
		Verify: func(ctx context.Context) error { return file.Verify(ctx, b.topic.Sums) },
		Run: func(ctx context.Context) (Measurement, error) {
			u, _, err := b.loop(ctx, "sqlite", "-database", file.path, "-file", b.topic.File, "-batch", strconv.Itoa(transactionRows))
			return measured(b.topic.Records, u), err
		},
	}
}

// sqlitePenstockSide is Penstock's binary, exactly once into the file.
func (b *Bench) sqlitePenstockSide(name string) Side {
	file := sqliteFile{filepath.Join(b.dir, "penstock.db")}
	return Side{
		Name: name, Prepare: file.Reset,
		Verify: func(ctx context.Context) error { return file.Verify(ctx, b.topic.Sums) },
		Run: func(ctx context.Context) (m Measurement, err error) {
			db, err := openSQLite(file.path)
			if err != nil {
				return m, err
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			return b.penstock.Run(ctx, b.topic, flowSpec{
				Lanes: 1,
				Sink:  fmt.Sprintf("sqlite:\n  path: %q\n  table: %s\n", file.path, table),
				Progress: func(ctx context.Context, flow string) (n int64, err error) {
					err = db.QueryRowContext(ctx, `SELECT coalesce(sum(next_offset), 0) FROM penstock_checkpoint WHERE flow = ?`, flow).Scan(&n)
					if err != nil && strings.Contains(err.Error(), "no such table") {
						return 0, nil // the flow has not made its tables yet
					}
					return n, err
				},
			})
		},
	}
}

// sqliteLoop inserts the rows of a COPY file one by one with one prepared
// statement, so many in a transaction.
func sqliteLoop(ctx context.Context, o loopOptions) (err error) {
	f, err := os.Open(o.File)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	rows, err := newCopyReader(f)
	if err != nil {
		return err
	}
	db, err := openSQLite(o.Database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	insert, err := db.PrepareContext(ctx, "INSERT INTO "+table+" (device_id, seq, ts, temp, payload) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer insert.Close() //nolint:errcheck // everything is committed, or the process fails
	for more := true; more; {
		if more, err = sqliteTransaction(ctx, db, insert, rows, o.Batch); err != nil {
			return err
		}
	}
	return nil
}

// sqliteTransaction writes up to n rows and reports whether there may be more.
func sqliteTransaction(ctx context.Context, db *sql.DB, insert *sql.Stmt, rows *copyReader, n int) (more bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()               //nolint:errcheck // after Commit it does nothing
	st := tx.StmtContext(ctx, insert) //nolint:sqlclosecheck // the transaction closes it
	for range n {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) {
			return false, tx.Commit()
		}
		if err != nil {
			return false, err
		}
		ts := time.UnixMicro(row.TS).UTC().Format(sqliteTime)
		if _, err := st.ExecContext(ctx, row.Device, row.Seq, ts, row.Temp, row.Payload); err != nil {
			return false, err
		}
	}
	return true, tx.Commit()
}
