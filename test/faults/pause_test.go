package faults

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/test/rig"
)

// pauseCounter is a source that counts how often it was told to pause.
type pauseCounter struct {
	*kafka.Source
	pauses atomic.Int64
}

func (c *pauseCounter) Pause(ps []flow.Partition) {
	c.pauses.Add(1)
	c.Source.Pause(ps)
}

// slowLane is a sink that is slow for one lane, and remembers what it was given.
type slowLane struct {
	mu   sync.Mutex // guards what follows
	next map[int32]int64
	seen int
	bad  int // records that were not the next of their partition
}

func (s *slowLane) write(ctx context.Context, b *flow.Batch) error {
	slow := false
	s.mu.Lock()
	for i := range b.Parts {
		p := &b.Parts[i]
		slow = slow || p.ID == 0
		for _, r := range b.Records[p.First:p.End] {
			if r.Offset != s.next[p.ID] {
				s.bad++
			}
			s.next[p.ID] = r.Offset + 1
			s.seen++
		}
	}
	s.mu.Unlock()
	if slow {
		rig.Pause(ctx, 30*time.Millisecond)
	}
	return ctx.Err()
}

func (s *slowLane) count() (seen, bad int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.bad
}

// A pause throws away what was fetched of the partitions, which is read again
// later: at most one answer of the broker. The flow runs in this process, where
// pauses can be counted: one lane is slow, so its partitions are paused again
// and again while the others are read on. A source that fetched anew at every
// full queue would read more than this allows.
func pausesCostOneFetch(t *testing.T, k *countedKafka) {
	const records, fetch = 100_000, 256 << 10
	topic := rig.NewTopic(t, k.direct)
	for range records / 2000 {
		topic.Produce(2000)
	}
	before := k.answers()
	source, err := kafka.NewSource(kafka.SourceConfig{
		Connection: kafka.Connection{Brokers: strings.Split(k.brokers, ",")}, Topics: []string{topic.Name}, Group: topic.Name, Start: "earliest",
		Fetch: kafka.FetchConfig{MaxBytes: fetch, PartitionBytes: fetch / 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	counted, sink := &pauseCounter{Source: source}, &slowLane{next: map[int32]int64{}}
	f, err := flow.New(flow.Config{
		Name: topic.Name, Source: counted, Sink: flow.SinkFunc(sink.write), Lanes: 2, Buffer: 1 << 20,
		Batch: flow.BatchLimits{Records: 1000, Bytes: 256 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	if !rig.Poll(t.Context(), time.Minute, func() bool { seen, _ := sink.count(); return seen >= records }) {
		t.Errorf("the flow does not get on: %+v", f.Status())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if seen, bad := sink.count(); seen != records || bad != 0 {
		t.Errorf("%d records, want %d; %d were not the next of their partition", seen, records, bad)
	}
	if n := lag(t, topic); n != 0 {
		t.Errorf("the group has not committed %d records that the flow had written when it ended", n)
	}
	log, read, pauses := k.size(topic), k.answers()-before, counted.pauses.Load()
	t.Logf("%.1f MiB read of a log of %.1f MiB, in %d pauses", float64(read)/mib, float64(log)/mib, pauses)
	if pauses < 5 {
		t.Errorf("%d pauses: this proves nothing", pauses)
	}
	if most := log + log/20 + pauses*fetch; read > most { // a twentieth for what is not records
		t.Errorf("%.1f MiB were read of a log of %.1f MiB in %d pauses, want at most %.1f", float64(read)/mib, float64(log)/mib, pauses, float64(most)/mib)
	}
}
