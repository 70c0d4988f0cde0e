package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// From one topic into another of the same cluster.

func (b *Bench) copyTopic(ctx context.Context) error {
	const hand, atLeastOnce, exactlyOnce = "hand-written copy", "penstock, at_least_once", "penstock, exactly_once"
	ms, err := alternate(ctx, b.out, []Side{
		b.intoTopicSide(hand, func(ctx context.Context, target string) (Measurement, error) {
			u, _, err := b.loop(ctx, "copy", "-target", target)
			return measured(b.topic.Records, u), err
		}),
		b.penstockCopySide(atLeastOnce, "at_least_once"),
		b.penstockCopySide(exactlyOnce, "exactly_once"),
	}, b.opts.Pairs)
	if err != nil {
		return err
	}
	of := func(side string, value func(Measurement) float64) []float64 { return bySide(ms, side, value) }
	const p = "copy"
	b.report.add(p, ms,
		figure(p, "rate: at_least_once to the hand-written copy", "×", Goal{AtLeast: 0.9}, paired(of(atLeastOnce, rate), of(hand, rate))...),
		figure(p, "rate: exactly_once to at_least_once", "×", Goal{AtLeast: 0.8}, paired(of(exactlyOnce, rate), of(atLeastOnce, rate))...),
		figure(p, "rate: exactly_once to the hand-written copy", "×", Goal{}, paired(of(exactlyOnce, rate), of(hand, rate))...))
	for _, side := range []string{hand, atLeastOnce, exactlyOnce} {
		b.report.add(p, nil,
			figure(p, "records/s, "+side, "/s", Goal{}, of(side, rate)...),
			figure(p, "CPU, "+side, "s/million", Goal{}, of(side, cpu)...),
			worst(figure(p, "peak memory, "+side, "MiB", Goal{}, of(side, peakMiB)...)))
	}
	return nil
}

// intoTopicSide copies the backlog into a new topic, which is removed after it was
// compared with the backlog.
func (b *Bench) intoTopicSide(name string, run func(ctx context.Context, target string) (Measurement, error)) Side {
	var target *Topic
	return Side{
		Name: name,
		Prepare: func(ctx context.Context) (err error) {
			target, err = b.newTopic(ctx, partitions)
			return err
		},
		Run: func(ctx context.Context) (Measurement, error) { return run(ctx, target.Name) },
		Verify: func(ctx context.Context) error {
			if err := target.verifyCopy(ctx, b.checksums()); err != nil {
				return fmt.Errorf("the copy: %w", err)
			}
			return target.Delete(ctx)
		},
	}
}

func (b *Bench) penstockCopySide(name, delivery string) Side {
	return b.intoTopicSide(name, func(ctx context.Context, target string) (m Measurement, err error) {
		client, err := kgo.NewClient(kgo.SeedBrokers(b.servers.Brokers...))
		if err != nil {
			return m, err
		}
		defer client.Close()
		admin := kadm.NewClient(client)
		return b.penstock.Run(ctx, b.topic, flowSpec{
			Raw:  true,
			Sink: fmt.Sprintf("kafka:\n  topic: %s\n  delivery: %s\n", target, delivery),
			// The positions of both are the group's, whose name is the flow's.
			Progress: func(ctx context.Context, flow string) (n int64, err error) {
				offsets, err := admin.FetchOffsets(ctx, flow)
				if errors.Is(err, kerr.GroupIDNotFound) {
					return 0, nil
				}
				offsets.Each(func(o kadm.OffsetResponse) {
					if o.Topic == b.topic.Name {
						n += max(0, o.At)
					}
				})
				return n, err
			},
		})
	})
}

// checksums are those of all records, by number.
func (b *Bench) checksums() []uint32 {
	if len(b.crcs) != b.topic.Records {
		b.crcs = make([]uint32, b.topic.Records)
		g := newGenerator()
		for i := range b.crcs {
			b.crcs[i] = crc32.ChecksumIEEE(g.JSON(i))
		}
	}
	return b.crcs
}

// verifyCopy reads what is committed, up to its end, and compares it with the
// records: each partition must hold the same ones in the same order.
func (t *Topic) verifyCopy(ctx context.Context, want []uint32) error {
	client, err := t.reader(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, t.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	left, total := partitions, 0
	var next [partitions]int64
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			left--
		}
	})
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if end, _ := ends.Lookup(t.Name, r.Partition); r.Offset == end.Offset-1 {
				left--
			}
			if r.Attrs.IsControl() {
				continue
			}
			i := indexOf(r.Partition, next[r.Partition])
			if i >= len(want) || crc32.ChecksumIEEE(r.Value) != want[i] {
				return fmt.Errorf("partition %d offset %d is not record %d", r.Partition, r.Offset, i)
			}
			next[r.Partition]++
			total++
		}
	}
	if total != len(want) {
		return fmt.Errorf("%d records, want %d", total, len(want))
	}
	return nil
}

// copyLoop is a copy as a good team writes it: a member of a group, idempotent
// production of the very records that were fetched, and what is acknowledged
// is committed behind. At least once; it trusts that nothing goes wrong.
func copyLoop(ctx context.Context, o loopOptions) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(o.Brokers, ",")...),
		kgo.ConsumerGroup(o.Target+"-copy"),
		kgo.ConsumeTopics(o.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.AutoCommitMarks(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), // the same partition
		kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(50_000),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var acked atomic.Int64
	all := make(chan struct{})
	for sent := 0; sent < o.Records; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		for it := fetches.RecordIter(); !it.Done(); sent++ {
			from := it.Next()
			to := &kgo.Record{Topic: o.Target, Partition: from.Partition, Key: from.Key, Value: from.Value, Headers: from.Headers, Timestamp: from.Timestamp}
			client.Produce(ctx, to, func(_ *kgo.Record, err error) {
				if err != nil {
					cancel(err)
					return
				}
				client.MarkCommitRecords(from)
				if acked.Add(1) == int64(o.Records) {
					close(all)
				}
			})
		}
	}
	select {
	case <-all:
		return client.CommitMarkedOffsets(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
