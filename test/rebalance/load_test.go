package rebalance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
)

const (
	partitions = 12
	// interval is the time between two records of a partition.
	interval = 10 * time.Millisecond
)

// load is a steady stream into every partition of a topic.
type load struct {
	client *kgo.Client
	topic  string
	stop   func() // ends it and waits for what is under way

	mu     sync.Mutex
	acked  [partitions][]time.Time // guarded by mu; by offset
	failed error                   // guarded by mu
}

func newLoad(t *testing.T, broker, topic string) *load {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	adm := kadm.NewClient(client)
	if _, err := adm.CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	testservice.AwaitTopic(t, adm, topic, partitions)
	l := &load{client: client, topic: topic}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx)
	}()
	l.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) run(ctx context.Context) {
	tick := time.NewTicker(interval / partitions)
	defer tick.Stop()
	began := time.Now()
	for n := 0; ctx.Err() == nil; {
		// In turn, so that a partition's records are one interval apart.
		for due := int(time.Since(began) * partitions / interval); n < due; n++ {
			r := &kgo.Record{Topic: l.topic, Partition: int32(n % partitions), Value: []byte("{}")}
			l.client.Produce(context.WithoutCancel(ctx), r, l.done)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err := l.client.Flush(context.WithoutCancel(ctx)); err != nil {
		l.done(nil, err)
	}
}

func (l *load) done(r *kgo.Record, err error) {
	at := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = errors.Join(l.failed, err)
		return
	}
	if n := int64(len(l.acked[r.Partition])); r.Offset != n {
		l.failed = errors.Join(l.failed, errors.New("the topic is not ours alone"))
		return
	}
	l.acked[r.Partition] = append(l.acked[r.Partition], at)
}

// ackedAt is when the record was acknowledged; zero if it is not yet known.
func (l *load) ackedAt(partition int, offset int64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < int64(len(l.acked[partition])) {
		return l.acked[partition][offset]
	}
	return time.Time{}
}

// sent is how many records each partition has.
func (l *load) sent() (counts [partitions]int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range counts {
		counts[p] = int64(len(l.acked[p]))
	}
	return counts, l.failed
}
