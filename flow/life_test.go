package flow_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func logOf(n int, partitions int) *flowtest.Log {
	l := flowtest.NewLog()
	l.Create("t", partitions)
	for i := range n {
		l.Append("t", int32(i%partitions), flow.Record{Value: []byte{byte(i)}})
	}
	return l
}

func TestShutdownWritesWhatTheLanesHold(t *testing.T) {
	log, table := logOf(500, 2), flowtest.NewTable(flowtest.TableOptions{})
	gate := make(chan struct{})
	table.Inject(flowtest.Fault{Wait: gate, Yields: true})
	// The batch is larger than what there is, and waits long: only the drain writes it.
	p := start(t, flow.Config{
		Sink: table.Sink(), Lanes: 1, Batch: flow.BatchLimits{Records: 100, Wait: time.Hour},
	}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	waitFor(t, func() bool { return p.flow.Status().Buffered > 0 && p.flow.Status().State == flow.StateRunning })
	p.cancel()
	close(gate)
	if err := p.wait(t); err != nil {
		t.Fatal(err)
	}
	rows, _ := table.Len()
	s := p.flow.Status()
	if s.State != flow.StateStopped || int(s.Records) != rows || s.Buffered != 0 {
		t.Fatalf("%d rows, status %+v", rows, s)
	}
	p = start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	awaitDurable(t, table, 500)
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the condition never came")
		}
	}
}

func TestFatalErrorsStopTheFlowAndSayWhereItStood(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	table.Intercept(func(flowtest.Attempt) flowtest.Fault {
		return flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Fatal(errors.New("permission denied for table rows"))}
	})
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}}))
	err := p.wait(t)
	if err == nil || !strings.Contains(err.Error(), "permission denied for table rows") || !strings.Contains(err.Error(), "t[0] from offset 0") ||
		!strings.Contains(err.Error(), "flow f") {
		t.Fatalf("%v", err)
	}
}

func TestErrorsWithoutAClassStopTheFlowInTheEnd(t *testing.T) {
	log, table := logOf(10, 1), flowtest.NewTable(flowtest.TableOptions{})
	table.Intercept(func(flowtest.Attempt) flowtest.Fault {
		return flowtest.Fault{At: flowtest.BeforeBegin, Err: errors.New("odd")}
	})
	p := start(t, flow.Config{
		Sink: table.Sink(), Retry: flow.Retry{Initial: time.Microsecond, Max: time.Millisecond, UnknownAttempts: 3},
	}, log.Source(flowtest.LogOptions{Topics: []string{"t"}}))
	if err := p.wait(t); err == nil || !strings.Contains(err.Error(), "gave up after 4 attempts: odd") {
		t.Fatalf("%v", err)
	}
}

func TestARecordThatCannotBeKeptAnywhereStopsTheFlow(t *testing.T) {
	log, table := logOf(5, 1), flowtest.NewTable(flowtest.TableOptions{NoDeadLetters: true})
	log.Append("t", 0, flow.Record{Headers: []flow.Header{{Key: "poison"}}})
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(flowtest.LogOptions{Topics: []string{"t"}}))
	err := p.wait(t)
	if err == nil || !strings.Contains(err.Error(), "t[0] offset 5") || !strings.Contains(err.Error(), "dead-letter queue") {
		t.Fatalf("%v", err)
	}
}

// queue is a dead-letter queue that fails first.
type queue struct {
	mu       sync.Mutex
	failures int
	got      []flow.DeadLetter
}

func (q *queue) Open(context.Context, flow.Setup) error { return nil }
func (q *queue) Close(context.Context) error            { return nil }
func (q *queue) Put(_ context.Context, letters []flow.DeadLetter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failures > 0 {
		q.failures--
		return flow.Transient(errors.New("the queue is away"))
	}
	for _, l := range letters {
		r := flowtest.CloneRecord(l.Record)
		l.Record = &r
		q.got = append(q.got, l)
	}
	return nil
}

func TestDeadLettersInAQueueAreDurableBeforeThePosition(t *testing.T) {
	for name, sink := range map[string]func(*flowtest.Table) flow.Sink{
		"exactly once":  func(t *flowtest.Table) flow.Sink { return t.Sink() },
		"at least once": func(t *flowtest.Table) flow.Sink { return t.PlainSink() },
	} {
		t.Run(name, func(t *testing.T) {
			// The table could store them too, but they are kept in one place.
			log, table := logOf(20, 1), flowtest.NewTable(flowtest.TableOptions{})
			log.Append("t", 0, flow.Record{Value: []byte("bad"), Headers: []flow.Header{{Key: "poison"}}})
			q := &queue{failures: 3}
			p := start(t, flow.Config{Sink: sink(table), DeadLetters: q}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
			waitFor(t, func() bool { return p.flow.Status().Records == 21 })
			if err := p.stop(t); err != nil {
				t.Fatal(err)
			}
			if len(q.got) != 1 || string(q.got[0].Record.Value) != "bad" || q.got[0].Record.Offset != 20 || q.got[0].Stage != flow.StageWrite {
				t.Fatalf("%+v", q.got)
			}
			if _, dead := table.Len(); dead != 0 {
				t.Errorf("%d dead letters in the table as well", dead)
			}
			if s := p.flow.Status(); s.Dead != 1 || s.Rows != 20 || s.Retries < 3 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

func TestALostPositionStopsOrWaits(t *testing.T) {
	log, table := logOf(50, 2), flowtest.NewTable(flowtest.TableOptions{})
	opts := flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}
	p := start(t, flow.Config{Sink: table.Sink()}, log.Source(opts))
	awaitDurable(t, table, 50)
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		log.Append("t", 0, flow.Record{})
		log.Append("t", 1, flow.Record{})
	}
	log.Truncate("t", 0, 40)

	p = start(t, flow.Config{Sink: table.Sink()}, log.Source(opts))
	err := p.wait(t)
	var lost *flow.PositionLostError
	if !errors.As(err, &lost) || lost.Offset != 25 || lost.Begin != 40 || !strings.Contains(err.Error(), "records 25 to 39 are gone") {
		t.Fatalf("%v", err)
	}

	p = start(t, flow.Config{Sink: table.Sink(), WaitOnLostPosition: true}, log.Source(opts))
	awaitDurable(t, table, 70) // the other partition goes on
	if s := p.flow.Status(); s.State != flow.StateWaiting || !errors.As(s.Err, &lost) {
		t.Fatalf("%+v", s)
	}
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if at := table.Checkpoint("f", flow.Partition{Topic: "t"}); at.Offset != 25 {
		t.Fatalf("the position moved to %d", at.Offset)
	}
}

// slow is a sink of which one lane is stuck.
func TestAFullLaneDoesNotStopTheOthers(t *testing.T) {
	log, table := logOf(20_000, 2), flowtest.NewTable(flowtest.TableOptions{})
	gate := make(chan struct{})
	table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
		if a.Lane == 0 {
			return flowtest.Fault{Wait: gate, Yields: true}
		}
		return flowtest.Fault{}
	})
	const buffer = 200_000
	p := start(t, flow.Config{
		Sink: table.Sink(), Lanes: 2, Buffer: buffer, Batch: flow.BatchLimits{Records: 100},
	}, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 50}))
	var most int64
	waitFor(t, func() bool {
		s := p.flow.Status()
		most = max(most, s.Buffered)
		return s.Rows == 10_000
	})
	paused := false
	for _, ps := range p.flow.Status().Partitions {
		paused = paused || ps.Paused
	}
	if !paused {
		t.Error("the partition of the stuck lane is not paused")
	}
	close(gate)
	awaitDurable(t, table, 20_000)
	if most > buffer {
		t.Errorf("%d bytes were buffered, the limit is %d", most, buffer)
	}
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	source, sink := flowtest.NewLog().Source(flowtest.LogOptions{}), flow.SinkFunc(func(context.Context, *flow.Batch) error { return nil })
	for want, cfg := range map[string]flow.Config{
		"flow name":               {Source: source, Sink: sink},
		"has no source":           {Name: "f", Sink: sink},
		"has no sink":             {Name: "f", Source: source},
		"must not be negative":    {Name: "f", Source: source, Sink: sink, Lanes: -1},
		"longer than the longest": {Name: "f", Source: source, Sink: sink, Retry: flow.Retry{Initial: time.Hour, Max: time.Second}},
		`flow name "a b"`:         {Name: "a b", Source: source, Sink: sink},
	} {
		if _, err := flow.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
