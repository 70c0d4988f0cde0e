package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var trace []string
		inside, ok := g.enter(t.Context())
		if !ok {
			t.Fatal("an open gate keeps out")
		}
		go func() {
			if err := g.closeAndWait(t.Context()); err != nil {
				t.Error(err)
			}
			trace = append(trace, "callback")
		}()
		synctest.Wait()
		if inside.Err() == nil {
			t.Error("the callback does not interrupt the poll")
		}
		trace = append(trace, "deliver")
		g.leave()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := g.enter(ctx); ok {
			t.Error("entered while the callback is inside")
		}
		g.close() // a second callback
		g.open()
		go func() {
			if _, ok := g.enter(t.Context()); ok {
				trace = append(trace, "enter")
			}
		}()
		synctest.Wait()
		g.open()
		synctest.Wait()
		if got := fmt.Sprint(trace); got != "[deliver callback enter]" {
			t.Errorf("order %s", got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if g.closeAndWait(ended) == nil {
			t.Error("did not wait for the reader")
		}
		g.leave()
		if _, ok := g.enter(t.Context()); !ok {
			t.Error("a callback that gave up keeps the gate closed")
		}
		g.leave()
	})
}

func TestSlabs(t *testing.T) {
	var s slabs
	a := s.GetRecords(100)
	s.PutRecords(a[:0])
	if b := s.GetRecords(101); cap(b) < 101 {
		t.Error("too small")
	}
	if b := s.GetRecords(50); cap(b) != cap(a) {
		t.Error("not recycled")
	}
	s.PutRecords(make([]kgo.Record, maxSlab+1))
	for i := range 2 * maxSlabs {
		s.PutRecords(make([]kgo.Record, i+1))
	}
	if len(s.free) != maxSlabs || cap(s.free[maxSlabs-1]) != 2*maxSlabs {
		t.Errorf("%d free", len(s.free))
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
