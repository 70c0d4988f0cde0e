package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/telemetry"
)

const (
	// trialTime is how long a flow whose configuration was changed is on trial: one that fails before, or
	// before it has written anything, is replaced by what ran before.
	trialTime = 30 * time.Second
	// startTime is how long Start and Reload wait to see whether a flow comes up.
	startTime = 5 * time.Second
	// closeTime is what a flow may take beyond its grace to end.
	closeTime = 40 * time.Second
	// The waits before a flow that failed for an unknown reason is started again; after steadyTime
	// without a failure they begin anew.
	firstRestart, lastRestart = 30 * time.Second, 10 * time.Minute
	steadyTime                = 10 * time.Minute
)

// unit is one flow of the process, whether it runs or not.
type unit struct {
	s *Supervisor
	// ops is held by whoever starts, stops or replaces the flow. Waiting for it has a context.
	ops chan struct{}
	// changing: a reload is at work on the flow. Guarded by Supervisor.reloading.
	changing bool

	mu   sync.Mutex // guards what follows
	name string
	file string
	// metrics are those of the name.
	metrics *telemetry.FlowMetrics
	// cfg is what runs, or what a start would run.
	cfg *config.Flow
	// run is the last one; nil before the first.
	run *run
	// err is why the flow could not even be made.
	err             error
	stopped, paused bool
	// gone: its file is, and it is forgotten; who still knows it must not start it.
	gone   bool
	since  time.Time
	starts int
	// failures counts those in a row.
	failures int
	// reloadError says why the file was refused; rejected is what it said then.
	reloadError string
	rejected    *config.Flow
	taps        map[*tapping]struct{}
}

// tapping is a tap that stays while flows are replaced.
type tapping struct {
	tap    flow.Tap
	remove func() // from the flow that runs; nil while none does
	end    context.CancelCauseFunc
}

// run is one life of a flow.
type run struct {
	engine *flow.Flow
	cfg    *config.Flow
	file   string
	// fallback is what ran before; nil where nothing did.
	fallback *config.Flow
	began    time.Time
	cancel   context.CancelFunc
	// told is when the flow was told to stop; zero before. Guarded by unit.mu.
	told time.Time
	// done is closed when the flow has ended, with err set before, and settled when what
	// follows from that has been done.
	done, settled chan struct{}
	err           error
}

// unproven says that the run replaces another of the same name, and nothing shows yet that it works.
func (r *run) unproven() bool {
	return r.fallback != nil && r.fallback.Name == r.cfg.Name && r.engine.Status().Batches == 0 && time.Since(r.began) < trialTime
}

func newUnit(s *Supervisor, file string, cfg *config.Flow) *unit {
	return &unit{
		s: s, ops: make(chan struct{}, 1), name: cfg.Name, file: file, cfg: cfg, since: time.Now(),
		metrics: s.o.Metrics.Flow(cfg.Name), taps: map[*tapping]struct{}{},
	}
}

// acquire waits for the right to start, stop or replace the flow.
func (u *unit) acquire(ctx context.Context) error {
	select {
	case u.ops <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flow %s is being started or stopped: %w", u.config().Name, ctx.Err())
	}
}

func (u *unit) release() { <-u.ops }

func (u *unit) config() *config.Flow {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cfg
}

// current is the run that has not ended; nil if there is none.
func (u *unit) current() *run {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.running()
}

// running is current, called with mu held.
func (u *unit) running() *run {
	if u.run == nil {
		return nil
	}
	select {
	case <-u.run.done:
		return nil
	default:
		return u.run
	}
}

// build makes the connectors of a copy: what configurations are compared by stays as it was
// read, whatever building puts into them.
func (s *Supervisor) build(cfg *config.Flow, observer flow.Observer) (flow.Config, error) {
	c := *cfg
	for _, choice := range []*connect.Choice{&c.Source, &c.Sink, &c.DeadLetters} {
		if choice.Connector != nil {
			read := reflect.ValueOf(choice.Config).Elem()
			own := reflect.New(read.Type())
			own.Elem().Set(read)
			choice.Config = own.Interface()
		}
	}
	return c.Build(s.log, observer)
}

// check makes the engine of a configuration, and drops it: what cannot be made is refused before
// anything is stopped for it.
func (s *Supervisor) check(cfg *config.Flow) error {
	c, err := s.build(cfg, nil)
	if err != nil {
		return err
	}
	_, err = flow.New(c)
	return err
}

// prepare makes the engine of a configuration. It connects to nothing.
func (u *unit) prepare(cfg *config.Flow) (*flow.Flow, error) {
	u.mu.Lock()
	m := u.metrics
	u.mu.Unlock()
	c, err := u.s.build(cfg, m)
	if err != nil {
		return nil, err
	}
	m.Describe(cfg.Source.Connector.Name, cfg.Sink.Connector.Name, &c)
	engine, err := flow.New(c)
	if err != nil {
		return nil, err
	}
	if t := m.Tap(); t != nil {
		engine.AddTap(t)
	}
	m.Watch(engine.Status)
	m.SetStopped(false)
	return engine, nil
}

// start starts the flow as it is configured, unless it runs.
func (u *unit) start(ctx context.Context) (*run, error) {
	if err := u.acquire(ctx); err != nil {
		return nil, err
	}
	defer u.release()
	if r := u.current(); r != nil {
		if !u.told(r) {
			return nil, stateErrorf("flow %s runs already", r.cfg.Name)
		}
		select { // somebody did not wait for the end
		case <-r.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("flow %s is still being stopped: %w", r.cfg.Name, ctx.Err())
		}
	}
	return u.launch(u.config(), nil) //nolint:contextcheck // flows outlive the call that starts them
}

// goneError is the error of whoever wants something of a flow that is gone.
func goneError(name string) error {
	return fmt.Errorf("flow %q: %w any more: its file is gone", name, ErrNoFlow)
}

// told says whether the run was told to stop.
func (u *unit) told(r *run) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !r.told.IsZero()
}

// launch makes and runs a flow. An error is noted and logged, unless it is about the process.
// Called with ops held, and no flow running.
func (u *unit) launch(cfg, fallback *config.Flow) (*run, error) {
	u.mu.Lock()
	name, file, gone := u.name, u.file, u.gone
	u.mu.Unlock()
	if gone {
		return nil, goneError(name)
	}
	ctx, done, err := u.s.begin()
	if err != nil {
		return nil, err
	}
	engine, err := u.prepare(cfg)
	if err != nil {
		done()
		u.fail(err)
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &run{
		engine: engine, cfg: cfg, file: file, fallback: fallback, began: time.Now(), cancel: cancel,
		done: make(chan struct{}), settled: make(chan struct{}),
	}
	u.mu.Lock()
	u.run, u.cfg, u.err, u.stopped, u.since = r, cfg, nil, false, r.began
	u.starts++
	if u.paused {
		engine.Pause()
	}
	for t := range u.taps {
		t.remove = engine.AddTap(t.tap)
	}
	u.mu.Unlock()
	go func() {
		defer done()
		defer close(r.settled)
		defer cancel()
		r.err = engine.Run(ctx)
		close(r.done)
		u.ended(r) //nolint:contextcheck // flows outlive the call that starts them
	}()
	return r, nil
}

// halt tells the flow to stop and waits until it has, for as long as one that does not hang may
// take. Called with ops held.
func (u *unit) halt(ctx context.Context) error {
	r := u.current()
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Shutdown.Grace+closeTime)
	defer cancel()
	u.mu.Lock()
	if r.told.IsZero() {
		r.told = time.Now()
	}
	u.mu.Unlock()
	r.cancel()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flow %s is still writing what it has read: %w", r.cfg.Name, ctx.Err())
	}
}

// ended does what follows from the end of a run.
func (u *unit) ended(r *run) {
	u.mu.Lock()
	u.since = time.Now()
	told, name := !r.told.IsZero(), u.name
	u.mu.Unlock()
	log := u.s.log.With(slog.String("flow", name))
	st := r.engine.Status()
	if r.err == nil {
		log.Info("stopped", slog.Int64("records", st.Records), slog.Int64("rows", st.Rows), slog.Int64("dead_letters", st.Dead))
		return
	}
	log.Error("failed", slog.Any("error", r.err))
	ctx, done, err := u.s.begin()
	if told || err != nil {
		if err == nil {
			done()
		}
		return // it was to end
	}
	defer done()
	if r.fallback != nil && (st.Batches == 0 || time.Since(r.began) < trialTime) {
		u.restore(ctx, r)
		return
	}
	if u.s.alone {
		u.s.end(r.err)
		return
	}
	if flow.ClassOf(r.err) == flow.ClassUnknown {
		u.restartLater(r)
	}
}

// end ends Run with the error; the first counts.
func (s *Supervisor) end(err error) {
	select {
	case s.over <- err:
	default:
	}
}

// restore starts again what ran before r, which has failed.
func (u *unit) restore(ctx context.Context, r *run) {
	if u.acquire(ctx) != nil {
		return
	}
	defer u.release()
	u.mu.Lock()
	mine := u.run == r && !u.stopped
	if mine {
		u.reloadError, u.rejected = r.err.Error(), r.cfg
	}
	u.mu.Unlock()
	if !mine {
		return // somebody has started something else
	}
	if err := u.rename(r.fallback.Name); err != nil {
		u.fail(fmt.Errorf("starting what ran before: %w", err))
		return
	}
	if _, err := u.launch(r.fallback, nil); err != nil { //nolint:contextcheck // flows outlive the call that starts them
		return
	}
	u.s.o.Metrics.Reloaded(r.err)
	u.s.log.Warn("the changed flow has failed: what ran before was started again", slog.String("flow", r.fallback.Name), slog.String("file", r.file))
}

// rename gives the unit another name.
func (u *unit) rename(name string) error {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.name == name {
		return nil
	}
	if s.units[name] != nil {
		return stateErrorf("there is a flow %s by now", name)
	}
	u.metrics.Remove()
	delete(s.units, u.name)
	s.units[name], u.name, u.metrics = u, name, s.o.Metrics.Flow(name)
	return nil
}

// restartLater starts the flow again after a while, unless somebody has done something with it
// by then.
func (u *unit) restartLater(r *run) {
	ctx, done, err := u.s.begin()
	if err != nil {
		return
	}
	u.mu.Lock()
	if time.Since(r.began) > steadyTime {
		u.failures = 0
	}
	wait := min(firstRestart<<min(u.failures, 10), lastRestart)
	u.failures++
	u.mu.Unlock()
	u.s.log.Info("the flow will be started again", slog.String("flow", r.cfg.Name), slog.Duration("wait", wait))
	go func() {
		defer done()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if u.acquire(ctx) != nil {
			return
		}
		defer u.release()
		u.mu.Lock()
		mine := u.run == r && !u.stopped
		u.mu.Unlock()
		if !mine {
			return
		}
		_, _ = u.launch(r.cfg, nil) //nolint:contextcheck // flows outlive the call that starts them; an error was logged
	}()
}

// startAndSettle starts the flow and waits to see whether it comes up.
func (u *unit) startAndSettle(ctx context.Context) error {
	r, err := u.start(ctx)
	if err != nil {
		return err
	}
	return u.settle(ctx, r)
}

// fail notes and logs why the flow could not be started.
func (u *unit) fail(err error) {
	u.mu.Lock()
	u.err, u.since = err, time.Now()
	name := u.name
	u.mu.Unlock()
	u.s.log.Error("failed", slog.String("flow", name), slog.Any("error", err))
	if u.s.alone {
		u.s.end(err)
	}
}

// failure is why the flow does not run though it should; nil if it runs, or should not.
func (u *unit) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.stopped:
		return nil
	case u.err != nil:
		return u.err
	case u.run == nil:
		return nil
	}
	select {
	case <-u.run.done:
		return u.run.err
	default:
		return nil
	}
}

// hangs returns an error if the flow was told to stop and has not, for far too long.
func (u *unit) hangs(now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.running()
	if r == nil || r.told.IsZero() {
		return nil
	}
	if over := now.Sub(r.told) - r.cfg.Shutdown.Grace; over > closeTime {
		return fmt.Errorf("flow %s was told to stop %s ago and hangs", u.name, now.Sub(r.told).Round(time.Second))
	}
	return nil
}

// settle waits until the run is up, has failed (the error), or startTime is over. It returns nil
// for a flow that is still connecting, or tries to again.
func (u *unit) settle(ctx context.Context, r *run) error {
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		switch st := r.engine.Status(); st.State {
		case flow.StateRunning, flow.StatePaused, flow.StateRetrying, flow.StateWaiting:
			return nil
		case flow.StateStarting:
			if st.Retries > 0 {
				return nil // something is away, and may stay so
			}
		case flow.StateStopping, flow.StateStopped:
		}
		select {
		case <-r.settled:
			return r.err
		case <-tick.C:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// view is the flow as it is shown.
func (u *unit) view() FlowView {
	u.mu.Lock()
	v := FlowView{
		Name: u.name, File: u.file, Paused: u.paused, Stopped: u.stopped, Since: u.since, Restarts: max(0, u.starts-1), ReloadError: u.reloadError,
		Source: u.cfg.Source.Connector.Name, Sink: u.cfg.Sink.Connector.Name,
		Status: flow.Status{Flow: u.name, State: flow.StateStarting},
	}
	if u.run != nil {
		v.Status = u.run.engine.Status()
	}
	if u.err != nil {
		v.Status.State, v.Status.Err = flow.StateStopped, u.err
	}
	m := u.metrics
	u.mu.Unlock()
	v.Metrics = m.Snapshot()
	reason, err := m.Ready()
	if err != nil {
		reason = err.Error()
	}
	v.Ready, v.Reason = err == nil, reason
	return v
}

// place is the flow's name and its file.
func (u *unit) place() (name, file string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.name, u.file
}
