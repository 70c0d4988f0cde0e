package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/internal/tap"
)

func TestAFlowThatFailsStopsAlone(t *testing.T) {
	w := newWorld(t)
	w.file("bad", "    refuse: no such table")
	w.file("good")
	w.options.Watch = true
	s, stop := w.start()
	v := w.await(s, "bad", in(flow.StateStopped))
	if v.Status.Err == nil || !strings.Contains(v.Status.Err.Error(), "no such table") || v.Ready || v.Stopped {
		t.Errorf("the flow that failed: %+v", short(v))
	}
	w.add("good", 100)
	w.exact("good")
	w.file("new")
	w.await(s, "new", in(flow.StateRunning)) // the files were read again
	if err := s.Healthy(); err != nil {
		t.Errorf("a failed flow makes the process unhealthy: %v", err)
	}
	err := stop()
	if err == nil || !strings.Contains(err.Error(), "flow bad stopped") || strings.Contains(err.Error(), "good") {
		t.Errorf("Run returned %v", err)
	}
	if w.opened("bad") != 1 || w.messages.count("msg=failed") != 1 {
		t.Errorf("a fatal error was tried %d times and logged %d times", w.opened("bad"), w.messages.count("msg=failed"))
	}
}

func TestAProcessOfOneFileEndsWithItsFlow(t *testing.T) {
	w := newWorld(t)
	w.options.Paths = []string{w.file("one", "    refuse: no such table")}
	s, err := supervisor.New(w.options)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no such table") {
		t.Errorf("Run returned %v", err)
	}
}

func TestAFlowThatGaveUpIsStartedAgainEverMorePatiently(t *testing.T) {
	w := newWorld(t)
	w.file("flaky", "    break: who knows")
	synctest.Test(t, func(t *testing.T) {
		s, err := supervisor.New(w.options)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		began := time.Now()
		for _, at := range []time.Duration{29 * time.Second, 31 * time.Second, 89 * time.Second, 92 * time.Second, time.Hour} {
			<-time.After(at - time.Since(began))
			synctest.Wait()
			v, err := s.Flow("flaky")
			want := map[time.Duration]int{29 * time.Second: 0, 31 * time.Second: 1, 89 * time.Second: 1, 92 * time.Second: 2, time.Hour: 9}[at]
			if err != nil || v.Restarts != want {
				t.Errorf("after %s: %d restarts, want %d (%v)", at, v.Restarts, want, err)
			}
		}
		cancel()
		if err := <-ended; err == nil {
			t.Error("Run returned nil, and the flow had failed")
		}
	})
}

func TestStopAndStart(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, stop := w.start()
	w.await(s, "f", in(flow.StateRunning))
	if err := s.Start(t.Context(), "f"); !errors.Is(err, supervisor.ErrState) || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("starting a flow that runs: %v", err)
	}
	w.add("f", 10)
	for range 2 { // twice is once
		if err := s.Stop(t.Context(), "f"); err != nil {
			t.Fatal(err)
		}
	}
	if v := w.await(s, "f", in(flow.StateStopped)); !v.Stopped || !v.Ready || v.Status.Err != nil {
		t.Errorf("a flow that a person has stopped: %+v", short(v))
	}
	if err := s.Pause("f"); !errors.Is(err, supervisor.ErrState) {
		t.Errorf("pausing a flow that is stopped: %v", err)
	}
	before, _ := w.table("f").Len()
	w.add("f", 10)
	if after, _ := w.table("f").Len(); after != before {
		t.Errorf("a stopped flow has written")
	}
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Flow("f"); err != nil || !v.Stopped {
		t.Errorf("a reload has started what a person has stopped: %+v, %v", v, err)
	}
	if err := s.Start(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	w.exact("f")
	if v := w.await(s, "f", in(flow.StateRunning)); v.Restarts != 1 || v.Metrics.Records != 4*10 || v.Metrics.Restarts != 1 {
		t.Errorf("after a stop and a start: %d restarts, counted %d with %d records", v.Restarts, v.Metrics.Restarts, v.Metrics.Records)
	}
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	for _, err := range []error{s.Stop(t.Context(), "g"), s.Start(t.Context(), "g"), s.Pause("g"), s.Resume("g")} {
		if !errors.Is(err, supervisor.ErrNoFlow) || !strings.Contains(err.Error(), "there are: f") {
			t.Errorf("a flow that does not exist: %v", err)
		}
	}
	if err := s.Start(t.Context(), "f"); !errors.Is(err, supervisor.ErrState) {
		t.Errorf("a start after the end: %v", err)
	}
}

func TestStartSaysWhyAFlowFailsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.file("f", "    refuse: no such table")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateStopped))
	if err := s.Start(t.Context(), "f"); err == nil || !strings.Contains(err.Error(), "no such table") || errors.Is(err, supervisor.ErrState) {
		t.Errorf("Start returned %v", err)
	}
}

func TestAPauseOutlivesAReload(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	if err := s.Pause("f"); err != nil {
		t.Fatal(err)
	}
	w.file("f", "lanes: 2")
	if report, err := s.Reload(t.Context()); err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report, err)
	}
	if v := w.await(s, "f", in(flow.StatePaused)); !v.Paused || !v.Ready {
		t.Errorf("%+v", short(v))
	}
	w.add("f", 5)
	if err := s.Resume("f"); err != nil {
		t.Fatal(err)
	}
	w.exact("f")
}

func TestATapStaysWhileFlowsAreReplaced(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, ended := make(chan int64, 100), make(chan error, 1)
	go func() {
		ended <- s.Tap(ctx, "f", tap.Options{Rate: 1000}, func(r *tap.Record) error {
			seen <- r.Offset
			return nil
		})
	}()
	next := func() {
		t.Helper()
		for { // until the tap is there
			w.add("f", 1)
			select {
			case <-seen:
				return
			case <-time.After(20 * time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("nothing is shown")
			}
		}
	}
	next()
	w.file("f", "lanes: 2")
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for len(seen) > 0 {
		<-seen
	}
	next()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestATapEndsWithTheFileOfItsFlow(t *testing.T) {
	w := newWorld(t)
	path := w.file("f")
	w.file("other")
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	seen, ended := make(chan int64, 100), make(chan error, 1)
	go func() {
		ended <- s.Tap(t.Context(), "f", tap.Options{Rate: 1000}, func(r *tap.Record) error {
			seen <- r.Offset
			return nil
		})
	}()
	for shown := false; !shown; { // until the tap is there
		w.add("f", 1)
		select {
		case <-seen:
			shown = true
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("nothing is shown")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, supervisor.ErrNoFlow) {
			t.Errorf("the tap ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the tap goes on, and will never show anything")
	}
}

// People, programs and files that want different things at the same time do not lose a record, or leave
// anything behind.
func TestOperatorsGetInEachOthersWay(t *testing.T) {
	w := newWorld(t)
	w.options.Watch = true
	for _, name := range []string{"f", "g"} {
		w.file(name)
	}
	s, stop := w.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var busy sync.WaitGroup
	act := func(seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		for ctx.Err() == nil {
			name := []string{"f", "g"}[r.IntN(2)]
			impatient, done := context.WithTimeout(ctx, time.Duration(r.IntN(30))*time.Millisecond)
			switch r.IntN(8) { // whether each of them is possible now is not the point
			case 0:
				_ = s.Pause(name)
			case 1:
				_ = s.Resume(name)
			case 2:
				_ = s.Stop(impatient, name)
			case 3, 4:
				_ = s.Start(impatient, name)
			case 5:
				_, _ = s.Reload(impatient)
			case 6:
				_ = s.Flows()
			case 7:
				w.table(name).Inject(flowtest.Fault{At: flowtest.InTransaction, Err: flow.Fatal(os.ErrPermission)})
			}
			done()
		}
	}
	for seed := range uint64(4) {
		busy.Go(func() { act(seed) })
	}
	busy.Go(func() { // one writer of files
		for i := 0; ctx.Err() == nil; i++ {
			w.file("f", fmt.Sprintf("batch: {records: %d}", 10+i%7))
			w.file("g", []string{"lanes: 1", "lanes: 2", "lane: 3"}[i%3])
			w.add("f", 5)
			w.add("g", 5)
		}
	})
	busy.Wait()
	for _, name := range []string{"f", "g"} {
		w.table(name).Intercept(nil)
		w.file(name)
	}
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "g"} {
		if err := s.Start(t.Context(), name); err != nil && !errors.Is(err, supervisor.ErrState) {
			t.Fatal(err)
		}
		if err := s.Resume(name); err != nil {
			t.Fatal(err)
		}
		w.exact(name)
	}
	if err := stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// A write that nothing can interrupt is what a restart of the process would help against.
func TestAFlowThatHangsIsUnhealthy(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w.table("f").Intercept(func(flowtest.Attempt) flowtest.Fault { return flowtest.Fault{Wait: release} })
		s, err := supervisor.New(w.options)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		w.add("f", 1)
		<-time.After(time.Second)
		soon, giveUp := context.WithTimeout(t.Context(), 30*time.Second)
		defer giveUp()
		if err := s.Stop(soon, "f"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stop that takes too long: %v", err)
		}
		if err := s.Healthy(); err != nil {
			t.Errorf("too early: %v", err)
		}
		<-time.After(time.Minute)
		if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("a flow that hangs: %v", err)
		}
		close(release)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.file("a", "admin: {address: 127.0.0.1:1}")
	b := w.write("b.yaml", strings.Replace(read(t, a), ":1}", ":2}", 1))
	w.write("c.yaml", "flow: c\nsauce: {}\n")
	w.write("c.test.yaml", "cases of penstock test")
	w.write(".hidden.yaml", "an editor's")
	gone := filepath.Join(w.dir, "gone")
	w.options.Paths = []string{w.dir, a, gone}
	_, err := supervisor.New(w.options)
	var ps config.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("New returned %v", err)
	}
	text := ps.Text()
	for _, want := range []string{
		b + `:1:7: flow: "a" is the name of another flow, too: ` + a + ":1:7",
		`no field "sauce"`, gone,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hidden") || strings.Contains(text, "test.yaml") {
		t.Errorf("files that are no flows were read:\n%s", text)
	}
}

func TestAdminSectionsMustBeEqual(t *testing.T) {
	w := newWorld(t)
	w.file("a")
	w.file("b", "admin: {address: 127.0.0.1:1}")
	w.file("c", "admin: {address: 127.0.0.1:1}")
	s, err := supervisor.New(w.options)
	if err != nil || s.Admin().Address != "127.0.0.1:1" {
		t.Fatalf("%v", err)
	}
	w.file("c", "admin: {address: 127.0.0.1:2}")
	if _, err := supervisor.New(w.options); err == nil || !strings.Contains(err.Error(), "c.yaml: admin is not what it is in "+filepath.Join(w.dir, "b.yaml")) {
		t.Errorf("%v", err)
	}
}

func TestADirectoryWithoutFlowsIsRefused(t *testing.T) {
	w := newWorld(t)
	if _, err := supervisor.New(w.options); err == nil || !strings.Contains(err.Error(), "no flow file") {
		t.Errorf("%v", err)
	}
}
