package kafka

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

// What a poll brings of a partition that was assigned while it was under way may be
// from before: it is not delivered, and fetched again.
func TestStalePoll(t *testing.T) {
	cl, err := kgo.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	name := flow.Partition{Topic: "t"}
	polled := &kgo.FetchPartition{Records: []*kgo.Record{{Offset: 7}}}
	for _, c := range []struct {
		what string
		p    partition
		ok   bool
	}{
		{"assigned before the poll", partition{since: 2, next: 5}, true},
		{"assigned during the poll", partition{since: 3, next: 5}, false},
		{"being revoked", partition{since: 2, next: 5, leaving: true}, false},
		{"position lost", partition{since: 2, next: 5, stopped: true}, false},
		{"set to another position, not known to kgo", partition{since: 2, next: 5, moved: true}, false},
	} {
		c.p.Partition = name
		s := &Source{cl: cl, poll: 3, parts: map[flow.Partition]*partition{name: &c.p}}
		if next, ok := s.expect(name, "", polled); ok != c.ok || ok && next != 5 {
			t.Errorf("%s: %d, %v", c.what, next, ok)
		}
	}
	s := &Source{cl: cl, poll: 3, parts: map[flow.Partition]*partition{}}
	if _, ok := s.expect(name, "", polled); ok {
		t.Error("a partition of somebody else was delivered")
	}
}

// sinkhole takes deliveries, and recycles as the engine does.
type sinkhole struct {
	free    [][]flow.Record
	records int
}

func (s *sinkhole) Assigned(_ context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
	out := make([]flow.Position, len(ps))
	for i, p := range ps {
		out[i] = flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Start, LeaderEpoch: -1}
	}
	return out, nil
}
func (*sinkhole) Revoked(context.Context, []flow.Partition, bool) {}

func (s *sinkhole) Buffer(n int) []flow.Record {
	if len(s.free) > 0 {
		b := s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
		if cap(b) >= n {
			return b
		}
	}
	return make([]flow.Record, 0, n)
}

func (s *sinkhole) Deliver(f flow.Fetch) {
	s.records += len(f.Records)
	clear(f.Records)
	s.free = append(s.free, f.Records[:0])
}

// BenchmarkRead reads 512-byte records of 8 partitions, lz4, from a fake broker in
// the same process: allocations include kgo's and the broker's. An op is one record.
func BenchmarkRead(b *testing.B) {
	const partitions = 8
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "t"))
	if err != nil {
		b.Fatal(err)
	}
	defer fake.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(50*time.Millisecond))
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte("0123456789abcdef"), 32)
	for i := range b.N {
		cl.Produce(b.Context(), &kgo.Record{Partition: int32(i % partitions), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	cl.Close()
	src, err := NewSource(SourceConfig{Connection: Connection{Brokers: fake.ListenAddrs()}, Topics: []string{"t"}, Group: "g"})
	if err != nil {
		b.Fatal(err)
	}
	defer closeSource(b, src)
	if _, err := src.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	in := &sinkhole{}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.SetBytes(int64(len(value)))
	b.ResetTimer()
	if err := src.Subscribe(b.Context(), in); err != nil {
		b.Fatal(err)
	}
	for in.records < b.N {
		if err := src.Read(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "allocs/record")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "B/record")
}

func TestReadTellsThatATroubleIsOver(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	in := newIntake(t)
	r := run(t, cfg, in)
	eventually(t, "the partition", func() bool { return in.owns() == 1 })
	r.stop()
	r.report("the test", flow.Transient(errors.New("an outage")))
	if err := r.Read(t.Context()); !flow.IsTransient(err) {
		t.Fatalf("got %v, want the transient error", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.Read(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("on an idle topic, after the trouble: got %v, %v", err, ctx.Err())
	}
}
