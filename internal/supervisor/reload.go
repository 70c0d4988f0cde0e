package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstockdev/penstock/config"
)

// Outcome is what a reload has done with a flow.
type Outcome string

// The outcomes.
const (
	Unchanged Outcome = "unchanged"
	Changed   Outcome = "changed"  // runs with its new configuration, or will when it is started
	Started   Outcome = "started"  // is new, or had failed
	Ended     Outcome = "stopped"  // its file is gone
	Refused   Outcome = "refused"  // its file is wrong: what ran goes on
	Restored  Outcome = "restored" // failed with its new configuration: what ran before was started again
	Failed    Outcome = "failed"   // does not run
)

// FlowReload is what a reload has done with a flow, or with a file that is none.
type FlowReload struct {
	// Name is the flow's; empty for a new file that was refused.
	Name, File string
	Outcome    Outcome
	// Reason says why it was refused, restored, or has failed, or what a person should know.
	Reason string
}

// ReloadReport is what a reload has done, by file.
type ReloadReport struct{ Flows []FlowReload }

// OK says that all is as the files want it.
func (r *ReloadReport) OK() bool {
	return !slices.ContainsFunc(r.Flows, func(f FlowReload) bool {
		return f.Outcome == Refused || f.Outcome == Restored || f.Outcome == Failed
	})
}

// Reload reads all files again, and makes the flows what the files say. Flows that have failed
// are started again. It returns once changed flows are up, have failed, or wait for something that is away; a flow
// that another reload is at work on is waited for, as long as ctx allows, and no flow waits for another one. What has
// begun is finished. What a file says that is wrong is in the report; the error is about the reload itself.
func (s *Supervisor) Reload(ctx context.Context) (ReloadReport, error) { return s.reload(ctx, true) }

// regroup is how long a reload that waits for flows lets them come together: it reads all files each time.
const regroup = 100 * time.Millisecond

// change is what is to be done about one flow.
type change struct {
	unit *unit
	file *file // nil: the file is gone
	// added: the flow is new.
	added bool
}

// reload is Reload. Without asked it was a file that changed: what was refused is not tried again,
// and what has failed stays so, unless its file is another one.
func (s *Supervisor) reload(ctx context.Context, asked bool) (ReloadReport, error) {
	run, done, err := s.begin()
	if err != nil {
		return ReloadReport{}, err
	}
	defer done()
	var report ReloadReport
	tried := map[*unit]bool{}
	for again := false; ; again = true {
		part, busy, err := s.reloadFree(run, asked, again, tried) //nolint:contextcheck // a flow that was stopped is started again, whether the caller waits or not
		if err != nil {
			return ReloadReport{}, err
		}
		if report.add(part); busy == nil {
			return report, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ReloadReport{}, fmt.Errorf("waiting for a flow that another reload is at work on: %w", ctx.Err())
		case <-run.Done():
			return ReloadReport{}, stateErrorf("the process is stopping")
		}
		select { // others are free soon after the first
		case <-time.After(regroup):
		case <-ctx.Done():
		case <-run.Done():
		}
	}
}

// add adds what was found and done later.
func (r *ReloadReport) add(later ReloadReport) {
	for _, before := range r.Flows {
		now := slices.IndexFunc(later.Flows, func(f FlowReload) bool { return f.File == before.File && f.Name == before.Name })
		switch {
		case before.Outcome == Refused: // if it still is, it was found again
		case now < 0:
			later.Flows = append(later.Flows, before)
		case later.Flows[now].Outcome == Unchanged, before.Outcome == Restored && later.Flows[now].Outcome == Refused:
			later.Flows[now] = before
		}
	}
	slices.SortFunc(later.Flows, func(a, b FlowReload) int {
		return strings.Compare(a.File+"\x00"+a.Name, b.File+"\x00"+b.Name)
	})
	*r = later
}

// reloadFree reloads the flows that no other reload is at work on. Busy is closed when one of the others is free;
// nil: there are none, or somebody waits for them already and sees what the files say then. Again: the caller has
// waited, and reloaded the flows that were tried.
func (s *Supervisor) reloadFree(run context.Context, asked, again bool, tried map[*unit]bool) (report ReloadReport, busy <-chan struct{}, err error) {
	changes, report, busy, err := s.begun(asked, again)
	if err != nil {
		return report, nil, err
	}
	results := make([]FlowReload, len(changes))
	var wg sync.WaitGroup
	for i, c := range changes {
		asked := asked && !tried[c.unit]
		tried[c.unit] = true
		wg.Go(func() {
			results[i] = s.apply(run, c, asked)
			s.said(results[i:i+1], asked)
			s.reloading.Lock()
			defer s.reloading.Unlock()
			c.unit.changing = false
			close(s.freed)
			s.freed = make(chan struct{})
		})
	}
	wg.Wait()
	report.Flows = append(report.Flows, results...)
	return report, busy, nil
}

// begun reads the files, and marks the flows that the caller is to change.
func (s *Supervisor) begun(asked, again bool) (changes []change, report ReloadReport, busy <-chan struct{}, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	found := scan(s.o.Paths)
	units := s.all()
	owners, running := make(map[string]string, len(units)), make(map[string]*config.Flow, len(units))
	for _, u := range units {
		name, path := u.place()
		owners[name], running[path] = path, u.config()
		if u.changing {
			busy = s.freed
		}
	}
	if again && !asked {
		s.waiting = false
	}
	files, err := s.reread(found.files, running, owners)
	if err != nil {
		return nil, report, nil, err
	}
	s.checkAdmin(files)

	changes, report = s.plan(found, files, units, owners)
	s.said(report.Flows, asked && !again)
	if busy != nil && !asked {
		if s.waiting {
			busy = nil
		}
		s.waiting = true
	}
	changes = slices.DeleteFunc(changes, func(c change) bool { return c.unit.changing })
	for _, c := range changes {
		c.unit.changing = true
	}
	return changes, report, busy, nil
}

// checkAdmin says once that a changed admin section needs a restart. Called with reloading held.
func (s *Supervisor) checkAdmin(files []*file) {
	if slices.ContainsFunc(files, func(f *file) bool { return f.err != nil }) {
		return // its admin section is not known
	}
	admin, ps := adminOf(files)
	switch {
	case len(ps) > 0:
		s.log.Warn("the process could not be started again with these files", slog.String("reason", ps.Error()))
	case admin != s.adminSeen && admin != s.admin:
		s.log.Warn("the admin section was changed: that takes effect when the process is started again")
	}
	s.adminSeen = admin
}

// plan pairs files with flows. What is refused is in the report.
func (s *Supervisor) plan(found *scanned, files []*file, units []*unit, owners map[string]string) (changes []change, report ReloadReport) {
	byName, byPath := map[string]*file{}, map[string]*file{}
	for _, f := range files {
		byPath[f.path] = f
		if f.err == nil {
			byName[f.flow.Name] = f
		}
	}
	refuse := func(u *unit, path, reason string) {
		r := FlowReload{File: path, Outcome: Refused, Reason: reason}
		if u != nil {
			r.Name, _ = u.place()
			u.refuse(reason, nil)
		}
		report.Flows = append(report.Flows, r)
	}
	taken := map[*file]bool{}
	for _, u := range units {
		name, path := u.place()
		f := byName[name]
		if f == nil {
			f = byPath[path]
		}
		switch {
		case f == nil:
			if reason := found.missing(s.o.Paths, path); reason != "" {
				refuse(u, path, reason)
				continue
			}
			changes = append(changes, change{unit: u})
		case f.err != nil:
			taken[f] = true
			refuse(u, f.path, f.err.Error())
		case taken[f], f.flow.Name != name && owners[f.flow.Name] != "":
			changes = append(changes, change{unit: u}) // the file has become that of another flow
		default:
			taken[f] = true
			changes = append(changes, change{unit: u, file: f})
		}
	}
	for _, f := range files {
		switch {
		case taken[f]:
		case f.err != nil:
			refuse(nil, f.path, f.err.Error())
		default:
			u := s.newcomer(f)
			if u == nil { // it was restored under this name meanwhile
				refuse(nil, f.path, fmt.Sprintf("there is a flow %s by now", f.flow.Name))
				continue
			}
			changes = append(changes, change{unit: u, file: f, added: true})
		}
	}
	return changes, report
}

// newcomer makes the unit of a new file; nil if the name is taken.
func (s *Supervisor) newcomer(f *file) *unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[f.flow.Name] != nil {
		return nil
	}
	u := newUnit(s, f.path, f.flow)
	s.units[f.flow.Name] = u
	return u
}

// apply makes one flow what its file says.
func (s *Supervisor) apply(ctx context.Context, c change, asked bool) FlowReload {
	switch {
	case c.added:
		return s.add(ctx, c.unit, c.file)
	case c.file == nil:
		return s.drop(ctx, c.unit)
	}
	return c.unit.replace(ctx, c.file, asked)
}

// add starts the flow of a new file.
func (s *Supervisor) add(ctx context.Context, u *unit, f *file) FlowReload {
	r := FlowReload{Name: f.flow.Name, File: f.path, Outcome: Started}
	s.warn(f)
	if err := u.startAndSettle(ctx); err != nil {
		r.Outcome, r.Reason = Failed, err.Error()
	}
	return r
}

// drop stops a flow whose file is gone, and forgets it.
func (s *Supervisor) drop(ctx context.Context, u *unit) FlowReload {
	name, path := u.place()
	r := FlowReload{Name: name, File: path, Outcome: Ended, Reason: "its file is gone"}
	err := u.acquire(ctx)
	if err == nil {
		defer u.release()
		err = u.halt(ctx)
	}
	if err != nil {
		r.Outcome, r.Reason = Failed, err.Error()
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	name = u.name // it may have been restored under another one
	delete(s.units, name)
	u.metrics.Remove()
	u.gone = true
	for t := range u.taps {
		t.end(goneError(name))
	}
	return r
}

// refuse notes why the file, or what it says, was refused.
func (u *unit) refuse(reason string, rejected *config.Flow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reloadError, u.rejected = reason, rejected
}

// replace makes the flow what the file says.
func (u *unit) replace(ctx context.Context, f *file, asked bool) FlowReload {
	name, _ := u.place()
	r := FlowReload{Name: name, File: f.path, Outcome: Unchanged}
	refuse := func(err error) FlowReload {
		u.refuse(err.Error(), f.flow)
		r.Outcome, r.Reason = Refused, err.Error()
		return r
	}
	if err := u.acquire(ctx); err != nil {
		return refuse(err)
	}
	held := true
	defer func() {
		if held {
			u.release()
		}
	}()
	u.mu.Lock()
	old, failed := u.cfg, u.err != nil || u.run != nil && u.running() == nil && !u.stopped
	rejected, stopped, reason := u.rejected, u.stopped, u.reloadError
	var fallback *config.Flow
	switch {
	case failed:
	case u.run != nil && u.run.unproven():
		fallback = u.run.fallback
	default:
		fallback = old
	}
	u.file = f.path
	u.mu.Unlock()
	switch {
	case same(old, f.flow):
		u.refuse("", nil)
		if failed && asked {
			r.Outcome = Started
		} else {
			return r
		}
	case rejected != nil && same(rejected, f.flow) && !asked:
		r.Outcome, r.Reason = Refused, reason
		return r
	default:
		r.Outcome = Changed
		u.s.warn(f)
	}
	if err := u.s.check(f.flow); err != nil {
		return refuse(err)
	}
	if stopped {
		if err := u.rename(f.flow.Name); err != nil {
			return refuse(err)
		}
		u.mu.Lock()
		u.cfg, u.reloadError, u.rejected = f.flow, "", nil
		u.mu.Unlock()
		r.Name, r.Reason = f.flow.Name, "the flow is stopped, and takes effect when it is started"
		return r
	}
	if err := u.halt(ctx); err != nil { // it hangs, or the process ends
		r.Outcome, r.Reason = Failed, err.Error()
		return r
	}
	if f.flow.Name != name {
		u.s.log.Warn("the flow has another name: positions, metrics and dead letters belong to the name, so it begins as a new flow does",
			slog.String("flow", f.flow.Name), slog.String("was", name), slog.String("file", f.path))
		if err := u.rename(f.flow.Name); err != nil {
			_, _ = u.launch(old, nil) //nolint:contextcheck // flows outlive the call that starts them; an error was logged
			return refuse(err)
		}
		r.Name = f.flow.Name
	}
	u.refuse("", nil)
	started, err := u.launch(f.flow, fallback) //nolint:contextcheck // flows outlive the call that starts them
	u.release()
	held = false
	if err != nil {
		r.Outcome, r.Reason = Failed, err.Error()
		return r
	}
	if err := u.settle(ctx, started); err != nil {
		r.Outcome, r.Reason = Failed, err.Error()
		u.mu.Lock()
		if u.rejected == f.flow {
			r.Name, r.Outcome = u.name, Restored
		}
		u.mu.Unlock()
	}
	return r
}

// said logs and counts what a reload has done; what was refused before, and still is, is no
// news.
func (s *Supervisor) said(flows []FlowReload, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	accepted := false
	var refused error
	for _, f := range flows {
		attrs := []any{slog.String("file", f.File)}
		if f.Name != "" {
			attrs = append(attrs, slog.String("flow", f.Name))
		}
		before := s.refused[f.File]
		delete(s.refused, f.File)
		switch f.Outcome {
		case Unchanged, Failed, Restored: // nothing happened, or it was said
		case Refused:
			s.refused[f.File] = f.Reason
			if asked || before != f.Reason {
				refused = errors.New(f.Reason)
				s.log.Error("the flow file is refused, and nothing changes", append(attrs, slog.String("reason", f.Reason))...)
			}
		case Changed, Started, Ended:
			accepted = true
			s.log.Info("the flow files were read again", append(attrs, slog.String("outcome", string(f.Outcome)))...)
		}
	}
	if accepted {
		s.o.Metrics.Reloaded(nil)
	}
	if refused != nil {
		s.o.Metrics.Reloaded(refused)
	}
}
