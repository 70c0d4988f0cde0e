// Package slab recycles arrays of many sizes, for what is decoded and delivered
// batch by batch: by the thousand from a few partitions, or by the dozen
// from a thousand.
package slab

import (
	"math/bits"
	"sync"
)

// classes are the sizes that are kept: powers of two below 1<<classes.
const classes = 16

// Pool keeps arrays for reuse. The zero value keeps none: set Max.
type Pool[T any] struct {
	// Max bounds the elements that are kept, all arrays together.
	Max int

	mu   sync.Mutex // guards what follows
	free [classes][][]T
	kept int
}

// Get returns an empty slice with room for n elements.
func (p *Pool[T]) Get(n int) []T {
	class := bits.Len(uint(max(1, n) - 1)) //nolint:gosec // not negative
	if class >= classes {
		return make([]T, 0, n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.free[class]
	if len(free) == 0 {
		return make([]T, 0, 1<<class)
	}
	s := free[len(free)-1]
	free[len(free)-1] = nil
	p.free[class] = free[:len(free)-1]
	p.kept -= cap(s)
	return s
}

// Put takes an array back, if there is room and its size is one of ours. The
// caller has cleared what must not be kept alive.
func (p *Pool[T]) Put(s []T) {
	class := bits.Len(uint(cap(s))) - 1
	if class < 0 || class >= classes || cap(s) != 1<<class || cap(s) > p.Max {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.kept+cap(s) > p.Max {
		p.drop()
	}
	p.kept += cap(s)
	p.free[class] = append(p.free[class], s[:0])
}

// drop lets the largest array go: sizes change with what is read. The caller
// holds mu, and something is kept.
func (p *Pool[T]) drop() {
	for class := classes - 1; class >= 0; class-- {
		if free := p.free[class]; len(free) > 0 {
			free[len(free)-1] = nil
			p.free[class] = free[:len(free)-1]
			p.kept -= 1 << class
			return
		}
	}
}
