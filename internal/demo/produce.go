package demo

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sent is what was produced at one offset of one partition.
type sent struct {
	vehicle   int
	seq       int64
	malformed bool
}

// ledger is everything that was produced, by partition and offset: what the
// report is checked against.
type ledger struct {
	ids        []string // of the vehicles
	partitions [][]sent
	records    int
	malformed  int
}

// produce writes n records to the topic, and calls progress with how many
// were acknowledged, now and then.
func produce(ctx context.Context, address string, f *fleet, n int, progress func(done int)) (*ledger, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(address), kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.MaxBufferedRecords(20_000),
	)
	if err != nil {
		return nil, fmt.Errorf("producing: %w", err)
	}
	defer cl.Close()
	l := &ledger{partitions: make([][]sent, partitions)}
	for i := range f.vehicles {
		l.ids = append(l.ids, f.vehicles[i].id)
	}
	var (
		mu     sync.Mutex // guards l and failed
		failed error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const step = 5000
	for i := range n {
		r := f.next()
		rec := &kgo.Record{Key: []byte(f.vehicles[r.vehicle].id), Value: r.value, Timestamp: r.time}
		cl.Produce(ctx, rec, func(rec *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if failed == nil {
					failed = err
					cancel()
				}
				return
			}
			l.add(rec.Partition, rec.Offset, sent{r.vehicle, r.seq, r.malformed})
		})
		if i%step == 0 {
			mu.Lock()
			done := l.records
			mu.Unlock()
			progress(done)
		}
	}
	flushErr := cl.Flush(ctx)
	mu.Lock()
	defer mu.Unlock()
	if failed == nil {
		failed = flushErr
	}
	if failed != nil {
		return nil, fmt.Errorf("producing to topic %s at %s: %w", topic, address, failed)
	}
	progress(l.records)
	return l, nil
}

func (l *ledger) add(partition int32, offset int64, s sent) {
	p := l.partitions[partition]
	for int64(len(p)) <= offset {
		p = append(p, sent{vehicle: -1})
	}
	p[offset] = s
	l.partitions[partition] = p
	l.records++
	if s.malformed {
		l.malformed++
	}
}
