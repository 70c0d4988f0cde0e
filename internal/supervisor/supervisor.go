package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/telemetry"
)

// The errors that a caller tells apart.
var (
	// ErrNoFlow says that there is no flow of that name.
	ErrNoFlow = errors.New("there is no such flow")
	// ErrState says that the flow's state does not allow it.
	ErrState = errors.New("not in this state")
)

// stateError is an ErrState that is a sentence.
type stateError string

func (e stateError) Error() string         { return string(e) }
func (e stateError) Is(err error) bool     { return err == ErrState }
func stateErrorf(f string, a ...any) error { return stateError(fmt.Sprintf(f, a...)) }

// Options say which flows to run, and how.
type Options struct {
	// Paths are flow files, and directories of them. Required.
	Paths []string
	// Lint reads and checks flow files, as config.Lint does, always with the same
	// connect.Registry. Required.
	Lint func(paths []string) ([]*config.Linted, error)
	// Watch makes changes of the files count without Reload.
	Watch bool
	// Logger; default slog.Default().
	Logger *slog.Logger
	// Metrics are the process's, and give the flows their traces; default: some that nobody sees.
	Metrics *telemetry.Registry
}

// Supervisor runs flows. Its methods may be called at any time, from any goroutine.
type Supervisor struct {
	o   Options
	log *slog.Logger
	// alone: the process is that of one flow.
	alone bool
	admin config.Admin
	// over ends Run: the flow of a process of one has failed.
	over chan error

	reloading sync.Mutex // held while files are read; guards what follows, and unit.changing; before unit.ops
	// adminSeen is what the files say of the admin section now.
	adminSeen config.Admin
	// freed is closed, and made anew, when a reload is done with a flow.
	freed chan struct{}
	// waiting: somebody reads the files again when a flow is freed, because a file has changed.
	waiting bool

	mu    sync.Mutex // guards what follows; after unit.ops, before unit.mu
	units map[string]*unit
	// refused is why each file was refused, by path; what was said is not said again.
	refused map[string]string
	// ctx is what flows run under; nil unless they may be started.
	ctx context.Context //nolint:containedctx // flows are started by calls with contexts of their own
	wg  sync.WaitGroup  // of flows and of what waits for them; added to with mu held
}

// New reads the flow files. The error is a config.Problems with everything that is wrong with
// them.
func New(o Options) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = telemetry.NewRegistry("")
	}
	o.Paths = slices.Clone(o.Paths)
	for i, path := range o.Paths {
		o.Paths[i] = filepath.Clean(path)
	}
	s := &Supervisor{
		o: o, log: o.Logger, over: make(chan error, 1), freed: make(chan struct{}),
		units: map[string]*unit{}, refused: map[string]string{},
	}
	files, err := s.read(o.Paths)
	if err != nil {
		return nil, err
	}
	s.alone = len(o.Paths) == 1 && len(files) == 1 && files[0].path == o.Paths[0]
	var ps config.Problems
	for _, f := range files {
		ps = append(ps, problemsOf(f.path, f.err)...)
	}
	admin, more := adminOf(files)
	if ps = append(ps, more...); len(ps) > 0 {
		return nil, ps
	}
	s.admin, s.adminSeen = admin, admin
	for _, f := range files {
		if err := s.check(f.flow); err != nil {
			return nil, problemsOf(f.path, err)
		}
		s.warn(f)
		s.units[f.flow.Name] = newUnit(s, f.path, f.flow)
	}
	return s, nil
}

// adminOf is the admin section of the process: those of the files that have one must be equal.
func adminOf(files []*file) (admin config.Admin, ps config.Problems) {
	first := ""
	for _, f := range files {
		switch {
		case f.err != nil || f.flow.Admin == (config.Admin{}):
		case first == "":
			first, admin = f.path, f.flow.Admin
		case f.flow.Admin != admin:
			ps = append(ps, &config.Problem{
				File: f.path, Path: "admin", Severity: config.SeverityError,
				Message: "admin is not what it is in " + first + ", and a process has one admin server; make them equal, or leave all but one out",
			})
		}
	}
	return admin, ps
}

// Admin is the admin section of the process.
func (s *Supervisor) Admin() config.Admin { return s.admin }

// Run starts the flows and runs them until ctx ends. Then all of them are drained at the same
// time, each within its grace. It returns the errors of the flows that had failed and were not started again. Call
// it once.
func (s *Supervisor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.checkMemory()
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	for _, u := range s.all() {
		_, _ = u.start(ctx) // an error was logged
	}
	var watching sync.WaitGroup
	if s.o.Watch {
		watching.Go(func() { s.watch(ctx) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-s.over:
	}
	s.mu.Lock()
	s.ctx = nil // nothing is started from here on
	s.mu.Unlock()
	cancel()
	watching.Wait()
	s.wg.Wait()
	if err != nil {
		return err
	}
	var names []string
	var errs []error
	for _, u := range s.all() {
		if err := u.failure(); err != nil {
			name, _ := u.place()
			names, errs = append(names, name), append(errs, err)
		}
	}
	if len(errs) > 0 && !s.alone {
		s.log.Error("flows had failed and were not repaired", slog.Any("flows", names))
	}
	return errors.Join(errs...)
}

// checkMemory compares what the flows may hold with the process's limit.
func (s *Supervisor) checkMemory() {
	var sum connect.Bytes
	units := s.all()
	for _, u := range units {
		sum += u.config().Buffer
	}
	limit := debug.SetMemoryLimit(-1)
	attrs := []any{slog.Int("flows", len(units)), slog.String("buffers", sum.String())}
	if limit == math.MaxInt64 {
		s.log.Info("memory", append(attrs, slog.String("limit", "none"))...)
		return
	}
	attrs = append(attrs, slog.String("limit", connect.Bytes(limit).String()))
	if int64(sum) > limit/2 {
		s.log.Warn("the flows' buffers may take more than half of the memory, and fetching, decoding and writing need as much again: "+
			"make buffer smaller, or the limit (GOMEMLIMIT, or that of the container) larger", attrs...)
		return
	}
	s.log.Info("memory", attrs...)
}

// all are the units by name.
func (s *Supervisor) all() []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	units := make([]*unit, 0, len(s.units))
	for _, name := range slices.Sorted(maps.Keys(s.units)) {
		units = append(units, s.units[name])
	}
	return units
}

// unit finds a flow.
func (s *Supervisor) unit(name string) (*unit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[name]; u != nil {
		return u, nil
	}
	if len(s.units) == 0 {
		return nil, fmt.Errorf("flow %q: %w: there are none", name, ErrNoFlow)
	}
	return nil, fmt.Errorf("flow %q: %w; there are: %s", name, ErrNoFlow, strings.Join(slices.Sorted(maps.Keys(s.units)), ", "))
}

// begin says under which context something may run; done must be called when it has ended.
func (s *Supervisor) begin() (ctx context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil, nil, stateErrorf("the process is starting or stopping")
	}
	s.wg.Add(1)
	return s.ctx, s.wg.Done, nil
}

// FlowView is a flow as it is shown.
type FlowView struct {
	// Name is the flow's, File the path of its file.
	Name, File string
	// Status is the flow's own. Its State is stopped, with the error, where it has failed.
	Status flow.Status
	// Metrics count what all its runs in this process have done.
	Metrics telemetry.Snapshot
	// Ready says that the flow does what it should, or what a person wants; Reason says more in
	// either case.
	Ready  bool
	Reason string
	// Paused and Stopped say that a person wants it so.
	Paused, Stopped bool
	// Since is when the flow was last started, stopped or failed.
	Since time.Time
	// Restarts counts the starts after the first.
	Restarts int
	// ReloadError is why the file, as it is now, was refused; empty where what runs is what
	// the file says.
	ReloadError string
	// Source and Sink are names of connectors.
	Source, Sink string
}

// Flows are all flows, by name.
func (s *Supervisor) Flows() []FlowView {
	units := s.all()
	views := make([]FlowView, len(units))
	for i, u := range units {
		views[i] = u.view()
	}
	return views
}

// Flow is one flow. The error is an ErrNoFlow.
func (s *Supervisor) Flow(name string) (FlowView, error) {
	u, err := s.unit(name)
	if err != nil {
		return FlowView{}, err
	}
	return u.view(), nil
}

// Healthy returns nil unless a restart of the process would help; see the package comment.
func (s *Supervisor) Healthy() error {
	var errs []error
	for _, u := range s.all() {
		errs = append(errs, u.hangs(time.Now()))
	}
	return errors.Join(errs...)
}
