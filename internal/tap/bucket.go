package tap

import (
	"sync"
	"time"
)

// bucket gives out so much a second, and a second's worth at once after a pause.
type bucket struct {
	mu    sync.Mutex // guards what follows
	rate  float64
	level float64
	last  time.Time
}

// set sets the rate, before the bucket is used.
func (b *bucket) set(rate float64) { b.rate, b.level = rate, max(1, rate) }

// take takes up to n, whole ones only.
func (b *bucket) take(now time.Time, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.level = min(max(1, b.rate), b.level+b.rate*max(0, now.Sub(b.last).Seconds()))
	}
	if now.After(b.last) {
		b.last = now
	}
	n = min(n, int(b.level))
	b.level -= float64(n)
	return n
}

// takeAll takes n or nothing.
func (b *bucket) takeAll(now time.Time, n int) bool {
	if got := b.take(now, n); got < n {
		b.mu.Lock()
		b.level += float64(got)
		b.mu.Unlock()
		return false
	}
	return true
}
