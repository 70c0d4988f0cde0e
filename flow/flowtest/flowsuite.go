package flowtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// FlowHarness pairs a source with a sink. The pair is exactly once if the sink
// is; otherwise the source must keep the positions (Commit).
type FlowHarness struct {
	Source SourceHarness
	Sink   SinkHarness
}

// RunFlow runs flows from the source into the sink: restarts, errors, poison,
// backpressure.
func RunFlow(t *testing.T, h FlowHarness) {
	t.Helper()
	run(t, FlowCases(h))
}

// FlowCases are the cases that a flow between the two must pass.
func FlowCases(h FlowHarness) []Case {
	src, snk := h.Source.Features, h.Sink.Features
	var cases []Case
	for _, e := range []struct {
		name string
		run  func(*flowCase)
		when bool
	}{
		{"DeliversAll", deliversAll, true},
		{"ManyPartitions", flowOfManyPartitions, !src.SinglePartition},
		{"RestartContinues", restartContinues, true},
		{"RestartsMidway", restartsMidway, true},
		{"HardStopsMidway", hardStopsMidway, true},
		{"TransientErrors", transientErrors, true},
		{"PoisonIsIsolated", poisonIsIsolated, true},
		{"OversizedRecord", oversizedRecord, true},
		{"Backpressure", backpressure, true},
		{"ShutdownDrains", shutdownDrains, true},
		{"TargetAway", targetAway, true},
		{"LogAway", logAway, true},
		{"TwoProcesses", twoProcesses, src.Group && !src.SinglePartition && !snk.SingleProcess},
	} {
		if e.when {
			cases = append(cases, Case{e.name, func(t testing.TB) { e.run(newFlowCase(t, h)) }})
		}
	}
	return cases
}

// flowCase is one case: a topic, a target, and what was produced.
type flowCase struct {
	testing.TB
	ctx        context.Context
	h          FlowHarness
	topic      *Topic
	target     *Target
	partitions int
	produced   []Item         // Seq is the index
	at         []int32        // their partitions
	bad        map[int64]bool // sequence numbers that must become dead letters
	letters    memoryQueue
}

func newFlowCase(t testing.TB, h FlowHarness) *flowCase {
	return &flowCase{TB: t, ctx: caseContext(t), h: h, bad: map[int64]bool{}, target: h.Sink.New(t)}
}

func (c *flowCase) make(partitions int) {
	c.Helper()
	if c.h.Source.Features.SinglePartition {
		partitions = 1
	}
	c.partitions = partitions
	c.topic = c.h.Source.New(c, partitions)
}

// produce appends n items, spread over the partitions in runs.
func (c *flowCase) produce(n int, change ...func(*Item)) {
	c.Helper()
	byPartition := make([][]flow.Record, c.partitions)
	for range n {
		it := items(len(c.produced), 1)[0]
		for _, f := range change {
			f(&it)
		}
		id := int32(len(c.produced) / 7 % c.partitions)
		r := it.Record()
		r.Timestamp = epoch + it.Seq*1000
		if !c.h.Source.Features.Keys {
			r.Key = nil
		}
		if !c.h.Source.Features.Headers {
			r.Headers = nil
		}
		byPartition[id] = append(byPartition[id], r)
		c.produced, c.at = append(c.produced, it), append(c.at, id)
	}
	for id, records := range byPartition {
		if len(records) > 0 {
			c.topic.Produce(c, int32(id), records...)
		}
	}
}

// produceBad appends a record that is not JSON in the place of an item.
func (c *flowCase) produceBad() {
	c.Helper()
	n := len(c.produced)
	id := int32(n / 7 % c.partitions)
	r := flow.Record{Value: fmt.Appendf(nil, `{"seq": %d, "payload": `, n)}
	if c.h.Source.Features.Timestamps {
		r.Timestamp = epoch
	}
	c.topic.Produce(c, id, r)
	c.produced, c.at = append(c.produced, Item{Seq: int64(n)}), append(c.at, id)
	c.bad[int64(n)] = true
}

// memoryQueue takes dead letters where the sink does not store them.
type memoryQueue struct {
	mu   sync.Mutex
	seen []DeadRow
}

func (q *memoryQueue) Open(context.Context, flow.Setup) error { return nil }
func (q *memoryQueue) Close(context.Context) error            { return nil }

func (q *memoryQueue) Put(_ context.Context, letters []flow.DeadLetter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range letters {
		r := CloneRecord(l.Record)
		l.Record = &r
		// Letters may be repeated: readers dedupe by position.
		if !slices.ContainsFunc(q.seen, func(d DeadRow) bool { return d.Partition == l.Partition && d.Record.Offset == r.Offset }) {
			q.seen = append(q.seen, DeadRow{DeadLetter: l})
		}
	}
	return nil
}

func (c *flowCase) dead() []DeadRow {
	if c.h.Sink.Features.StoresDeadLetters {
		return c.target.Dead(c)
	}
	c.letters.mu.Lock()
	defer c.letters.mu.Unlock()
	return slices.Clone(c.letters.seen)
}

// running is a flow that runs.
type running struct {
	c      *flowCase
	flow   *flow.Flow
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

// run starts a flow. meddle, if not nil, wraps every Write.
func (c *flowCase) run(meddle meddler, change ...func(*flow.Config)) *running {
	c.Helper()
	cfg := flow.Config{
		Name: "flowtest.flow", Source: c.topic.Source(c, SourceStart{Group: "flowtest"}), Sink: c.target.Sink(c),
		Transforms: itemTransforms(c.h.Sink.Features.Columns), Lanes: 2, Logger: quiet, Retry: quickRetry,
		Batch: flow.BatchLimits{Records: 100},
	}
	if !c.h.Sink.Features.StoresDeadLetters {
		cfg.DeadLetters = &c.letters
	}
	if meddle != nil {
		cfg.Sink = meddle.wrap(cfg.Sink)
	}
	for _, f := range change {
		f(&cfg)
	}
	f, err := flow.New(cfg)
	must(c, err, "flow.New")
	ctx, cancel := context.WithCancel(c.ctx)
	r := &running{c: c, flow: f, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- f.Run(ctx) }()
	c.Cleanup(func() { r.once.Do(func() { cancel(); discard(<-r.done) }) })
	return r
}

// stop ends the flow, which must end without error.
func (r *running) stop() {
	r.c.Helper()
	r.once.Do(func() {
		r.cancel()
		must(r.c, within(r.c, patience/2, "Run whose context has ended", func() error { return <-r.done }), "Run")
	})
}

// await waits for cond, while the flow runs.
func (r *running) await(what string, cond func() bool) {
	r.c.Helper()
	ended := false
	var err error
	eventually(r.c, patience/2, what, func() bool {
		select {
		case err = <-r.done:
			ended = true
			r.done <- err
		default:
		}
		return ended || cond()
	})
	if ended {
		r.c.Fatalf("the flow ended before this: %s: %v", what, err)
	}
}

// all waits until everything that was produced is durable.
func (r *running) all() {
	r.c.Helper()
	r.await("everything that was produced is durable", func() bool {
		// Asking the flow is cheaper than reading everything back.
		return r.flow.Status().Buffered == 0 && r.c.complete()
	})
}

func (c *flowCase) durable() int { return len(c.target.Rows(c)) + len(c.dead()) }

// complete says whether everything that was produced is a row or a dead letter.
func (c *flowCase) complete() bool {
	rows := c.target.Rows(c)
	if len(rows) < len(c.produced)-len(c.bad) || len(c.dead()) < len(c.bad) {
		return false
	}
	seen := make([]bool, len(c.produced))
	for _, it := range rows {
		if it.Seq >= 0 && it.Seq < int64(len(seen)) {
			seen[it.Seq] = true
		}
	}
	for seq, ok := range seen {
		if !ok && !c.bad[int64(seq)] {
			return false
		}
	}
	return true
}

// audit compares what is durable with what was produced, by the promise of the
// pair, and returns the number of rows.
func (c *flowCase) audit() int {
	c.Helper()
	once := c.h.Sink.Features.ExactlyOnce || c.h.Sink.Features.Upsert
	rows := c.target.Rows(c)
	count := make([]int, len(c.produced))
	last := map[int32]int64{}
	for _, it := range rows {
		if it.Seq < 0 || it.Seq >= int64(len(c.produced)) || c.bad[it.Seq] || it != c.produced[it.Seq] {
			c.Fatalf("a row that was not produced so: %s", describe(it))
		}
		count[it.Seq]++
		if count[it.Seq] > 1 {
			continue
		}
		id := c.at[it.Seq]
		if before, ok := last[id]; ok && it.Seq < before && !c.h.Sink.Features.Unordered {
			c.Fatalf("partition %d: the row with seq %d follows that with %d", id, it.Seq, before)
		}
		last[id] = it.Seq
	}
	lost, doubled := 0, 0
	for seq, n := range count {
		if n == 0 && !c.bad[int64(seq)] {
			lost++
		}
		if n > 1 {
			doubled++
		}
	}
	if lost > 0 || once && doubled > 0 {
		c.Fatalf("of %d records %d are lost and %d doubled", len(c.produced), lost, doubled)
	}
	if dead := c.dead(); len(dead) != len(c.bad) {
		c.Fatalf("%d dead letters, want %d", len(dead), len(c.bad))
	}
	return len(rows)
}

// meddler wraps a sink so that a test can act before every Write: return an
// error, or another context for it.
type meddler func(ctx context.Context, n int64, b *flow.Batch) (context.Context, error)

func (m meddler) wrap(s flow.Sink) flow.Sink {
	base := &meddled{Sink: s, before: m}
	if cp, ok := s.(flow.Checkpointer); ok {
		return &meddledCheckpointer{meddled: base, Checkpointer: cp}
	}
	return base
}

type meddled struct {
	flow.Sink
	before meddler
	writes atomic.Int64
}

type meddledCheckpointer struct {
	*meddled
	flow.Checkpointer
}

// Writer implements flow.Sink.
func (s *meddled) Writer(lane int) (flow.Writer, error) {
	w, err := s.Sink.Writer(lane)
	if err != nil {
		return nil, err
	}
	return &meddledWriter{Writer: w, sink: s}, nil
}

// StoresDeadLetters implements flow.DeadLetterStore.
func (s *meddled) StoresDeadLetters() bool {
	d, ok := s.Sink.(flow.DeadLetterStore)
	return ok && d.StoresDeadLetters()
}

// MaxLanes implements flow.LaneLimiter.
func (s *meddled) MaxLanes() int {
	if l, ok := s.Sink.(flow.LaneLimiter); ok {
		return l.MaxLanes()
	}
	return 1 << 16
}

type meddledWriter struct {
	flow.Writer
	sink *meddled
}

// Write implements flow.Writer.
func (w *meddledWriter) Write(ctx context.Context, b *flow.Batch) error {
	ctx, err := w.sink.before(ctx, w.sink.writes.Add(1), b)
	if err != nil {
		return err
	}
	return w.Writer.Write(ctx, b)
}
