package main

import (
	"context"
	"fmt"
)

// What partitions cost: the same records in 8 and in 1,000 of them.

func (b *Bench) manyPartitions(ctx context.Context) error {
	const few = "8 partitions"
	most := 1000
	if b.opts.Quick {
		most = 100 // to make and to remove a thousand takes a broker seconds
	}
	many := number(float64(most)) + " partitions"
	var sides []Side
	for _, side := range []struct {
		name       string
		partitions int
	}{{few, 8}, {many, most}} {
		fmt.Fprintf(b.out, "filling a topic of %s with %d records\n", side.name, b.opts.Records)
		t, err := b.newTopic(ctx, side.partitions)
		if err != nil {
			return err
		}
		// By hundreds, so that the producer's batches are of one size in both.
		if err := t.Fill(ctx, b.opts.Records, func(i int) int32 { return int32(i / 100 % side.partitions) }); err != nil { //nolint:gosec // at most 1,000
			return err
		}
		sides = append(sides, Side{
			Name: side.name, Prepare: b.db.Reset, Server: b.db.CPU,
			Run: func(ctx context.Context) (Measurement, error) {
				return b.penstock.Run(ctx, t, b.intoTable("append", 0))
			},
			Verify: func(ctx context.Context) error { return b.db.Verify(ctx, t.Sums) },
		})
	}
	ms, err := alternate(ctx, b.out, sides, b.opts.Pairs)
	if err != nil {
		return err
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	const p = "partitions"
	b.report.add(p, ms,
		figure(p, "CPU: "+many+" to 8", "×", Goal{AtMost: 1.3}, paired(of(many, cpu), of(few, cpu))...),
		worst(figure(p, "peak memory, "+many, "MiB", Goal{AtMost: 400}, of(many, peakMiB)...)),
		worst(figure(p, "peak memory, "+few, "MiB", Goal{}, of(few, peakMiB)...)),
		figure(p, "server CPU: "+many+" to 8", "×", Goal{}, paired(of(many, serverCPU), of(few, serverCPU))...),
		figure(p, "rate: "+many+" to 8", "×", Goal{}, paired(of(many, rate), of(few, rate))...))
	for _, side := range []string{few, many} {
		b.report.add(p, nil,
			figure(p, "CPU, "+side, "s/million", Goal{}, of(side, cpu)...),
			figure(p, "bytes read, "+side, "MiB", Goal{}, of(side, readMiB)...),
			figure(p, "records/s, "+side, "/s", Goal{}, of(side, rate)...),
			figure(p, "time to the first row, "+side, "s", Goal{}, of(side, firstCommit)...))
	}
	return nil
}
