package flow

import (
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// tapped is a Tap while it is shown batches.
type tapped struct {
	tap Tap
	// showing is held, shared, during calls of the tap.
	showing sync.RWMutex
	over    atomic.Bool
}

// AddTap shows the batches that are cut from now on to t. When remove has returned,
// no method of t runs, and none will be called any more; it may be called more than once, at any
// time, but not from a method of t. A tap that panics is logged and removed, and the flow
// goes on: looking at a flow must not end it.
func (f *Flow) AddTap(t Tap) (remove func()) {
	e := &tapped{tap: t}
	f.setTaps(func(all []*tapped) []*tapped { return append(all, e) })
	return func() {
		e.over.Store(true)
		f.dropTap(e)
		e.showing.Lock() // waits for calls that have begun
		defer e.showing.Unlock()
	}
}

func (f *Flow) dropTap(e *tapped) {
	f.setTaps(func(all []*tapped) []*tapped {
		return slices.DeleteFunc(all, func(o *tapped) bool { return o == e })
	})
}

// setTaps replaces the taps by what change makes of a copy of them.
func (f *Flow) setTaps(change func([]*tapped) []*tapped) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*tapped
	if old := f.taps.Load(); old != nil {
		all = slices.Clone(*old)
	}
	if all = change(all); len(all) == 0 {
		f.taps.Store(nil)
		return
	}
	f.taps.Store(&all)
}

// show calls fn for each of the taps that a batch was cut with; nil: none.
func (f *Flow) show(taps *[]*tapped, fn func(Tap)) {
	if taps == nil {
		return
	}
	for _, e := range *taps {
		f.showOne(e, fn)
	}
}

func (f *Flow) showOne(e *tapped, fn func(Tap)) {
	e.showing.RLock()
	defer e.showing.RUnlock()
	if e.over.Load() {
		return
	}
	defer func() {
		if r := recover(); r != nil && !e.over.Swap(true) {
			f.dropTap(e)
			f.log.Error("a tap has panicked and was removed; the flow goes on", slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
		}
	}()
	fn(e.tap)
}
