package flowtest

import (
	"context"
	"fmt"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// pump reads from a source in a goroutine of its own until stop.
type pump struct {
	*reader
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

func (r *reader) pump() *pump {
	ctx, cancel := context.WithCancel(r.c.ctx)
	p := &pump{reader: r, cancel: cancel, done: make(chan error, 1)}
	go func() { p.done <- r.read(ctx, func() bool { return ctx.Err() != nil }) }()
	r.c.Cleanup(func() { p.once.Do(func() { cancel(); discard(<-p.done) }) })
	return p
}

// stop ends reading, and closes the source.
func (p *pump) stop() {
	p.c.Helper()
	p.once.Do(func() {
		p.cancel()
		if err := within(p.c, soon, "Read whose context has ended", func() error { return <-p.done }); err != nil {
			p.c.Fatalf("while reading: %v", err)
		}
		p.close()
	})
}

// member joins a group whose checkpoint all its members share.
func (c *sourceCase) member(h *handover) *pump {
	c.Helper()
	r := c.open(SourceStart{Group: "shared"})
	r.in.shared = h
	r.subscribe()
	return r.pump()
}

func delivered(ps ...*pump) (n int) {
	for _, p := range ps {
		n += p.in.count()
	}
	return n
}

// shared waits until the members own all partitions, each at least least.
func (c *sourceCase) sharedBy(partitions, least int, ps ...*pump) {
	c.Helper()
	eventually(c, patience/2, "the members share the partitions", func() bool {
		all := map[flow.Partition]bool{}
		for _, p := range ps {
			owned := p.in.ownedNow()
			if len(owned) < least {
				return false
			}
			for _, o := range owned {
				all[o] = true
			}
		}
		return len(all) == partitions
	})
}

// together compares what the members read with what was produced.
func (c *sourceCase) together(ps ...*pump) {
	c.Helper()
	for id, want := range c.want {
		var got []flow.Record
		for _, p := range ps {
			got = append(got, p.in.records(c.partition(id))...)
		}
		slices.SortFunc(got, func(a, b flow.Record) int { return int(a.Offset - b.Offset) })
		c.compare(id, want, got)
	}
}

func groupShares(c *sourceCase) {
	n := c.make(4)
	h := newHandover()
	for id := range n {
		c.produce(int32(id), 100)
	}
	a := c.member(h)
	c.sharedBy(n, n, a)
	b := c.member(h)
	c.sharedBy(n, 1, a, b)
	for id := range n {
		c.produce(int32(id), 100)
	}
	eventually(c, patience/2, "the members have read everything", func() bool { return delivered(a, b) >= c.produced() })
	if slices.ContainsFunc(a.in.ownedNow(), func(p flow.Partition) bool { return slices.Contains(b.in.ownedNow(), p) }) {
		c.Errorf("two members own a partition: %v and %v", a.in.ownedNow(), b.in.ownedNow())
	}
	a.stop()
	b.stop()
	c.together(a, b)
}

// groupTakesOver: members come and go while records do.
func groupTakesOver(c *sourceCase) {
	n := c.make(4)
	h := newHandover()
	a, b := c.member(h), c.member(h)
	all := []*pump{a, b}
	c.sharedBy(n, 1, a, b)
	for id := range n {
		c.produce(int32(id), 200)
	}
	b.stop() // leaves at once, not by timeout
	c.sharedBy(n, n, a)
	for id := range n {
		c.produce(int32(id), 100)
	}
	d := c.member(h)
	all = append(all, d)
	a.stop()
	c.sharedBy(n, n, d)
	for id := range n {
		c.produce(int32(id), 100)
	}
	eventually(c, patience/2, "the members have read everything", func() bool { return delivered(all...) >= c.produced() })
	d.stop()
	c.together(all...)
}

func closeSourceTwice(c *sourceCase) {
	c.make(1)
	c.produce(0, 10)
	r := c.start(SourceStart{})
	r.readAll()
	r.close()
	r.close()
	s := c.open(SourceStart{}) // never subscribed
	s.close()
	s.close()
}

func closeSourceBeforeOpen(c *sourceCase) {
	c.make(1)
	s := c.topic.Source(c, SourceStart{})
	for range 2 {
		must(c, within(c, soon, "Close before Open", func() error { return s.Close(c.ctx) }), "Close before Open")
	}
}

// closeAfterBlockedRead: a Read that waits ends with its context, and the
// source can be closed at once.
func closeAfterBlockedRead(c *sourceCase) {
	c.make(2)
	r := c.start(SourceStart{})
	p := r.pump()
	eventually(c, patience/2, "assigned", func() bool { return len(r.in.ownedNow()) > 0 })
	if c.topic.Break != nil {
		c.topic.Break(c)
		defer c.topic.Mend(c)
	}
	p.cancel()
	p.once.Do(func() {
		must(c, within(c, soon, "Read whose context has ended", func() error { return <-p.done }), "Read")
	})
	ctx, cancel := context.WithTimeout(c.ctx, soon/5)
	defer cancel()
	err := within(c, soon, "Close", func() error { return r.source.Close(ctx) })
	if err != nil && c.topic.Break == nil {
		c.Errorf("Close: %v", err)
	}
}

// closeEndsAssigned: an Assigned that waits for its database does not hold up Close.
func closeEndsAssigned(c *sourceCase) {
	c.make(1)
	r := c.open(SourceStart{})
	entered := make(chan struct{})
	var once sync.Once
	r.in.onAssigned = func(ctx context.Context) {
		once.Do(func() { close(entered) })
		<-ctx.Done()
	}
	// Whether Assigned is called by Subscribe, by Read or by a goroutine of the
	// source is its own affair.
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() {
		err := r.source.Subscribe(ctx, r.in)
		if err == nil {
			err = r.read(ctx, func() bool { return ctx.Err() != nil })
		}
		done <- err
	}()
	must(c, within(c, patience/2, "the first assignment", func() error { <-entered; return nil }), "Assigned")
	cancel()
	_ = within(c, soon, "Read whose context has ended", func() error { return <-done })
	if err := within(c, 2*soon, "Close while Assigned waits", func() error { return r.source.Close(c.ctx) }); err != nil {
		c.Errorf("Close while Assigned waits: %v", err)
	}
}

func nothingAfterClose(c *sourceCase) {
	c.make(1)
	c.produce(0, 10)
	r := c.start(SourceStart{})
	r.readAll()
	r.close()
	r.in.end()
	c.produce(0, 10)
	ctx, cancel := context.WithTimeout(c.ctx, soon/20)
	defer cancel()
	_ = within(c, soon, "Read after Close", func() error { return r.source.Read(ctx) }) // an error, or nil: but soon
	must(c, r.in.broken(), "the contract")
	if _, err := r.source.Open(ctx); err == nil {
		c.Errorf("Open after Close returned nil")
	}
}

// sourceAwayAndBack: the log goes away and comes back, again and again, while
// the source reads.
func sourceAwayAndBack(c *sourceCase) {
	n := c.make(2)
	if c.topic.Break == nil {
		c.Log("nothing to test: a log that cannot go away")
		return
	}
	r := c.start(SourceStart{})
	p := r.pump()
	for range 4 {
		for id := range n {
			c.produce(int32(id), 300)
		}
		c.topic.Break(c)
		c.topic.Mend(c)
		for id := range n {
			c.produce(int32(id), 50)
		}
		eventually(c, patience/2, "everything is read after the log is back", func() bool { return r.in.count() >= c.produced() })
	}
	p.stop()
	r.check()

	// Open says that the log is away, and can be called again.
	c.topic.Break(c)
	s := c.topic.Source(c, SourceStart{})
	c.Cleanup(func() { _ = s.Close(context.Background()) })
	ctx, cancel := context.WithTimeout(c.ctx, soon/5)
	_, err := s.Open(ctx)
	cancel()
	c.topic.Mend(c)
	if class := flow.ClassOf(err); err == nil || class != flow.ClassTransient && class != flow.ClassUnknown {
		c.Fatalf("Open without the log returned %v, want an error that is worth a retry", err)
	}
	eventually(c, patience/2, "Open succeeds, called again", func() bool {
		_, err := s.Open(c.ctx)
		return err == nil
	})
}

// leavesNoGoroutines opens, reads and closes, and looks for goroutines that
// were started meanwhile. They inherit the profiler's label of whoever starts
// them, which tells them from those of tests that run at the same time.
func leavesNoGoroutines(c *sourceCase) {
	c.make(2)
	c.produce(0, 10)
	once := func() {
		r := c.start(SourceStart{})
		r.readUntil("read", func() bool { return r.in.count() >= 10 })
		r.close()
	}
	once() // whatever is made once per process
	label := fmt.Sprintf("%s %p", c.Name(), c)
	pprof.SetGoroutineLabels(pprof.WithLabels(c.ctx, pprof.Labels("flowtest", label)))
	defer pprof.SetGoroutineLabels(context.Background())
	for range 3 {
		once()
	}
	pprof.SetGoroutineLabels(context.Background())
	eventually(c, soon, "the goroutines of closed sources have ended", func() bool {
		var stacks strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
			c.Fatalf("list the goroutines: %v", err)
		}
		return !strings.Contains(stacks.String(), strconv.Quote(label))
	})
}
