package flow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// Each test here stands for a way in which the promises were broken once.

var t0 = flow.Partition{Topic: "t"}

// gate holds one call, from when it is armed until it is opened.
type gate struct {
	armed         atomic.Bool
	entered, open chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) pass() {
	if g.armed.CompareAndSwap(true, false) {
		close(g.entered)
		<-g.open
	}
}

type heldSource struct {
	*flowtest.LogSource
	seek *gate
}

func (s *heldSource) Seek(ctx context.Context, ps []flow.Position) error {
	s.seek.pass()
	return s.LogSource.Seek(ctx, ps)
}

type heldSink struct {
	*flowtest.TableSink
	read *gate
}

func (s *heldSink) Read(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
	if len(ps) > 1 { // a reset of the lane, not one partition claimed back
		s.read.pass()
	}
	return s.TableSink.Read(ctx, ps)
}

// A seek that was asked for before a lane was reset, and is done while the
// reset still reads the checkpoint, must not let in what the reset will have read again.
func TestAnOldSeekDoesNotEndANewReset(t *testing.T) {
	log, table := flowtest.NewLog(), flowtest.NewTable(flowtest.TableOptions{})
	log.Create("t", 2)
	source := &heldSource{LogSource: log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}), seek: newGate()}
	sink := &heldSink{TableSink: table.Sink(), read: newGate()}
	f, err := flow.New(flow.Config{
		Name: "f", Source: source, Sink: sink, Lanes: 1, Logger: quiet, Batch: flow.BatchLimits{Records: 5},
		Retry: flow.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	add := func(p int32, n int) {
		for range n {
			log.Append("t", p, flow.Record{Value: []byte("x")})
		}
	}
	add(0, 1)
	add(1, 1)
	awaitDurable(t, table, 2)

	// t[0] gets another owner, and is let go.
	c := table.Checkpoint("f", t0)
	c.Owner++
	table.SetCheckpoint("f", c)
	add(0, 10)
	waitFor(t, func() bool { return f.Status().Fenced == 1 })

	// Claiming t[0] back asks for a seek, which is held. Then a batch of t[1]
	// is fenced, and the reset is held while it reads the checkpoint.
	fenced := make(chan struct{})
	var once sync.Once
	table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
		fault := flowtest.Fault{}
		if slices.ContainsFunc(a.Batch.Parts, func(p flow.Part) bool { return p.ID == 1 }) {
			once.Do(func() {
				fault = flowtest.Fault{At: flowtest.BeforeBegin, Err: &flow.FencedError{Err: errors.New("t[1] was moved")}}
				close(fenced)
			})
		}
		return fault
	})
	source.seek.armed.Store(true)
	<-source.seek.entered
	sink.read.armed.Store(true)
	add(1, 30)
	// The reader is held in Seek, so t[1] cannot be read before it is let go.
	close(source.seek.open)
	<-fenced
	<-sink.read.entered
	add(0, 5)
	add(1, 5)
	close(sink.read.open)
	awaitDurable(t, table, 2+10+30+10)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Fatal(err)
	}
}

// Where the source keeps the positions, a batch after one that failed would
// carry them over the hole.
func TestNothingIsWrittenAfterABatchThatStopsTheFlow(t *testing.T) {
	log, table := logOf(200, 1), flowtest.NewTable(flowtest.TableOptions{})
	var n atomic.Int32
	table.Intercept(func(flowtest.Attempt) flowtest.Fault {
		if n.Add(1) == 3 {
			return flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Fatal(errors.New("disk quota"))}
		}
		return flowtest.Fault{}
	})
	run := func() *process {
		return start(t, flow.Config{Sink: table.PlainSink(), Lanes: 1, Batch: flow.BatchLimits{Records: 10}},
			log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	}
	if err := run().wait(t); err == nil {
		t.Fatal("the flow did not fail")
	}
	if at := log.Committed("g", t0); at != 20 {
		t.Errorf("20 records were written before the failure, %d are committed", at)
	}
	p := run()
	awaitDurable(t, table, 200)
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).AtLeastOnce(); err != nil {
		t.Error(err)
	}
}

func TestAnErrorThatWrapsCanceledIsAnErrorNonetheless(t *testing.T) {
	log := logOf(200, 1)
	sink := flow.SinkFunc(func(context.Context, *flow.Batch) error { return fmt.Errorf("http: %w", context.Canceled) })
	p := start(t, flow.Config{
		Sink: sink, Lanes: 1, Retry: flow.Retry{Initial: time.Microsecond, Max: time.Millisecond, UnknownAttempts: 2},
	}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	if err := p.wait(t); err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if at := log.Committed("g", t0); at > 0 {
		t.Errorf("%d committed, nothing written", at)
	}
}

func TestATopicMayGrowWhileItIsRead(t *testing.T) {
	for _, processes := range []int{1, 2} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			log, table := logOf(40, 4), flowtest.NewTable(flowtest.TableOptions{})
			var running []*process
			for range processes {
				running = append(running, start(t, flow.Config{Sink: table.Sink(), Lanes: 2}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"})))
			}
			awaitDurable(t, table, 40)
			log.Create("t", 12)
			for i := range 80 {
				log.Append("t", int32(4+i%8), flow.Record{Value: []byte{1}})
			}
			awaitDurable(t, table, 120, running...)
		})
	}
}

// noisyLoss says once, in a Read that is being interrupted, that a position is lost.
type noisyLoss struct {
	*flowtest.LogSource
	armed atomic.Bool
}

func (s *noisyLoss) Read(ctx context.Context) error {
	if s.armed.CompareAndSwap(true, false) {
		<-ctx.Done()
		return &flow.PositionLostError{Position: flow.Position{Partition: flow.Partition{Topic: "t", ID: 1}, Offset: 5}, Begin: 9, End: 20}
	}
	return s.LogSource.Read(ctx)
}

func TestALossFoundByAnInterruptedReadIsNotForgotten(t *testing.T) {
	log, table := logOf(4000, 2), flowtest.NewTable(flowtest.TableOptions{})
	source := &noisyLoss{LogSource: log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 50})}
	f, err := flow.New(flow.Config{Name: "f", Source: source, Sink: table.Sink(), Lanes: 2, Logger: quiet, Buffer: 10_000, Batch: flow.BatchLimits{Records: 20}})
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
		if a.Lane == 0 {
			return flowtest.Fault{Wait: stuck, Yields: true}
		}
		return flowtest.Fault{}
	})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- f.Run(ctx) }()
	// A full lane pauses its partition, and interrupts Read when it has room again.
	waitFor(t, func() bool {
		rows, _ := table.Len()
		return rows == 2000 && slices.ContainsFunc(f.Status().Partitions, func(p flow.PartitionStatus) bool { return p.Paused })
	})
	source.armed.Store(true)
	log.Append("t", 1, flow.Record{}) // ends the Read that waits; the next one is armed
	waitFor(t, func() bool { return !source.armed.Load() })
	close(stuck)
	select {
	case err := <-done:
		if !errors.As(err, new(*flow.PositionLostError)) {
			t.Errorf("Run returned %v", err)
		}
	case <-time.After(patience):
		t.Error("the loss was forgotten")
	}
}

// The start itself is a position that must survive a restart.
func TestStartLatestIsResolvedOnce(t *testing.T) {
	log, table := logOf(5, 1), flowtest.NewTable(flowtest.TableOptions{})
	opts := flowtest.LogOptions{Topics: []string{"t"}, Group: "g", Start: "latest"}
	p := start(t, flow.Config{Sink: table.PlainSink()}, log.Source(opts))
	waitFor(t, func() bool { return log.Committed("g", t0) == 5 })
	table.Intercept(func(flowtest.Attempt) flowtest.Fault {
		return flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Fatal(errors.New("no"))}
	})
	for range 10 {
		log.Append("t", 0, flow.Record{})
	}
	if err := p.wait(t); err == nil {
		t.Fatal("the flow did not fail")
	}
	table.Intercept(nil)
	start(t, flow.Config{Sink: table.PlainSink()}, log.Source(opts))
	awaitDurable(t, table, 10)
}

func TestABatchThatNeedsTooLongIsWrittenInPieces(t *testing.T) {
	log := logOf(100, 1)
	sink := flow.SinkFunc(func(ctx context.Context, b *flow.Batch) error {
		if b.Len() > 10 {
			<-ctx.Done() // more than ten do not end in time
		}
		return ctx.Err()
	})
	p := start(t, flow.Config{Sink: sink, Lanes: 1, Batch: flow.BatchLimits{Timeout: 20 * time.Millisecond}},
		log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	waitFor(t, func() bool { return p.flow.Status().Records == 100 })
}

func TestGoodRecordsAreNotHandledAgainWhileTheDeadLetterQueueIsAway(t *testing.T) {
	log := logOf(20, 1)
	var calls atomic.Int32
	sink := flow.Handler(4, func(_ context.Context, r *flow.Record) error {
		if r.Offset == 7 {
			return &flow.RecordError{Class: "x", Err: errors.New("bad")}
		}
		calls.Add(1)
		return nil
	})
	start(t, flow.Config{Sink: sink, Lanes: 1, DeadLetters: &queue{failures: 30}}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	waitFor(t, func() bool { return log.Committed("g", t0) == 20 })
	if n := calls.Load(); n != 19 {
		t.Errorf("19 good records were handled %d times", n)
	}
}

// A process that knows that it lost a partition must not go on trying to write it.
func TestALostPartitionIsNotWrittenByASinkWithoutFence(t *testing.T) {
	log := logOf(20, 1)
	var mu sync.Mutex
	var handled []string
	away := true
	sink := func(who string) flow.Sink {
		return flow.SinkFunc(func(_ context.Context, b *flow.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			if who == "A" && away {
				return flow.Transient(errors.New("A cannot reach its service"))
			}
			for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
				handled = append(handled, fmt.Sprintf("%s:%d", who, b.Records[i].Offset))
			}
			return nil
		})
	}
	a := log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"})
	pa := start(t, flow.Config{Sink: sink("A"), Lanes: 1, Batch: flow.BatchLimits{Records: 10}}, a)
	waitFor(t, func() bool { return pa.flow.Status().Retries > 2 })
	log.Evict(a)
	log.Notice(a)
	b := log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"})
	start(t, flow.Config{Sink: sink("B"), Lanes: 1}, b)
	log.Move(t0, b)
	waitFor(t, func() bool { return log.Committed("g", t0) == 20 })
	waitFor(t, func() bool { s := pa.flow.Status(); return len(s.Partitions) == 0 && s.Buffered == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(handled) != 20 {
		t.Errorf("%v", handled)
	}
}

func TestATinyBufferIsSlowButDoesNotStall(t *testing.T) {
	log, table := logOf(100, 2), flowtest.NewTable(flowtest.TableOptions{})
	start(t, flow.Config{Sink: table.Sink(), Lanes: 1, Buffer: 2}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 10}))
	awaitDurable(t, table, 100)
}

// A single transient trouble of an idle source must not look like one that lasts.
func TestAReadThatFailedOnceIsNotRetryingForEver(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	awaitDurable(t, table, 10)
	log.Inject(flow.Transient(errors.New("leader not available")))
	waitFor(t, func() bool { return p.flow.Status().Retries > 0 })
	waitFor(t, func() bool { return p.flow.Status().State == flow.StateRunning })
}

func TestAnIdleFlowNoticesThatItsTargetIsAway(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	awaitDurable(t, table, 10)
	table.Break()
	waitFor(t, func() bool { return p.flow.Status().State == flow.StateRetrying })
	table.Mend()
	waitFor(t, func() bool { return p.flow.Status().State == flow.StateRunning })
}

// Partitions that are assigned while their lane is full are paused like the others.
func TestTheBufferIsBoundedAfterARebalance(t *testing.T) {
	const buffer = 64 << 10
	log, table := flowtest.NewLog(), flowtest.NewTable(flowtest.TableOptions{})
	log.Create("t", 4)
	for i := range 4000 {
		log.Append("t", int32(i%4), flow.Record{Value: make([]byte, 1000)})
	}
	stuck := make(chan struct{})
	table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
		if a.Lane == 0 {
			return flowtest.Fault{Wait: stuck, Yields: true}
		}
		return flowtest.Fault{}
	})
	opts := flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 5}
	other := log.Source(opts)
	pb := start(t, flow.Config{Sink: table.Sink(), Lanes: 1, ShutdownGrace: time.Millisecond}, other) // stuck as well
	waitFor(t, func() bool { return len(pb.flow.Status().Partitions) == 4 })
	pa := start(t, flow.Config{Sink: table.Sink(), Lanes: 2, Buffer: buffer, Batch: flow.BatchLimits{Records: 20}}, log.Source(opts))
	waitFor(t, func() bool { return len(pa.flow.Status().Partitions) == 2 })
	waitFor(t, func() bool {
		return slices.ContainsFunc(pa.flow.Status().Partitions, func(p flow.PartitionStatus) bool { return p.Lane == 0 && p.Paused })
	})
	if err := pb.stop(t); err != nil {
		t.Fatal(err)
	}
	// The lane that is not stuck goes on to the end of its partitions.
	waitFor(t, func() bool {
		s, done := pa.flow.Status(), 0
		for _, p := range s.Partitions {
			if p.Lane == 1 && p.Next == p.End {
				done++
			}
		}
		if s.Buffered > 2*buffer {
			t.Fatalf("%d bytes are held, and the buffer is %d", s.Buffered, buffer)
		}
		return len(s.Partitions) == 4 && done == 2
	})
	close(stuck)
	awaitDurable(t, table, 4000)
}

// A flow that is told to stop while its target fails does not wait for it.
func TestAFlowStopsWhileItsTargetFails(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	p := start(t, flow.Config{Sink: table.Sink(), ShutdownGrace: time.Hour}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	awaitDurable(t, table, 10)
	table.Break()
	log.Append("t", 0, flow.Record{})
	waitFor(t, func() bool { return p.flow.Status().State == flow.StateRetrying })
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
}

// A flow that cannot start yet says why.
func TestAFlowThatCannotStartSaysWhy(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	table.Break()
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	waitFor(t, func() bool {
		s := p.flow.Status()
		return s.State == flow.StateStarting && s.Err != nil
	})
	table.Mend()
	awaitDurable(t, table, 10)
	waitFor(t, func() bool { return p.flow.Status().Err == nil })
}

// A process that was started during an outage of the target has written nothing yet, and is behind for all that.
func TestWhatWasNeverWrittenIsBehind(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	opts := flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(opts))
	awaitDurable(t, table, 10)
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	behind := func() time.Duration {
		if s := p.flow.Status(); len(s.Partitions) > 0 {
			return s.Partitions[0].Behind
		}
		return -1
	}
	p = start(t, flow.Config{Sink: table.Sink()}, log.Source(opts))
	waitFor(t, func() bool { return behind() == 0 }) // there is nothing to write
	table.Break()
	log.Append("t", 0, flow.Record{})
	waitFor(t, func() bool { return behind() > 50*time.Millisecond })
	table.Mend()
	awaitDurable(t, table, 11)
	waitFor(t, func() bool { return behind() == 0 })
}
