package flow_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// costly is a target whose write of n records takes fixed + n × each.
type costly struct {
	fixed, each time.Duration

	mu      sync.Mutex
	sizes   []int
	waited  []time.Duration // of each batch's first record, from its append to its commit
	written int
}

func (c *costly) write(ctx context.Context, b *flow.Batch) error {
	t := time.NewTimer(c.fixed + time.Duration(b.Len())*c.each)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, b.Len())
	c.waited = append(c.waited, time.Since(time.UnixMicro(b.Records[b.Next(0)].Timestamp)))
	c.written += b.Len()
	return nil
}

// run feeds n records at a time, every so often, until total are written, and returns how
// long that took.
func (c *costly) run(t *testing.T, adaptive bool, n, total int, every time.Duration) time.Duration {
	t.Helper()
	log := flowtest.NewLog()
	log.Create("t", 1)
	f, err := flow.New(flow.Config{
		Name: "f", Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}), Sink: flow.SinkFunc(c.write),
		Batch: flow.BatchLimits{Records: 100, Adaptive: adaptive},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- f.Run(ctx) }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	records := make([]flow.Record, n)
	for i := range records {
		records[i].Value = []byte("x")
	}
	for fed, over := 0, false; !over; {
		if fed < total {
			for i := range records {
				records[i].Timestamp = time.Now().UnixMicro()
			}
			log.Append("t", 0, records...)
			fed += n
		}
		<-tick.C
		synctest.Wait()
		c.mu.Lock()
		over = c.written >= total
		c.mu.Unlock()
	}
	took := time.Since(start)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return took
}

func TestBatchesGrowWithTheCostOfATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 60_000
		fixed, adaptive := &costly{fixed: 20 * time.Millisecond, each: 10 * time.Microsecond}, &costly{fixed: 20 * time.Millisecond, each: 10 * time.Microsecond}
		was := fixed.run(t, false, 2000, total, time.Millisecond)
		is := adaptive.run(t, true, 2000, total, time.Millisecond)
		if is > was/5 {
			t.Errorf("batches of 100 take %s, adaptive ones %s (%d batches)", was, is, len(adaptive.sizes))
		}
		for _, n := range adaptive.sizes {
			if n > 1000 {
				t.Fatalf("a batch of %d records: more than 10 times what is configured", n)
			}
		}
	})
}

func TestAFlowThatKeepsUpDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// One record each 10 ms: the target could do 20.
		fixed, adaptive := &costly{fixed: 500 * time.Microsecond}, &costly{fixed: 500 * time.Microsecond}
		fixed.run(t, false, 1, 500, 10*time.Millisecond)
		adaptive.run(t, true, 1, 500, 10*time.Millisecond)
		if last := fixed.waited[499]; last < 5*time.Millisecond {
			t.Errorf("fixed: committed after %s, and batch.wait is 5ms", last)
		}
		for i, d := range adaptive.waited[100:] {
			if d > time.Millisecond {
				t.Fatalf("adaptive: record %d was committed after %s", 100+i, d)
			}
		}
	})
}
