package flowtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func deliversAll(c *flowCase) {
	c.make(3)
	c.produce(1000)
	r := c.run(nil)
	r.all()
	c.produce(500) // while it runs
	r.all()
	r.stop()
	c.audit()
}

func flowOfManyPartitions(c *flowCase) {
	c.make(12)
	c.produce(3000)
	r := c.run(nil, func(cfg *flow.Config) { cfg.Lanes = 3 })
	r.all()
	r.stop()
	c.audit()
}

func restartContinues(c *flowCase) {
	c.make(3)
	for range 4 {
		c.produce(200)
		r := c.run(nil)
		r.all()
		r.stop()
		c.audit()
	}
}

// restartsMidway stops the flow in order at random points of its work.
func restartsMidway(c *flowCase) {
	c.make(3)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 12 {
		c.produce(300)
		goal := c.durable() + rng.IntN(400)
		r := c.run(nil, func(cfg *flow.Config) { cfg.Batch.Records = 20 + rng.IntN(100) })
		r.await("some are durable", func() bool { return c.durable() >= min(goal, len(c.produced)) })
		r.stop()
	}
	r := c.run(nil)
	r.all()
	r.stop()
	c.audit()
}

// hardStopsMidway gives the flow no time to finish: some writes are cut off by
// their context, at any moment, and others have not begun.
func hardStopsMidway(c *flowCase) {
	c.make(3)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 12 {
		c.produce(300)
		stopAt := 1 + rng.Int64N(6)
		entered, stopped := make(chan struct{}), make(chan struct{})
		var once sync.Once
		meddle := func(ctx context.Context, n int64, _ *flow.Batch) (context.Context, error) {
			if n >= stopAt {
				once.Do(func() { close(entered) })
				<-stopped
			}
			return ctx, nil
		}
		r := c.run(meddle, func(cfg *flow.Config) { cfg.ShutdownGrace, cfg.Batch.Records = time.Nanosecond, 30 })
		release := sync.OnceFunc(func() { close(stopped) })
		c.Cleanup(release)
		r.await("a write is under way", func() bool {
			select {
			case <-entered:
				return true
			default:
				return false
			}
		})
		r.once.Do(func() {
			r.cancel()
			release()
			// An error is in order: it could not finish in time.
			_ = within(c, patience/2, "Run whose context has ended", func() error { return <-r.done })
		})
	}
	r := c.run(nil)
	r.all()
	r.stop()
	c.audit()
}

// transientErrors makes every third write fail, before it begins or in its midst.
func transientErrors(c *flowCase) {
	c.make(3)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(7, 8))
	meddle := func(ctx context.Context, n int64, _ *flow.Batch) (context.Context, error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case n%3 == 0:
			return ctx, flow.Transient(errors.New("injected"))
		case n%3 == 1 && n < 60:
			cut, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
			context.AfterFunc(cut, cancel)
			return cut, nil
		}
		return ctx, nil
	}
	c.produce(2000)
	// A write that is cut off has an error without a class: those are bounded.
	r := c.run(meddle, func(cfg *flow.Config) { cfg.Batch.Records, cfg.Retry.UnknownAttempts = 50, 1000 })
	r.all()
	r.stop()
	c.audit()
	if n := r.flow.Status().Retries; n == 0 {
		c.Errorf("the status tells of no retries")
	}
}

// poisonIsIsolated: bad records become dead letters, alone.
func poisonIsIsolated(c *flowCase) {
	c.make(2)
	for i := range 6 {
		c.produce(120 + i)
		c.produceBad()
		c.produce(3)
		if c.target.Poison != nil {
			c.bad[int64(len(c.produced))] = true
			c.produce(1, func(it *Item) { *it = c.target.Poison(*it) })
		}
	}
	r := c.run(nil)
	r.all()
	r.stop()
	c.audit()
	classes := map[flow.Stage]int{}
	for _, d := range c.dead() {
		classes[d.Stage]++
		if d.Class == "" || d.Message == "" {
			c.Errorf("the dead letter of %s at %d has class %q, message %q", d.Partition, d.Record.Offset, d.Class, d.Message)
		}
	}
	if classes[flow.StageDecode] != 6 || classes[flow.StageWrite] != len(c.bad)-6 {
		c.Errorf("dead letters by stage: %v, want 6 of decode and %d of write", classes, len(c.bad)-6)
	}
}

// oversizedRecord is larger than a batch may be, and than the buffer is.
func oversizedRecord(c *flowCase) {
	c.make(2)
	size := c.h.Source.Features.MaxRecord
	if size == 0 {
		size = 900_000
	}
	if m := c.h.Sink.Features.MaxRecord; m > 0 {
		size = min(size, m)
	}
	c.produce(50)
	for range 3 {
		c.produce(1, func(it *Item) { it.Payload = strings.Repeat("0123456789", (size-200)/10) })
	}
	c.produce(50)
	r := c.run(nil, func(cfg *flow.Config) { cfg.Batch.Bytes, cfg.Buffer = int64(size/4), int64(size/2) })
	r.all()
	r.stop()
	c.audit()
}

// backpressure holds the sink until the flow has read all that it may.
func backpressure(c *flowCase) {
	c.make(4)
	payload := strings.Repeat("x", 8<<10)
	const total, limit = 1400, 7 << 20 // 11.5 MB; the buffer, and one Read of any source
	c.produce(total, func(it *Item) { it.Payload = payload })
	gate := make(chan struct{})
	meddle := func(ctx context.Context, _ int64, _ *flow.Batch) (context.Context, error) {
		select {
		case <-gate:
			return ctx, nil
		case <-ctx.Done():
			return ctx, ctx.Err()
		}
	}
	r := c.run(meddle, func(cfg *flow.Config) { cfg.Buffer, cfg.Batch.Bytes = 1<<20, 256<<10 })
	// It has stopped reading when what it holds does not change any more.
	held, since := int64(-1), time.Now()
	r.await("the flow stops reading", func() bool {
		now := r.flow.Status().Buffered
		if now > limit {
			c.Fatalf("the flow holds %d bytes with a buffer of 1 MiB", now)
		}
		if now != held {
			held, since = now, time.Now()
		}
		return held > 0 && time.Since(since) > 300*time.Millisecond
	})
	close(gate)
	r.all()
	r.stop()
	if n := c.audit(); n != total {
		c.Errorf("%d rows: without an error nothing is read twice, want %d", n, total)
	}
}

// shutdownDrains: what was read before the end is written, and the restart
// reads on from there.
func shutdownDrains(c *flowCase) {
	c.make(3)
	c.produce(500)
	gate := make(chan struct{})
	var once sync.Once
	entered := make(chan struct{})
	meddle := func(ctx context.Context, _ int64, _ *flow.Batch) (context.Context, error) {
		once.Do(func() { close(entered) })
		<-gate
		return ctx, nil
	}
	r := c.run(meddle)
	r.await("a write is under way, and more is read", func() bool {
		select {
		case <-entered:
			return r.flow.Status().Buffered > 0
		default:
			return false
		}
	})
	r.cancel()
	close(gate)
	r.stop()
	if s := r.flow.Status(); s.Buffered != 0 || s.State != flow.StateStopped {
		c.Errorf("after the end the flow is %s and holds %d bytes", s.State, s.Buffered)
	}
	if c.durable() == 0 {
		c.Errorf("nothing of what was read is durable")
	}
	s := c.run(nil)
	s.all()
	s.stop()
	c.audit()
	if n := c.durable(); n != len(c.produced) {
		c.Errorf("%d rows after an orderly end and a restart, want %d", n, len(c.produced))
	}
}

func targetAway(c *flowCase) {
	if c.target.Break == nil {
		c.Log("nothing to test: the target of a function or of a file cannot go away")
		return
	}
	c.make(2)
	c.produce(300)
	r := c.run(nil)
	for range 3 {
		c.produce(400)
		c.target.Break(c)
		c.target.Mend(c)
		c.produce(100)
		r.all()
	}
	r.stop()
	c.audit()
}

func logAway(c *flowCase) {
	c.make(2)
	if c.topic.Break == nil {
		c.Log("nothing to test: a log that cannot go away")
		return
	}
	c.produce(300)
	r := c.run(nil)
	for range 3 {
		c.produce(400)
		c.topic.Break(c)
		c.topic.Mend(c)
		c.produce(100)
		r.all()
	}
	r.stop()
	c.audit()
}

// twoProcesses share the partitions; they come and go while records do.
func twoProcesses(c *flowCase) {
	c.make(4)
	c.produce(400)
	old := c.run(nil)
	for range 4 {
		heir := c.run(nil)
		c.produce(400)
		heir.await("some more are durable", func() bool { return c.durable() > len(c.produced)-300 })
		old.stop()
		c.produce(200)
		old = heir
	}
	old.all()
	old.stop()
	c.audit()
}
