package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The parts of the benchmark: which sides are compared, and what the figures
// are to reach.

// Names of sides.
const (
	copyOne     = `\copy × 1`
	copyTwo     = `\copy × 2`
	penstockOne = "penstock, 1 lane"
	penstockTwo = "penstock, 2 lanes"
	handOne     = "hand-written loop × 1"
	handTwo     = "hand-written loop × 2"
	naive       = "INSERT + commit a message"
	sqliteBare  = "bare loop"
	sqliteOurs  = "penstock"
)

func (b *Bench) size(context.Context) error {
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	b.report.add("size", nil, figure("size", "binary", "MB", Goal{AtMost: 40}, float64(info.Size())/1e6))
	return nil
}

func (b *Bench) appendRows(ctx context.Context) error {
	ms, err := alternate(ctx, b.out, []Side{
		b.copySide(copyOne, b.topic.File),
		b.copySide(copyTwo, b.topic.Halves[:]...),
		b.penstockSide(penstockTwo, "append", 2, b.db.Reset),
		b.penstockSide(penstockOne, "append", 1, b.db.Reset),
		b.handSide(handOne, 1),
		b.handSide(handTwo, 2),
	}, b.opts.Pairs)
	if err != nil {
		return err
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	limit := larger(of(copyOne, rate), of(copyTwo, rate))
	const p = "append"
	b.report.add(p, ms,
		figure(p, "rate: 2 lanes to the better \\copy", "×", Goal{AtLeast: 0.9}, paired(of(penstockTwo, rate), limit)...),
		figure(p, "rate: 2 lanes to the better \\copy, from ready", "×", Goal{}, paired(of(penstockTwo, readyRate), limit)...),
		figure(p, "time: 1 lane to one \\copy", "×", Goal{AtMost: 1.1}, paired(of(penstockOne, seconds), of(copyOne, seconds))...),
		figure(p, "time: 2 lanes to one \\copy", "×", Goal{}, paired(of(penstockTwo, seconds), of(copyOne, seconds))...),
		figure(p, "time: hand-written × 1 to one \\copy", "×", Goal{}, paired(of(handOne, seconds), of(copyOne, seconds))...),
		figure(p, "rate: hand-written × 2 to the better \\copy", "×", Goal{}, paired(of(handTwo, rate), limit)...),
		figure(p, "CPU, 2 lanes", "s/million", Goal{AtMost: 1.8}, of(penstockTwo, cpu)...),
		figure(p, "CPU, 1 lane", "s/million", Goal{AtMost: 1.8}, of(penstockOne, cpu)...),
		worst(figure(p, "peak memory, 2 lanes", "MiB", Goal{AtMost: 128}, of(penstockTwo, peakMiB)...)),
		worst(figure(p, "peak memory, 1 lane", "MiB", Goal{AtMost: 128}, of(penstockOne, peakMiB)...)),
		figure(p, "allocations a record, 2 lanes", "", Goal{AtMost: 0.05}, of(penstockTwo, steadyAllocs)...),
		figure(p, "allocations a record, 2 lanes, with the start", "", Goal{}, of(penstockTwo, allocs)...),
		figure(p, "time to the first row, 2 lanes", "s", Goal{AtMost: 1.5}, of(penstockTwo, firstCommit)...),
	)
	for _, side := range []string{copyOne, copyTwo, penstockOne, penstockTwo, handOne, handTwo} {
		b.report.add(p, nil, figure(p, "records/s, "+side, "/s", Goal{}, of(side, rate)...))
	}
	for _, side := range []string{copyOne, copyTwo, penstockOne, penstockTwo, handOne, handTwo} {
		b.report.add(p, nil, figure(p, "server CPU, "+side, "s/million", Goal{}, of(side, serverCPU)...))
	}
	for _, side := range []string{handOne, handTwo} {
		b.report.add(p, nil, figure(p, "CPU, "+side, "s/million", Goal{}, of(side, cpu)...))
	}
	return nil
}

func (b *Bench) upsert(ctx context.Context) error {
	const upsertFresh, upsertExisting = "upsert, fresh keys", "upsert, existing keys"
	const ignoreFresh, ignoreExisting = "ignore, fresh keys", "ignore, existing keys"
	ms, err := alternate(ctx, b.out, []Side{
		b.copySide(copyOne, b.topic.File),
		b.penstockSide(upsertFresh, "upsert", 2, b.db.Reset),
		b.penstockSide(upsertExisting, "upsert", 2, b.full),
		b.penstockSide(ignoreFresh, "ignore", 2, b.db.Reset),
		b.penstockSide(ignoreExisting, "ignore", 2, b.full),
	}, b.opts.Pairs)
	if err != nil {
		return err
	}
	const p = "upsert"
	b.report.add(p, ms)
	for _, side := range []struct {
		name string
		goal Goal
	}{
		{upsertFresh, Goal{AtMost: 1.1}},
		{upsertExisting, Goal{AtMost: 1.6}},
		{ignoreFresh, Goal{}},
		{ignoreExisting, Goal{}},
	} {
		b.report.add(p, nil,
			figure(p, "time: "+side.name+", to one \\copy", "×", side.goal, paired(bySide(ms, side.name, seconds), bySide(ms, copyOne, seconds))...),
			figure(p, "CPU, "+side.name, "s/million", Goal{}, bySide(ms, side.name, cpu)...))
	}
	return nil
}

func (b *Bench) first(ctx context.Context) error {
	n := min(b.opts.First, b.opts.Records)
	want := int64(n)
	side := Side{
		Name: naive, Prepare: b.db.Reset, Server: b.db.CPU,
		Run: func(ctx context.Context) (Measurement, error) {
			u, out, err := b.loop(ctx, "first", "-database", b.db.URL, "-records", strconv.Itoa(n))
			if err != nil {
				return Measurement{}, err
			}
			m := measured(n, u)
			// The loop's own time begins with its first message.
			m.Seconds, err = strconv.ParseFloat(strings.TrimSpace(out), 64)
			return m, err
		},
		Verify: func(ctx context.Context) error {
			var got int64
			err := b.db.conn.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&got)
			if err == nil && got != want {
				err = fmt.Errorf("the table holds %d rows, want %d", got, want)
			}
			return err
		},
	}
	ms, err := alternate(ctx, b.out, []Side{side}, 1)
	if err != nil {
		return err
	}
	const p = "first"
	b.report.add(p, ms,
		figure(p, fmt.Sprintf("records/s, %s (%d records)", naive, n), "/s", Goal{}, bySide(ms, naive, rate)...),
		figure(p, "CPU, "+naive, "s/million", Goal{}, bySide(ms, naive, cpu)...))
	return nil
}

// start measures on the same topic, but with as many short runs as asked.
func (b *Bench) start(ctx context.Context) error {
	side := b.penstockSide("start", "append", 2, b.db.Reset)
	ms, err := alternate(ctx, b.out, []Side{side}, b.opts.Starts)
	if err != nil {
		return err
	}
	b.report.add("start", ms, worst(figure("start", "to the first committed row", "s", Goal{AtMost: 1.5}, bySide(ms, "start", firstCommit)...)))
	return nil
}

func (b *Bench) sqlite(ctx context.Context) error {
	ms, err := alternate(ctx, b.out, []Side{b.sqliteBareSide(sqliteBare), b.sqlitePenstockSide(sqliteOurs)}, b.opts.Pairs)
	if err != nil {
		return err
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	const p = "sqlite"
	b.report.add(p, ms,
		figure(p, "rate: penstock to the bare loop", "×", Goal{AtLeast: 0.92}, paired(of(sqliteOurs, rate), of(sqliteBare, rate))...),
		figure(p, "rate: penstock to the bare loop, from ready", "×", Goal{}, paired(of(sqliteOurs, readyRate), of(sqliteBare, rate))...),
		figure(p, "records/s, bare loop", "/s", Goal{}, of(sqliteBare, rate)...),
		figure(p, "records/s, penstock", "/s", Goal{}, of(sqliteOurs, rate)...),
		figure(p, "CPU, bare loop", "s/million", Goal{}, of(sqliteBare, cpu)...),
		figure(p, "CPU, penstock", "s/million", Goal{}, of(sqliteOurs, cpu)...),
		worst(figure(p, "peak memory, penstock", "MiB", Goal{}, of(sqliteOurs, peakMiB)...)))
	return nil
}
