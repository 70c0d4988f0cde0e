package supervisor

import (
	"context"
	"errors"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/position"
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
// an ErrNoFlow (of a flow whose file is gone meanwhile, too), about the options, or that of fn.
func (s *Supervisor) Tap(ctx context.Context, name string, o tap.Options, fn func(*tap.Record) error) error {
	u, err := s.unit(name)
	if err != nil {
		return err
	}
	t, err := tap.New(name, o)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer u.addTap(t, end)()
	if err := t.Run(ctx, fn); err != nil {
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, ErrNoFlow) {
		return err
	}
	return nil
}

// addTap shows t the batches of the flow, in this run and in those after it. End is called with the reason
// when there will be none any more.
func (u *unit) addTap(t flow.Tap, end context.CancelCauseFunc) (remove func()) {
	e := &tapping{tap: t, end: end}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone {
		end(goneError(u.name))
	}
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

// Positions returns where the flow stands in all partitions of its topics, those of other processes
// included. The flow may run or not. The error is an ErrNoFlow, or what a service says.
func (s *Supervisor) Positions(ctx context.Context, name string) ([]position.Position, error) {
	u, err := s.unit(name)
	if err != nil {
		return nil, err
	}
	c, err := s.build(u.config(), nil)
	if err != nil {
		return nil, err
	}
	return position.Show(ctx, c)
}

// SetPositions says what setting the flow's positions to the target would do, and with apply does it.
// The flow may run while it is asked, and must be stopped for it to be done: here by Stop, or because it has failed, and
// in all other processes. The error is an ErrNoFlow, an ErrState, one of package position, or what a service
// says.
func (s *Supervisor) SetPositions(ctx context.Context, name string, target position.Target, apply bool) (*position.Plan, error) {
	u, err := s.unit(name)
	if err != nil {
		return nil, err
	}
	if apply { // nobody starts the flow meanwhile
		if err := u.acquire(ctx); err != nil {
			return nil, err
		}
		defer u.release()
		if u.current() != nil {
			return nil, stateErrorf("flow %s runs: stop it first, or its next commit would undo what is set", name)
		}
	}
	file := u.config()
	c, err := s.build(file, nil)
	if err != nil {
		return nil, err
	}
	plan, err := position.Make(ctx, c, file.Writings(), target)
	if err != nil || !apply {
		return plan, err
	}
	if c, err = s.build(file, nil); err != nil {
		return nil, err
	}
	return plan, position.Apply(ctx, c, plan)
}
