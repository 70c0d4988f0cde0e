package supervisor

import (
	"context"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/tap"
)

// Pause stops the flow's reading; see flow.Flow.Pause. It holds until Resume, Stop, or the end
// of the process; a reload keeps it. The error is an ErrNoFlow or an ErrState.
func (s *Supervisor) Pause(name string) error { return s.setPaused(name, true) }

// Resume ends a Pause.
func (s *Supervisor) Resume(name string) error { return s.setPaused(name, false) }

func (s *Supervisor) setPaused(name string, paused bool) error {
	u, err := s.unit(name)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.running()
	switch {
	case u.stopped:
		return stateErrorf("flow %s is stopped: start it first", name)
	case r == nil:
		return stateErrorf("flow %s does not run: start it first", name)
	case paused:
		r.engine.Pause()
	default:
		r.engine.Resume()
	}
	u.paused = paused
	return nil
}

// Stop drains the flow, commits its positions, and frees its connections; the other members of its group take its
// partitions. It stays stopped until Start, whatever becomes of its file. If ctx ends first, the flow goes
// on stopping. The error is an ErrNoFlow, or that of ctx.
func (s *Supervisor) Stop(ctx context.Context, name string) error {
	u, err := s.unit(name)
	if err != nil {
		return err
	}
	if err := u.acquire(ctx); err != nil {
		return err
	}
	defer u.release()
	u.mu.Lock()
	u.stopped, u.paused = true, false
	u.metrics.SetStopped(true)
	u.mu.Unlock()
	return u.halt(ctx)
}

// Start starts a flow that was stopped, or has failed, and waits for up to 5 s to see whether it
// comes up. The error is an ErrNoFlow, an ErrState, or why it failed at once.
func (s *Supervisor) Start(ctx context.Context, name string) error {
	u, err := s.unit(name)
	if err != nil {
		return err
	}
	return u.startAndSettle(ctx)
}

// Tap calls fn with a sample of the records that pass through the flow, until ctx ends or the
// limit is reached. It goes on when the flow is replaced, and is silent while it does not run. The error is
// an ErrNoFlow, about the options, or that of fn.
func (s *Supervisor) Tap(ctx context.Context, name string, o tap.Options, fn func(*tap.Record) error) error {
	u, err := s.unit(name)
	if err != nil {
		return err
	}
	t, err := tap.New(name, o)
	if err != nil {
		return err
	}
	defer u.addTap(t)()
	return t.Run(ctx, fn)
}

// addTap shows t the batches of the flow, in this run and in those after it.
func (u *unit) addTap(t flow.Tap) (remove func()) {
	e := &tapping{tap: t}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taps[e] = struct{}{}
	if r := u.running(); r != nil {
		e.remove = r.engine.AddTap(t)
	}
	return func() {
		u.mu.Lock()
		delete(u.taps, e)
		remove := e.remove
		u.mu.Unlock()
		if remove != nil {
			remove()
		}
	}
}
