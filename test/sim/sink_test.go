package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// sink writes to the table; it keeps no positions.
type sink struct{ p *process }

// checkpointSink keeps the positions beside the data.
type checkpointSink struct{ *sink }

var (
	_ flow.Sink            = (*sink)(nil)
	_ flow.DeadLetterStore = (*sink)(nil)
	_ flow.Checkpointer    = (*checkpointSink)(nil)
)

func (s *sink) call(ctx context.Context, k kind, lane int, what string, do func() error) error {
	return s.p.w.call(&call{proc: s.p, kind: k, lane: lane, what: what, ctx: ctx, do: do})
}

// Open implements flow.Sink.
func (s *sink) Open(ctx context.Context, _ flow.Setup) error {
	return s.call(ctx, openSink, 0, "", nil)
}

// Writer implements flow.Sink.
func (s *sink) Writer(lane int) (flow.Writer, error) {
	return &writer{p: s.p, lane: lane}, nil
}

// Close implements flow.Sink.
func (s *sink) Close(context.Context) error { return nil }

// StoresDeadLetters implements flow.DeadLetterStore.
func (s *sink) StoresDeadLetters() bool { return !s.p.w.plan.queue }

// Init implements flow.Checkpointer.
func (s *checkpointSink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	ps, err := starts(ctx)
	if err != nil {
		return err
	}
	return s.call(ctx, initFlow, 0, "", func() error {
		t := s.p.w.table
		if !t.registered {
			t.registered = true
			t.insert(ps)
		}
		return nil
	})
}

// Claim implements flow.Checkpointer.
func (s *checkpointSink) Claim(ctx context.Context, lane int, ps []flow.Partition) (out []flow.Checkpoint, err error) {
	err = s.call(ctx, claim, lane, list(ps), func() error {
		out = s.p.w.table.claim(ps)
		return nil
	})
	return out, err
}

// Insert implements flow.Checkpointer.
func (s *checkpointSink) Insert(ctx context.Context, ps []flow.Position) error {
	return s.call(ctx, insert, 0, fmt.Sprint(len(ps)), func() error {
		s.p.w.table.insert(ps)
		return nil
	})
}

// Read implements flow.Checkpointer.
func (s *checkpointSink) Read(ctx context.Context, ps []flow.Partition) (out []flow.Checkpoint, err error) {
	err = s.call(ctx, positions, 0, list(ps), func() error {
		out = s.p.w.table.read(ps)
		return nil
	})
	return out, err
}

// Topics implements flow.Checkpointer.
func (s *checkpointSink) Topics(ctx context.Context) (out map[string]int32, err error) {
	err = s.call(ctx, topics, 0, "", func() error {
		out = map[string]int32{}
		for p := range s.p.w.table.checkpoints {
			out[p.Topic]++
		}
		return nil
	})
	return out, err
}

func list(ps []flow.Partition) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%d ", p.ID)
	}
	return b.String()
}

// writer writes one batch at a time, step by step.
type writer struct {
	p    *process
	lane int
	// doubt are the parts of a commit whose answer was lost; nil if none.
	doubt []flow.Part
}

// Close implements flow.Writer.
func (wr *writer) Close() error { return nil }

// Write implements flow.Writer.
func (wr *writer) Write(ctx context.Context, b *flow.Batch) error {
	w := wr.p.w
	table := w.table
	if w.plan.atLeastOnce {
		return wr.plain(ctx, b)
	}
	if done, err := wr.settle(ctx, b); done || err != nil {
		return err
	}
	x := &tx{proc: wr.p, lane: wr.lane, parts: slices.Clone(b.Parts)}
	// step is a step of the transaction: one that fails ends it, at once or when
	// the table notices that the client is gone.
	step := func(k kind, do func() error) error {
		return w.call(&call{
			proc: wr.p, kind: k, lane: wr.lane, what: x.String(), ctx: ctx, do: do,
			fail: func(bool) {
				if w.faults && w.rng.IntN(4) == 0 {
					x.abandoned = true
					return
				}
				table.rollback(x)
			},
		})
	}
	err := w.call(&call{
		proc: wr.p, kind: swap, lane: wr.lane, what: x.String(), ctx: ctx,
		ready: func() bool { return !table.locked(x.parts) },
		do:    func() error { return table.swap(x) },
	})
	if err != nil {
		return err
	}
	if b.Len() > 0 {
		err := step(data, func() (err error) {
			if x.rows, err = w.rows(b); err != nil {
				table.rollback(x)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if dead := letters(b.DeadLetters()); len(dead) > 0 {
		err := step(putDead, func() error {
			x.dead = dead
			if w.bug.deadOutside {
				table.writeDead(dead)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := b.BeforeCommit(ctx); err != nil {
		_ = step(rollback, func() error {
			table.rollback(x)
			return nil
		})
		return err
	}
	return wr.commit(ctx, x)
}

// commit ends the transaction. Between what happens and its answer anything may happen.
func (wr *writer) commit(ctx context.Context, x *tx) error {
	w := wr.p.w
	lost := false
	err := w.call(&call{
		proc: wr.p, kind: commit, lane: wr.lane, what: x.String(), ctx: ctx,
		do: func() error { return w.table.commit(x) },
		fail: func(unanswered bool) {
			lost = unanswered
			x.abandoned, x.committing = true, unanswered
			if !unanswered && w.rng.IntN(2) == 0 {
				w.table.rollback(x)
			}
		},
	})
	if err == nil {
		err = w.call(&call{
			proc: wr.p, kind: answer, lane: wr.lane, what: x.String(), ctx: ctx,
			fail: func(bool) { lost = true },
		})
	}
	if lost {
		if w.bug.guess {
			return nil
		}
		wr.doubt = x.parts
	}
	return err
}

// settle finds out what became of a commit whose answer was lost: under the
// lock of the rows, because the transaction may still be open. It reports
// whether b is that batch, and durable.
func (wr *writer) settle(ctx context.Context, b *flow.Batch) (done bool, err error) {
	if wr.doubt == nil {
		return false, nil
	}
	parts, committed, table := wr.doubt, false, wr.p.w.table
	err = wr.p.w.call(&call{
		proc: wr.p, kind: resolve, lane: wr.lane, what: describe(parts), ctx: ctx,
		ready: func() bool { return !table.locked(parts) },
		do: func() error {
			committed = table.settled(parts)
			return nil
		},
	})
	if err != nil {
		return false, err
	}
	wr.doubt = nil
	return committed && slices.Equal(parts, b.Parts), nil
}

// plain writes without positions. After a lost answer nobody can tell, and the
// batch is written again.
func (wr *writer) plain(ctx context.Context, b *flow.Batch) error {
	w := wr.p.w
	if b.Len() == 0 {
		return nil
	}
	x := &tx{proc: wr.p, lane: wr.lane}
	parts := describe(b.Parts)
	err := w.call(&call{
		proc: wr.p, kind: data, lane: wr.lane, what: parts, ctx: ctx,
		do: func() (err error) {
			x.rows, err = w.rows(b)
			return err
		},
	})
	if err != nil {
		return err
	}
	x.dead = letters(b.DeadLetters())
	lost := false
	err = w.call(&call{
		proc: wr.p, kind: commit, lane: wr.lane, what: parts, ctx: ctx,
		do: func() error { return w.table.commit(x) },
		fail: func(unanswered bool) {
			lost = unanswered
			if unanswered && w.rng.IntN(2) == 0 && !w.bug.guess {
				_ = w.table.commit(x)
			}
		},
	})
	if err == nil {
		err = w.call(&call{proc: wr.p, kind: answer, lane: wr.lane, what: parts, ctx: ctx, fail: func(bool) { lost = true }})
	}
	if lost && w.bug.guess {
		return nil
	}
	return err
}

// rows reads the rows of a batch, as a database does that is sent them, and
// refuses what it cannot hold.
func (w *world) rows(b *flow.Batch) ([]row, error) {
	var rows []row
	k, last := 0, int64(-1)
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		for k < len(b.Parts) && (i < b.Parts[k].First || i >= b.Parts[k].End) {
			k, last = k+1, -1
		}
		if k == len(b.Parts) {
			w.violate("row %d of a batch belongs to none of its parts: %s", i, describe(b.Parts))
			break
		}
		r := row{b.Parts[k].ID, b.Records[i].Offset}
		if got := string(b.Records[i].Value); got != value(r) {
			w.violate("the record at %d:%d was altered to %q", r.id, r.offset, got)
		}
		if r.offset <= last {
			w.violate("a batch has %d after %d of partition %d", r.offset, last, r.id)
		}
		last = r.offset
		if err := flowtest.RefusePoison(&b.Records[i]); err != nil {
			refused := &flow.DataError{Rows: []int{i}, Err: err}
			if w.plan.vague {
				refused.Rows = nil
			}
			return nil, refused
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func value(r row) string { return fmt.Sprintf("%d:%d", r.id, r.offset) }

func letters(ds []flow.DeadLetter) []row {
	var rows []row
	for i := range ds {
		rows = append(rows, row{ds[i].ID, ds[i].Record.Offset})
	}
	return rows
}

// queue takes dead letters outside of the table.
type queue struct{ p *process }

var _ flow.DeadLetterQueue = (*queue)(nil)

// Open implements flow.DeadLetterQueue.
func (q *queue) Open(context.Context, flow.Setup) error { return nil }

// Put implements flow.DeadLetterQueue.
func (q *queue) Put(ctx context.Context, ds []flow.DeadLetter) error {
	rows := letters(ds)
	return q.p.w.call(&call{
		proc: q.p, kind: putDead, what: fmt.Sprint(rows), ctx: ctx,
		do: func() error {
			for _, r := range rows {
				q.p.w.table.letters[r] = true
				q.p.w.table.part(r.id).dirty = true
				q.p.w.stats.Dead++
			}
			return nil
		},
	})
}

// Close implements flow.DeadLetterQueue.
func (q *queue) Close(context.Context) error { return nil }
