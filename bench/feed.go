package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// feed is a steady load on a topic, and when each record of it was acknowledged.
type feed struct {
	topic *Topic
	mu    sync.Mutex
	acked [partitions][]time.Time // guarded by mu; by offset
}

// run produces so many records a second for a time, and returns when all are
// acknowledged. The topic was empty, with as many partitions as partitionOf has.
func (f *feed) run(ctx context.Context, perSecond int, d time.Duration) error {
	client, err := f.topic.producer()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := func(r *kgo.Record, err error) {
		at := time.Now()
		f.mu.Lock()
		defer f.mu.Unlock()
		acked := &f.acked[r.Partition]
		switch {
		case err != nil:
			cancel(err)
		case r.Offset != int64(len(*acked)):
			cancel(fmt.Errorf("partition %d: offset %d was acknowledged after %d records", r.Partition, r.Offset, len(*acked)))
		default:
			*acked = append(*acked, at)
		}
	}
	g := newGenerator()
	total := int(d.Seconds() * float64(perSecond))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for f.topic.Records < total {
		due := min(total, int(time.Since(began).Seconds()*float64(perSecond)))
		for ; f.topic.Records < due; f.topic.Records++ {
			i := f.topic.Records
			client.Produce(ctx, &kgo.Record{Partition: partitionOf(i), Value: f.topic.Sums.next(g, i)}, done)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("producing to topic %s: %w", f.topic.Name, context.Cause(ctx))
		}
	}
	if err := client.Flush(ctx); err != nil {
		return fmt.Errorf("producing to topic %s: %w", f.topic.Name, context.Cause(ctx))
	}
	return nil
}
