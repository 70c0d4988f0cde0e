package kafka

import (
	"context"
	"sync"
)

// gate keeps Read out while the engine answers a callback of the group, and the
// callback of an assignment waiting while Read delivers. Everybody who waits at
// it waits with a context: kgo's own locks around rebalances know none.
type gate struct {
	mu sync.Mutex
	// guarded by mu:
	shut      int           // callbacks inside
	opened    chan struct{} // closed when shut becomes 0
	reading   chan struct{} // closed by leave; nil when no Read is inside
	interrupt context.CancelFunc
}

// enter lets a Read in. The context that it returns ends with ctx, or when a
// callback wants to enter. It returns false when ctx ends before.
func (g *gate) enter(ctx context.Context) (context.Context, bool) {
	for {
		g.mu.Lock()
		if g.shut == 0 {
			inner, cancel := context.WithCancel(ctx)
			g.reading, g.interrupt = make(chan struct{}), cancel
			g.mu.Unlock()
			return inner, true
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// leave ends what enter began.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.interrupt()
	close(g.reading)
	g.reading, g.interrupt = nil, nil
}

// close keeps the next Read out and interrupts one that waits for records.
func (g *gate) close() (reading <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == 0 {
		g.opened = make(chan struct{})
	}
	g.shut++
	if g.interrupt != nil {
		g.interrupt()
	}
	return g.reading
}

// closeAndWait is close, and waits for a Read inside to leave. When ctx ends
// before, the gate is as it was and the error is ctx's.
func (g *gate) closeAndWait(ctx context.Context) error {
	reading := g.close()
	if reading == nil {
		return nil
	}
	select {
	case <-reading:
		return nil
	case <-ctx.Done():
		g.open()
		return ctx.Err()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut--
	if g.shut == 0 {
		close(g.opened)
	}
}

// wake makes a Read that waits for records come out and look around.
func (g *gate) wake() {
	g.close()
	g.open()
}
