package flowtest

import (
	"context"

	"github.com/penstockdev/penstock/flow"
)

func (c *sinkCase) closeSink(s flow.Sink) {
	c.Helper()
	if err := within(c, soon, "Close", func() error { return s.Close(c.ctx) }); err != nil {
		c.Errorf("Close: %v", err)
	}
}

func closeTwice(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 3)})
	must(c, p.w.Close(), "Close of the writer")
	c.closeSink(p.sink)
	c.closeSink(p.sink)
	c.rows(items(0, 3))
}

func closeBeforeOpen(c *sinkCase) {
	s := c.target.Sink(c)
	c.closeSink(s)
	c.closeSink(s)
	// Another one is not disturbed by it, nor by writers that never wrote.
	p := c.start()
	must(c, p.w.Close(), "Close of a writer that wrote nothing")
}

// closeAfterBlockedWrite: a write that cannot go on ends with its context, and
// writer and sink can be closed at once.
func closeAfterBlockedWrite(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 3)})
	if c.target.Break != nil {
		c.target.Break(c)
		defer c.target.Mend(c)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	b := p.batch(piece{partition: 0, items: items(3, 2_000)})
	done := make(chan error, 1)
	go func() { done <- p.w.Write(ctx, b) }()
	cancel()
	_ = within(c, soon, "Write whose context has ended", func() error { return <-done })
	must(c, within(c, soon, "Close of the writer", p.w.Close), "Close of the writer")
	if err := within(c, soon, "Close", func() error { return p.sink.Close(c.ctx) }); err != nil {
		c.Logf("Close of a sink whose target is away: %v", err) // allowed, if it is soon
	}
}

// awayAndBack: the target goes away and comes back between and during writes.
func awayAndBack(c *sinkCase) {
	if c.target.Break == nil {
		c.Log("nothing to test: the target of a function or of a file cannot go away")
		return
	}
	p := c.start()
	var want []Item
	for n := range 5 {
		some := items(n*100, 100)
		b := p.batch(piece{partition: 0, items: some[:30]}, piece{partition: 1, items: some[30:]})
		c.target.Break(c)
		ctx, cancel := context.WithTimeout(c.ctx, soon/10)
		err := within(c, 2*soon, "Write without a target", func() error { return p.w.Write(ctx, b) })
		cancel()
		if err == nil {
			c.target.Mend(c)
			c.Fatalf("Write returned nil while the target was away")
		}
		if class := flow.ClassOf(err); class != flow.ClassTransient && (class != flow.ClassUnknown || ctx.Err() == nil) {
			c.target.Mend(c)
			c.Fatalf("a target that is away is a transient error, have class %s: %v", class, err)
		}
		c.target.Mend(c)
		if err := p.retry(b); err != nil {
			c.Fatalf("the target is back, but: %v", err)
		}
		p.wrote(b)
		want = append(want, some...)
		c.rows(want)
	}

	// Broken at some moment of a big write: exactly once all the same.
	some := items(1000, 10_000)
	b := p.batch(piece{partition: 0, items: some})
	done := make(chan error, 1)
	go func() { done <- p.retry(b) }()
	c.target.Break(c)
	c.target.Mend(c)
	if err := within(c, patience, "Write after the target is back", func() error { return <-done }); err != nil {
		c.Fatalf("the target went away during a write and came back: %v", err)
	}
	p.wrote(b)
	if c.ExactlyOnce {
		c.rows(want, some)
	}
	if p.cp != nil { // the control connection is mended as well
		p.claim(0, 1)
		p.writer()
		p.write(piece{partition: 0, items: items(20_000, 5)})
		c.rows(want, some, items(20_000, 5))
	}
}

// openWhileAway: Open says that the target is away, and can be called again.
func openWhileAway(c *sinkCase) {
	if c.target.Break == nil {
		c.Log("nothing to test: the target of a function or of a file cannot go away")
		return
	}
	c.target.Break(c)
	s := c.target.Sink(c)
	c.Cleanup(func() { _ = s.Close(context.Background()) })
	ctx, cancel := context.WithTimeout(c.ctx, soon/5)
	err := within(c, 2*soon, "Open without a target", func() error { return s.Open(ctx, c.setup()) })
	cancel()
	c.target.Mend(c)
	if err == nil {
		c.Fatalf("Open returned nil while the target was away")
	}
	if class := flow.ClassOf(err); class != flow.ClassTransient && class != flow.ClassUnknown {
		c.Fatalf("a target that is away is not an error of class %s: %v", class, err)
	}
	var again error
	eventually(c, patience/2, "Open succeeds, called again", func() bool {
		again = s.Open(c.ctx, c.setup())
		return again == nil
	})
}
