package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Settings that follow what is measured, beside the defaults and beside static
// ones.

const (
	byDefault = "default"
	adaptive  = "adaptive"
)

// tuning is a way to set a flow up.
type tuning struct{ name, settings, fetch string }

// staticTunings is a small grid around the defaults: what `best` is the best of.
var staticTunings = []tuning{
	{name: byDefault},
	{name: "5,000 records", settings: "batch: {records: 5000}\n"},
	{name: "60,000 records", settings: "batch: {records: 60000, bytes: 48MiB}\nbuffer: 96MiB\n"},
	{name: "fetch of 16 MiB", fetch: "{max_bytes: 16MiB, partition_bytes: 2MiB}"},
	{
		name: "60,000 records, fetch of 16 MiB", settings: "batch: {records: 60000, bytes: 48MiB}\nbuffer: 96MiB\n",
		fetch: "{max_bytes: 16MiB, partition_bytes: 2MiB}",
	},
}

var adaptiveTuning = tuning{name: adaptive, settings: "batch: {adaptive: true}\n"}

func (b *Bench) tuned(t tuning) flowSpec {
	spec := b.intoTable("append", 0)
	spec.Settings, spec.Fetch = t.settings, t.fetch
	return spec
}

func (b *Bench) adaptive(ctx context.Context) error {
	best, err := b.adaptiveSaturated(ctx)
	if err != nil {
		return err
	}
	if err := b.adaptiveBurst(ctx, best); err != nil {
		return err
	}
	return b.adaptiveLowLoad(ctx, best)
}

// adaptiveSaturated loads the backlog, and returns the static tuning that is
// fastest at the median.
func (b *Bench) adaptiveSaturated(ctx context.Context) (best tuning, err error) {
	static := staticTunings
	if b.opts.Quick {
		static = static[:2]
	}
	var sides []Side
	for _, t := range append(slices.Clone(static), adaptiveTuning) {
		sides = append(sides, Side{
			Name: t.name, Prepare: b.db.Reset, Verify: b.verify, Server: b.db.CPU,
			Run: func(ctx context.Context) (Measurement, error) { return b.penstock.Run(ctx, b.topic, b.tuned(t)) },
		})
	}
	fmt.Fprintln(b.out, "a backlog:")
	ms, err := alternate(ctx, b.out, sides, b.opts.Pairs)
	if err != nil {
		return best, err
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	best = slices.MaxFunc(static, func(x, y tuning) int {
		return cmp.Compare(spreadOf(of(x.name, rate)).Median, spreadOf(of(y.name, rate)).Median)
	})
	const p = "adaptive"
	b.report.add(p, ms,
		figure(p, "backlog, rate: adaptive to the best static ("+best.name+")", "×", Goal{AtLeast: 0.9}, paired(of(adaptive, rate), of(best.name, rate))...),
		figure(p, "backlog, rate: adaptive to default", "×", Goal{}, paired(of(adaptive, rate), of(byDefault, rate))...),
		figure(p, "backlog, CPU, adaptive", "s/million", Goal{}, of(adaptive, cpu)...),
		figure(p, "backlog, CPU, default", "s/million", Goal{}, of(byDefault, cpu)...),
		worst(figure(p, "backlog, peak memory, adaptive", "MiB", Goal{}, of(adaptive, peakMiB)...)))
	for _, t := range append(slices.Clone(static), adaptiveTuning) {
		b.report.add(p, nil, figure(p, "backlog, records/s, "+t.name, "/s", Goal{}, of(t.name, rate)...))
	}
	return best, nil
}

// adaptiveBurst lets many records appear at once before a flow that had nothing
// to do.
func (b *Bench) adaptiveBurst(ctx context.Context, best tuning) error {
	var sides []Side
	for _, t := range compared(best) {
		sides = append(sides, b.burstSide(t))
	}
	fmt.Fprintf(b.out, "%d records at once:\n", b.opts.Burst)
	ms, err := alternate(ctx, b.out, sides, b.opts.Pairs)
	if err != nil {
		return err
	}
	of := func(side string) []float64 { return bySide(ms, side, rate) }
	const p = "adaptive"
	b.report.add(p, ms, figure(p, "burst, rate: adaptive to default", "×", Goal{AtLeast: 1.3}, paired(of(adaptive), of(byDefault))...))
	for _, t := range compared(best) {
		b.report.add(p, nil, figure(p, "burst, records/s, "+t.name, "/s", Goal{}, of(t.name)...))
	}
	return nil
}

// adaptiveLowLoad measures end to end at 500 records a second.
func (b *Bench) adaptiveLowLoad(ctx context.Context, best tuning) error {
	const perSecond = 500
	var sides []Side
	for _, t := range compared(best) {
		sides = append(sides, b.latencySide(t.name, perSecond, b.tuned(t)))
	}
	fmt.Fprintf(b.out, "%d records a second:\n", perSecond)
	ms, err := alternate(ctx, b.out, sides, b.opts.Pairs)
	if err != nil {
		return err
	}
	const p = "adaptive"
	p99 := func(side string) []float64 { return bySide(ms, side, value("p99 ms")) }
	b.report.add(p, ms, figure(p, "500 records/s, p99: adaptive to default", "×", Goal{AtMost: 0.999}, paired(p99(adaptive), p99(byDefault))...))
	for _, t := range compared(best) {
		b.report.add(p, nil,
			figure(p, "500 records/s, p50, "+t.name, "ms", Goal{}, bySide(ms, t.name, value("p50 ms"))...),
			figure(p, "500 records/s, p99, "+t.name, "ms", Goal{}, p99(t.name)...))
	}
	return nil
}

// compared are the default, adaptive, and the best static tuning if it is
// another.
func compared(best tuning) []tuning {
	all := []tuning{{name: byDefault}, adaptiveTuning}
	if best.name != byDefault {
		all = append(all, best)
	}
	return all
}

// burstSide starts a flow on a topic whose records are in a transaction that is
// open, and commits it: all of them appear at one moment, and no producer
// shares the machine with the flow.
func (b *Bench) burstSide(t tuning) Side {
	var topic *Topic
	var producer *kgo.Client
	return Side{
		Name: t.name, Server: b.db.CPU,
		Prepare: func(ctx context.Context) (err error) {
			if topic, err = b.newTopic(ctx, partitions); err != nil {
				return err
			}
			if producer, err = topic.producer(kgo.TransactionalID(topic.Name), kgo.TransactionTimeout(5*time.Minute)); err != nil {
				return err
			}
			err = producer.BeginTransaction()
			if err == nil {
				err = topic.fill(ctx, producer, b.opts.Burst, partitionOf)
			}
			if err == nil {
				err = b.db.Reset(ctx)
			}
			if err != nil {
				producer.Close()
			}
			return err
		},
		Run: func(ctx context.Context) (Measurement, error) {
			defer producer.Close()
			spec := b.tuned(t)
			spec.Topic = topic.Name
			f, err := b.penstock.Start(ctx, spec)
			if err != nil {
				return Measurement{}, err
			}
			took, err := b.burst(ctx, f, producer, int64(topic.Records))
			usage, err := f.Finish(err)
			if err != nil {
				return Measurement{}, err
			}
			m := measured(topic.Records, usage)
			m.Seconds = took.Seconds()
			return m, nil
		},
		Verify: func(ctx context.Context) error {
			if err := b.db.Verify(ctx, topic.Sums); err != nil {
				return err
			}
			return topic.Delete(ctx)
		},
	}
}

func (b *Bench) burst(ctx context.Context, f *runningFlow, producer *kgo.Client, total int64) (time.Duration, error) {
	if err := f.Ready(ctx); err != nil {
		return 0, err
	}
	pause := 2 * time.Second
	if b.opts.Quick {
		pause /= 10
	}
	if err := f.idle(ctx, pause); err != nil {
		return 0, err
	}
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return 0, fmt.Errorf("committing the records of the burst: %w", err)
	}
	began := time.Now()
	err := f.Until(ctx, "the burst to be written", 5*time.Millisecond, 10*time.Minute, func() (bool, error) {
		// A partition's records are followed by the mark of the transaction.
		n, err := b.db.progressUpTo(ctx, f.Name, total/partitions)
		return n >= total, err
	})
	return time.Since(began), err
}
