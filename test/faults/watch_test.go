package faults

import (
	"context"
	"sync"
	"testing"
	"time"
)

// watch looks at a process's metrics all the time.
type watch struct {
	mu sync.Mutex // guards what follows
	// most is the highest value of each metric, its labels taken together.
	most map[string]float64
}

// startWatch begins to watch. It ends with the test.
func startWatch(t *testing.T, admin string) *watch {
	t.Helper()
	w := &watch{most: map[string]float64{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			m := scrape(ctx, admin)
			w.mu.Lock()
			for name := range m {
				w.most[name] = max(w.most[name], m.sum(name))
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// reset forgets what was highest.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.most)
}

// highest is the highest value of a metric since reset.
func (w *watch) highest(name string) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most[name]
}
