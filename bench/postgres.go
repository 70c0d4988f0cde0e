package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The sides that load PostgreSQL.

// copySide is psql \copy of the whole topic from COPY files, one process each,
// all at once: the limit. A file's rows are in the order of the topic, because
// the order of rows alone moves the cost of the index.
func (b *Bench) copySide(name string, files ...string) Side {
	return Side{
		Name: name, Prepare: b.db.Reset, Verify: b.verify, Server: b.db.CPU,
		Run: func(ctx context.Context) (Measurement, error) {
			var procs []*process
			var failed error
			for _, f := range files {
				p, err := startProcess(ctx, childEnv(), b.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", b.db.URL,
					"-c", `\copy `+table+` FROM '`+f+`' (FORMAT binary)`)
				if err != nil {
					failed = errors.Join(failed, err)
					break
				}
				procs = append(procs, p)
			}
			var all Usage
			for _, p := range procs {
				u, err := p.Wait()
				failed = errors.Join(failed, err)
				all.Wall = max(all.Wall, p.started.Add(u.Wall).Sub(procs[0].started))
				all.CPU += u.CPU
				all.Peak += u.Peak
			}
			if failed != nil {
				return Measurement{}, failed
			}
			return measured(b.topic.Records, all), nil
		},
	}
}

// intoTable is a flow of Penstock, exactly once into the table.
func (b *Bench) intoTable(mode string, lanes int) flowSpec { return b.db.intoTable(mode, lanes) }

func (d *Database) intoTable(mode string, lanes int) flowSpec {
	return flowSpec{
		Sink:  fmt.Sprintf("postgres:\n  url: ${BENCH_DATABASE}\n  table: %s\n  mode: %s\n  key: [device_id, seq]\n", table, mode),
		Env:   []string{"BENCH_DATABASE=" + d.URL},
		Lanes: lanes, Progress: d.Progress,
	}
}

// penstockSide is Penstock's binary, exactly once into the table.
func (b *Bench) penstockSide(name, mode string, lanes int, prepare func(context.Context) error) Side {
	return Side{
		Name: name, Prepare: prepare, Verify: b.verify, Server: b.db.CPU,
		Run: func(ctx context.Context) (Measurement, error) {
			return b.penstock.Run(ctx, b.topic, b.intoTable(mode, lanes))
		},
	}
}

// handSide is the hand-written loop.
func (b *Bench) handSide(name string, lanes int) Side {
	return Side{
		Name: name, Verify: b.verify, Server: b.db.CPU,
		Prepare: func(ctx context.Context) error {
			_, err := b.db.conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS hand_position (partition int PRIMARY KEY, next_offset bigint NOT NULL)")
			if err == nil {
				err = b.db.Reset(ctx)
			}
			if err == nil {
				_, err = b.db.conn.Exec(ctx, "INSERT INTO hand_position SELECT generate_series(0, $1::int - 1), 0", partitions)
			}
			return err
		},
		Run: func(ctx context.Context) (Measurement, error) {
			u, _, err := b.loop(ctx, "hand", "-database", b.db.URL, "-lanes", strconv.Itoa(lanes), "-batch", strconv.Itoa(transactionRows))
			return measured(b.topic.Records, u), err
		},
	}
}

// transactionRows is the rows of one transaction of the loops: Penstock's default.
const transactionRows = 20_000

// loop runs this binary again as one of the loops.
func (b *Bench) loop(ctx context.Context, name string, args ...string) (Usage, string, error) {
	args = append([]string{
		"loop", name, "-brokers", strings.Join(b.topic.Brokers, ","), "-topic", b.topic.Name,
		"-records", strconv.Itoa(b.topic.Records),
	}, args...)
	p, err := startProcess(ctx, childEnv(), b.self, args...)
	if err != nil {
		return Usage{}, "", err
	}
	u, err := p.Wait()
	return u, p.out.String(), err
}

// full fills the table, so that all keys exist.
func (b *Bench) full(ctx context.Context) error {
	if err := b.db.Reset(ctx); err != nil {
		return err
	}
	if err := b.db.Fill(ctx, b.topic.File); err != nil {
		return err
	}
	// Statistics and hint bits as a table has them that was not filled this moment.
	if _, err := b.db.conn.Exec(ctx, "VACUUM ANALYZE "+table); err != nil {
		return err
	}
	return b.db.Checkpoint(ctx)
}

func (b *Bench) verify(ctx context.Context) error { return b.db.Verify(ctx, b.topic.Sums) }
