package flow_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// readers counts the Reads that are under way.
type readers struct {
	*flowtest.LogSource
	begun, running atomic.Int64
}

func (s *readers) Read(ctx context.Context) error {
	s.begun.Add(1)
	s.running.Add(1)
	defer s.running.Add(-1)
	return s.LogSource.Read(ctx)
}

func run(t *testing.T, cfg flow.Config) (f *flow.Flow, stop func() error) {
	t.Helper()
	cfg.Name, cfg.Logger = "f", quiet
	cfg.Retry = flow.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond}
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f, sync.OnceValue(launch(t, f))
}

func launch(t *testing.T, f *flow.Flow) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop := func() error {
		cancel()
		select {
		case err := <-done:
			done <- err
			return err
		case <-time.After(patience):
			t.Error("Run did not return")
			return nil
		}
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func appendTo(l *flowtest.Log, n int, partitions int32) {
	for i := range n {
		p := int32(i) % partitions //nolint:gosec // small
		_, end := l.Bounds("t", p)
		l.Append("t", p, flow.Record{Value: fmt.Appendf(nil, "t[%d]@%d", p, end)})
	}
}

func TestAPausedFlowReadsNothingWritesWhatItHasAndKeepsItsPartitions(t *testing.T) {
	log, table := logOf(1000, 4), flowtest.NewTable(flowtest.TableOptions{})
	source := &readers{LogSource: log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 10})}
	f, stop := run(t, flow.Config{Source: source, Sink: table.Sink(), Lanes: 2, Batch: flow.BatchLimits{Records: 30}})
	waitFor(t, func() bool { return f.Status().Rows > 100 })
	f.Pause()
	f.Pause()
	paused := func() bool { return source.running.Load() == 0 && f.Status().Buffered == 0 }
	waitFor(t, paused)
	at, begun := f.Status().Rows, source.begun.Load()
	appendTo(log, 400, 4)
	// The lag is seen to grow all the same.
	waitFor(t, func() bool { s := f.Status(); return s.Lag() == 1400-at })
	// A rebalance goes on: the other member gets half of them, and gives them back.
	other := log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"})
	g, stopOther := run(t, flow.Config{Source: other, Sink: table.Sink(), Lanes: 1})
	g.Pause()
	waitFor(t, func() bool { return len(f.Status().Partitions) == 2 && len(g.Status().Partitions) == 2 })
	if err := stopOther(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(f.Status().Partitions) == 4 })
	s := f.Status()
	if s.State != flow.StatePaused || s.Rows != at || source.begun.Load() != begun || s.Buffered != 0 {
		t.Errorf("while paused: state %s, %d rows of %d, %d reads of %d, %d bytes held", s.State, s.Rows, at, source.begun.Load(), begun, s.Buffered)
	}
	f.Resume()
	awaitDurable(t, table, 1400)
	if s := f.Status(); s.State != flow.StateRunning {
		t.Errorf("after it was resumed: %s", s.State)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Fatal(err)
	}
}

func TestAFlowMayStartPausedAndStopsAtOnce(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	source := &readers{LogSource: log.Source(flowtest.LogOptions{Topics: []string{"t"}})}
	cfg := flow.Config{Name: "f", Source: source, Sink: table.Sink(), Logger: quiet}
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Pause()
	stop := launch(t, f)
	waitFor(t, func() bool { return f.Status().State == flow.StatePaused && len(f.Status().Partitions) == 1 })
	began := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if n := source.begun.Load(); n != 0 || len(table.Rows()) != 0 {
		t.Errorf("%d reads, %d rows of a flow that was never resumed", n, len(table.Rows()))
	}
}

func TestACheckpointThatMovesWhilePausedIsReadFromThereAfterResume(t *testing.T) {
	log, table := logOf(100, 1), flowtest.NewTable(flowtest.TableOptions{})
	f, _ := run(t, flow.Config{Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Sink: table.Sink(), Lanes: 1})
	awaitDurable(t, table, 100)
	f.Pause()
	restore := table.Snapshot()
	appendTo(log, 50, 1)
	f.Resume()
	awaitDurable(t, table, 150)
	f.Pause()
	restore() // found by the comparison of an idle lane
	waitFor(t, func() bool { s := f.Status(); return len(s.Partitions) == 1 && s.Partitions[0].Next == 100 })
	f.Resume()
	awaitDurable(t, table, 150)
}

// witness notes what a tap is shown.
type witness struct {
	mu                     sync.Mutex
	read, decoded, written []int64
	dead                   []string
	columnsMade            int
	removed                atomic.Bool
	late                   atomic.Int64
}

func (w *witness) look(b *flow.Batch, to *[]int64) {
	if w.removed.Load() {
		w.late.Add(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range b.Parts {
		for i := p.First; i < p.End; i++ {
			*to = append(*to, b.Records[i].Offset)
		}
	}
}

func (w *witness) Read(_ int, b *flow.Batch) { w.look(b, &w.read) }

func (w *witness) Decoded(_ int, b *flow.Batch) {
	w.look(b, &w.decoded)
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.Columns != nil {
		w.columnsMade++
	}
}

func (w *witness) Written(_ int, b *flow.Batch, s *flow.BatchStats) {
	w.look(b, &w.written)
	w.mu.Lock()
	defer w.mu.Unlock()
	rejects := 0
	for r := range b.Rejects() {
		rejects++
		class, column := r.Class()
		w.dead = append(w.dead, fmt.Sprintf("%d %s %s %s", b.Records[r.Row].Offset, r.Stage, class, column))
	}
	if s.Records != s.Rows+rejects {
		w.dead = append(w.dead, fmt.Sprintf("%d records, %d rows, %d rejects", s.Records, s.Rows, rejects))
	}
}

func TestATapSeesEachBatchAtItsStages(t *testing.T) {
	log, table := logOf(100, 1), flowtest.NewTable(flowtest.TableOptions{})
	bad := transformFunc(func(b *flow.Batch) {
		for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
			if b.Records[i].Offset == 7 {
				b.Reject(i, flow.StageDecode, &flow.RecordError{Class: "type", Column: "ts", Err: fmt.Errorf("bad")})
			}
		}
	})
	f, err := flow.New(flow.Config{
		Name: "f", Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}, MaxRecords: 10}), Sink: table.Sink(), Lanes: 1, Logger: quiet,
		Transforms: func(int) ([]flow.Transform, error) { return []flow.Transform{columnOf(0), bad}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{}
	remove := f.AddTap(w)
	launch(t, f)
	awaitDurable(t, table, 100)
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.written) == 100 })
	remove()
	remove()
	w.removed.Store(true)
	appendTo(log, 100, 1)
	awaitDurable(t, table, 200)
	want := make([]int64, 100)
	for i := range want {
		want[i] = int64(i)
	}
	if !slices.Equal(w.read, want) || !slices.Equal(w.decoded, want) || !slices.Equal(w.written, want) {
		t.Errorf("read %v\ndecoded %v\nwritten %v", w.read, w.decoded, w.written)
	}
	if !slices.Equal(w.dead, []string{"7 decode type ts"}) {
		t.Errorf("dead: %v", w.dead)
	}
	if w.columnsMade == 0 {
		t.Error("no columns after the transforms")
	}
	if n := w.late.Load(); n > 0 {
		t.Errorf("%d calls after the tap was removed", n)
	}
}

// slow is a tap that is in Read until it is let go.
type slow struct {
	flow.Tap
	entered, letGo chan struct{}
}

func (s *slow) Read(int, *flow.Batch) {
	close(s.entered)
	<-s.letGo
}

// What a tap uses may be freed when remove has returned.
func TestRemoveWaitsForTheTap(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	f, _ := run(t, flow.Config{Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Sink: table.Sink(), Lanes: 1})
	tap := &slow{entered: make(chan struct{}), letGo: make(chan struct{})}
	remove := f.AddTap(tap)
	appendTo(log, 10, 1) // if the first ten went by before
	<-tap.entered
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		remove()
	}()
	select {
	case <-removed:
		t.Error("remove has returned, and the tap is in a call")
	case <-time.After(50 * time.Millisecond): // it has had the time
	}
	close(tap.letGo) // Decoded and Written would panic
	<-removed
	awaitDurable(t, table, 20)
}

type panicking struct{ calls atomic.Int64 }

func (p *panicking) Read(int, *flow.Batch)                      { p.calls.Add(1); panic("a tap") }
func (p *panicking) Decoded(int, *flow.Batch)                   { p.calls.Add(1) }
func (p *panicking) Written(int, *flow.Batch, *flow.BatchStats) { p.calls.Add(1) }

func TestATapThatPanicsIsRemovedAndTheFlowGoesOn(t *testing.T) {
	log, table := logOf(0, 1), flowtest.NewTable(flowtest.TableOptions{})
	f, _ := run(t, flow.Config{Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Sink: table.Sink(), Lanes: 1})
	bad, good := &panicking{}, &witness{}
	remove := f.AddTap(bad)
	defer f.AddTap(good)()
	appendTo(log, 10, 1)
	awaitDurable(t, table, 10)
	appendTo(log, 10, 1)
	awaitDurable(t, table, 20)
	remove()
	if n := bad.calls.Load(); n != 1 {
		t.Errorf("the tap was called %d times", n)
	}
	waitFor(t, func() bool { good.mu.Lock(); defer good.mu.Unlock(); return len(good.written) == 20 })
}

type readObserver struct {
	flow.Observer
	mu      sync.Mutex
	records int
	bytes   int64
	took    []time.Duration
}

func (*readObserver) BatchWritten(flow.BatchStats)            {}
func (*readObserver) Retrying(int, int, time.Duration, error) {}
func (*readObserver) Rebalanced(int, int)                     {}
func (o *readObserver) ReadDone(n int, b int64, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records, o.bytes, o.took = o.records+n, o.bytes+b, append(o.took, d)
}

func TestTheObserverIsToldOfReadsThatDelivered(t *testing.T) {
	log, table, o := logOf(95, 1), flowtest.NewTable(flowtest.TableOptions{}), &readObserver{}
	_, stop := run(t, flow.Config{Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}, MaxRecords: 10}), Sink: table.Sink(), Observer: o})
	awaitDurable(t, table, 95)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if o.records != 95 || len(o.took) != 10 || o.bytes < 95 {
		t.Errorf("%d records, %d bytes in %d reads", o.records, o.bytes, len(o.took))
	}
}

func TestStatusShowsWhatEachLaneDoes(t *testing.T) {
	log := logOf(100, 2)
	open := make(chan struct{})
	began := time.Now()
	sink := flow.SinkFunc(func(context.Context, *flow.Batch) error { <-open; return nil })
	f, _ := run(t, flow.Config{Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Sink: sink, Lanes: 2, Batch: flow.BatchLimits{Records: 10}})
	waitFor(t, func() bool {
		s := f.Status()
		return len(s.LaneStates) == 2 && s.LaneStates[0].Writing && s.LaneStates[1].Writing && s.LaneStates[0].Records+s.LaneStates[1].Records == 100
	})
	for i, l := range f.Status().LaneStates {
		if l.Lane != i || l.Partitions != 1 || l.Buffered <= 0 || l.WriteBegan.Before(began) || l.Attempt != 0 || l.Err != nil {
			t.Errorf("%+v", l)
		}
	}
	if u := f.Status().Partitions[0].Updated; !u.IsZero() {
		t.Errorf("committed at %s, before anything was", u)
	}
	close(open)
	waitFor(t, func() bool { return f.Status().Rows == 100 })
	waitFor(t, func() bool { s := f.Status(); return s.LaneStates[0].Records == 0 && !s.LaneStates[0].Writing })
	if u := f.Status().Partitions[0].Updated; u.Before(began.Add(-2 * time.Second)) {
		t.Errorf("last committed at %s", u)
	}

	away, _ := run(t, flow.Config{
		Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Lanes: 1,
		Sink: flow.SinkFunc(func(context.Context, *flow.Batch) error { return flow.Transient(fmt.Errorf("away")) }),
	})
	waitFor(t, func() bool {
		l := away.Status().LaneStates
		return len(l) == 1 && l[0].Attempt > 2 && l[0].Err != nil && l[0].Writing
	})
	away.Pause()
	if s := away.Status(); s.State != flow.StatePaused || s.Err == nil {
		t.Errorf("paused while it cannot write: %s, %v", s.State, s.Err)
	}
}
