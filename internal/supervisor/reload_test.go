package supervisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/supervisor"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// reload reloads, and returns what was done with the flow, or with the file.
func (w *world) reload(s *supervisor.Supervisor, name string) supervisor.FlowReload {
	w.t.Helper()
	report, err := s.Reload(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range report.Flows {
		if f.Name == name || filepath.Base(f.File) == name {
			return f
		}
	}
	w.t.Fatalf("nothing about %s: %+v", name, report)
	return supervisor.FlowReload{}
}

func (w *world) reloads(want string) {
	w.t.Helper()
	expected := "# HELP penstock_reloads_total Changes of the flow files that were accepted or refused.\n# TYPE penstock_reloads_total counter\n" + want
	if err := testutil.GatherAndCompare(w.metrics.Gatherer(), strings.NewReader(expected), "penstock_reloads_total"); err != nil {
		w.t.Error(err)
	}
}

func TestABrokenEditIsRefusedAndTheOldFlowGoesOn(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	good := read(t, path)
	w.write("f.yaml", strings.Replace(good, "sink:", "sinc:", 1))
	for range 2 {
		if r := w.reload(s, "f"); r.Outcome != supervisor.Refused || !strings.Contains(r.Reason, `no field "sinc"`) {
			t.Errorf("%+v", r)
		}
	}
	if v, _ := s.Flow("f"); !strings.Contains(v.ReloadError, "sinc") || v.Restarts != 0 || v.Status.State != flow.StateRunning {
		t.Errorf("%+v", short(v))
	}
	w.add("f", 20)
	w.exact("f")
	w.write("f.yaml", good)
	if r := w.reload(s, "f"); r.Outcome != supervisor.Unchanged {
		t.Errorf("%+v", r)
	}
	if v, _ := s.Flow("f"); v.ReloadError != "" || v.Restarts != 0 {
		t.Errorf("%+v", short(v))
	}
	w.reloads("penstock_reloads_total{result=\"accepted\"} 0\npenstock_reloads_total{result=\"refused\"} 2\n")
}

func TestAChangedFlowGoesOnAtItsPosition(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	w.file("other")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	stop := make(chan struct{})
	var adding sync.WaitGroup
	adding.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				w.add("f", 3)
			}
		}
	})
	for i := range 20 {
		w.file("f", fmt.Sprintf("batch: {records: %d}", 10+i), "# a comment")
		if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
			t.Fatalf("%+v", r)
		}
	}
	close(stop)
	adding.Wait()
	w.exact("f")
	if v, _ := s.Flow("f"); v.Restarts != 20 {
		t.Errorf("%d restarts", v.Restarts)
	}
	if v, _ := s.Flow("other"); v.Restarts != 0 {
		t.Errorf("a flow that was not changed was restarted %d times", v.Restarts)
	}
	w.reloads("penstock_reloads_total{result=\"accepted\"} 20\npenstock_reloads_total{result=\"refused\"} 0\n")
}

func TestAnEditThatMeansTheSameTouchesNothing(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.write("f.yaml", "# a comment\n"+read(t, path))
	if r := w.reload(s, "f"); r.Outcome != supervisor.Unchanged {
		t.Errorf("%+v", r)
	}
	if v, _ := s.Flow("f"); v.Restarts != 0 {
		t.Errorf("%+v", short(v))
	}
}

func TestAConfigurationThatFailsIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, stop := w.start()
	w.add("f", 10)
	w.exact("f")
	w.file("f", "    refuse: column x is missing")
	r := w.reload(s, "f")
	if r.Outcome != supervisor.Restored || !strings.Contains(r.Reason, "column x is missing") {
		t.Errorf("%+v", r)
	}
	v := w.await(s, "f", in(flow.StateRunning))
	if !strings.Contains(v.ReloadError, "column x is missing") || v.Restarts != 2 {
		t.Errorf("%+v", short(v))
	}
	w.add("f", 10)
	w.exact("f")
	w.reloads("penstock_reloads_total{result=\"accepted\"} 0\npenstock_reloads_total{result=\"refused\"} 1\n")
	w.file("f", "lanes: 1")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	if v, _ := s.Flow("f"); v.ReloadError != "" {
		t.Errorf("%+v", short(v))
	}
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestAFlowThatFailsWithItsFirstBatchIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.add("f", 10)
	w.exact("f")
	w.file("f", "lanes: 1")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	w.table("f").Inject(flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Fatal(os.ErrPermission)})
	w.add("f", 10)
	w.exact("f")
	if v := w.await(s, "f", in(flow.StateRunning)); !strings.Contains(v.ReloadError, "permission") {
		t.Errorf("%+v", short(v))
	}
}

func TestTheLastConfigurationThatWorkedComesBack(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.file("f", "lanes: 1") // nobody knows yet what it is worth
	if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	w.file("f", "    refuse: not here")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Restored {
		t.Errorf("%+v", r)
	}
	w.file("f")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Unchanged {
		t.Errorf("%+v", r)
	}
}

// What failed already has nothing to go back to.
func TestAFailedFlowIsRepairedByItsFile(t *testing.T) {
	w := newWorld(t)
	w.file("f", "    refuse: no such table")
	s, stop := w.start()
	w.await(s, "f", in(flow.StateStopped))
	w.file("f", "    refuse: no right to it")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Failed || !strings.Contains(r.Reason, "no right to it") {
		t.Errorf("%+v", r)
	}
	w.file("f")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	w.add("f", 10)
	w.exact("f")
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestAReloadStartsWhatHasFailed(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	w.file("g")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.table("f").Inject(flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Fatal(os.ErrPermission)})
	w.add("f", 10)
	w.await(s, "f", in(flow.StateStopped))
	if r := w.reload(s, "f"); r.Outcome != supervisor.Started {
		t.Errorf("%+v", r)
	}
	w.exact("f")
}

func TestATableThatIsAwayDoesNotStopAReload(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.table("f").Break()
	w.add("f", 10)
	w.file("f", "lanes: 1")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	w.table("f").Mend()
	w.exact("f")
}

func TestANewNameIsANewFlow(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.write("f.yaml", strings.Replace(read(t, path), "flow: f", "flow: g", 1))
	if r := w.reload(s, "g"); r.Outcome != supervisor.Changed {
		t.Errorf("%+v", r)
	}
	if _, err := s.Flow("f"); err == nil {
		t.Error("the old name is still there")
	}
	w.await(s, "g", in(flow.StateRunning))
	if w.messages.count("another name") != 1 {
		t.Error("nobody was told that positions belong to the name")
	}
	if n, err := testutil.GatherAndCount(w.metrics.Gatherer(), "penstock_lanes"); err != nil || n != 1 {
		t.Errorf("%d flows have metrics (%v)", n, err)
	}
	w.write("f.yaml", strings.Replace(strings.Replace(read(t, path), "flow: g", "flow: h", 1), "    table: f", "    table: f\n    refuse: not here", 1))
	if r := w.reload(s, "g"); r.Outcome != supervisor.Restored || !strings.Contains(r.Reason, "not here") {
		t.Errorf("%+v", r)
	}
	w.await(s, "g", in(flow.StateRunning))
}

func TestANameThatAnotherFileHasIsRefused(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.write("copy.yaml", read(t, path))
	if r := w.reload(s, "copy.yaml"); r.Outcome != supervisor.Refused || !strings.Contains(r.Reason, path) {
		t.Errorf("%+v", r)
	}
	if v, _ := s.Flow("f"); v.File != path || v.ReloadError != "" || v.Restarts != 0 {
		t.Errorf("%+v", short(v))
	}
	if err := os.Remove(path); err != nil { // moved, then
		t.Fatal(err)
	}
	if r := w.reload(s, "f"); r.Outcome != supervisor.Unchanged || filepath.Base(r.File) != "copy.yaml" {
		t.Errorf("%+v", r)
	}
}

func TestAFileThatWasNamedAndIsGoneStopsNothing(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	w.options.Paths = []string{path}
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if r := w.reload(s, "f"); r.Outcome != supervisor.Refused || !strings.Contains(r.Reason, "its flow goes on") {
		t.Errorf("%+v", r)
	}
	w.add("f", 10)
	w.exact("f")
}

func TestAChangedAdminSectionNeedsARestart(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.file("f", "admin: {address: 127.0.0.1:1}")
	if r := w.reload(s, "f"); r.Outcome != supervisor.Unchanged {
		t.Errorf("%+v", r)
	}
	if w.messages.count("when the process is started again") != 1 {
		t.Error("nobody was told")
	}
}

// hang makes flow name write its first batch until release is called.
func (w *world) hang(s *supervisor.Supervisor, name string) (release func()) {
	w.t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	w.t.Cleanup(release)
	w.table(name).Intercept(func(flowtest.Attempt) flowtest.Fault { return flowtest.Fault{Wait: gate} })
	w.add(name, 1)
	w.await(s, name, func(v *supervisor.FlowView) bool {
		return slices.ContainsFunc(v.Status.LaneStates, func(l flow.LaneStatus) bool { return l.Writing })
	})
	return release
}

func restarted(n int) func(*supervisor.FlowView) bool {
	return func(v *supervisor.FlowView) bool { return v.Restarts == n && v.Status.State == flow.StateRunning }
}

func TestAReloadOfAFlowThatHangsHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	w.file("hangs")
	s, _ := w.start()
	release := w.hang(s, "hangs")
	reports := make(chan supervisor.ReloadReport, 3)
	var under sync.WaitGroup
	defer under.Wait()
	defer release()
	reload := func() {
		under.Go(func() {
			report, err := s.Reload(t.Context())
			if err != nil {
				t.Error(err)
			}
			reports <- report
		})
	}
	w.file("f", "batch: {records: 10}")
	w.file("hangs", "batch: {records: 10}")
	reload()
	w.await(s, "f", restarted(1))
	w.await(s, "hangs", in(flow.StateStopping))
	w.file("f", "batch: {records: 11}")
	w.file("hangs", "batch: {records: 11}")
	w.file("new")
	reload()
	w.await(s, "f", restarted(2))
	w.await(s, "new", in(flow.StateRunning))
	if err := os.Remove(filepath.Join(w.dir, "new.yaml")); err != nil {
		t.Fatal(err)
	}
	reload()
	for _, err := s.Flow("new"); err == nil; _, err = s.Flow("new") {
		if t.Context().Err() != nil {
			t.Fatal("a flow whose file is gone goes on")
		}
		<-time.After(5 * time.Millisecond)
	}
	w.add("f", 20)
	w.exact("f")
	if len(reports) > 0 {
		t.Errorf("a reload has not waited for its flow: %+v", <-reports)
	}

	release()
	outcomes := map[string][]supervisor.Outcome{}
	for range 3 {
		report := <-reports
		for _, f := range report.Flows {
			outcomes[f.Name] = append(outcomes[f.Name], f.Outcome)
		}
	}
	for _, name := range []string{"f", "hangs"} { // the third had nothing to do
		slices.Sort(outcomes[name])
		if !slices.Equal(outcomes[name], []supervisor.Outcome{supervisor.Changed, supervisor.Changed, supervisor.Unchanged}) {
			t.Errorf("%s: %s", name, outcomes[name])
		}
	}
	w.await(s, "hangs", restarted(2))
	w.add("hangs", 20)
	w.exact("hangs")
}
