package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// actor is a part of the process. It returns when its context ends, or when it
// has nothing more to do, which ends the process.
type actor func(ctx context.Context) error

// runActors starts all actors. When the first one returns, the others are told
// to, one after the other in the order given, and waited for. It returns the first
// error.
func runActors(ctx context.Context, actors ...actor) error {
	type ending struct {
		i   int
		err error
	}
	endings := make(chan ending, len(actors))
	stops := make([]context.CancelFunc, len(actors))
	done := make([]sync.WaitGroup, len(actors))
	errs := make([]error, len(actors))
	for i, a := range actors {
		actx, cancel := context.WithCancel(ctx)
		stops[i] = cancel
		done[i].Go(func() {
			err := a(actx)
			errs[i] = err
			endings <- ending{i, err}
		})
	}
	first := <-endings
	for i := range actors {
		stops[i]()
		done[i].Wait()
	}
	if first.err != nil {
		return first.err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// signalRepeats is for how long more signals are the same wish: timeout(1) signals
// its child, and then the child's group as well.
const signalRepeats = time.Second

// signals returns at the first SIGINT or SIGTERM, which ends the process in
// order. One that comes after signalRepeats ends it at once.
func signals(started func(os.Signal)) actor {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	return func(ctx context.Context) error {
		select {
		case s := <-ch:
			time.AfterFunc(signalRepeats, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })
			started(s)
		case <-ctx.Done():
			signal.Stop(ch)
		}
		return nil
	}
}
