package flowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/penstockdev/penstock/flow"
)

// TableSink writes to a Table, data and positions in one transaction.
type TableSink struct{ PlainSink }

// PlainSink writes to a Table and keeps no positions there: at least once.
type PlainSink struct {
	table *Table
	setup flow.Setup
}

var (
	_ flow.Sink            = (*PlainSink)(nil)
	_ flow.DeadLetterStore = (*PlainSink)(nil)
	_ flow.LaneLimiter     = (*PlainSink)(nil)
	_ flow.Sink            = (*TableSink)(nil)
	_ flow.Checkpointer    = (*TableSink)(nil)
)

// Sink makes a sink that keeps the flow's checkpoint in the table. Every call
// is another process.
func (t *Table) Sink() *TableSink { return &TableSink{PlainSink{table: t}} }

// PlainSink makes a sink without checkpoint.
func (t *Table) PlainSink() *PlainSink { return &PlainSink{table: t} }

// Open connects.
func (s *PlainSink) Open(ctx context.Context, setup flow.Setup) error {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	if err := s.table.check(ctx); err != nil {
		return err
	}
	s.setup = setup
	return nil
}

// StoresDeadLetters is as the table's options say.
func (s *PlainSink) StoresDeadLetters() bool { return !s.table.opts.NoDeadLetters }

// MaxLanes is as the table's options say.
func (s *PlainSink) MaxLanes() int {
	if s.table.opts.MaxLanes == 0 {
		return 1 << 16
	}
	return s.table.opts.MaxLanes
}

// Writer makes the writer of a lane, which keeps no positions.
func (s *PlainSink) Writer(lane int) (flow.Writer, error) {
	return &tableWriter{table: s.table, setup: s.setup, lane: lane}, nil
}

// Close has nothing to free.
func (s *PlainSink) Close(context.Context) error { return nil }

// Writer makes the writer of a lane.
func (s *TableSink) Writer(lane int) (flow.Writer, error) {
	return &tableWriter{table: s.table, setup: s.setup, lane: lane, positions: true}, nil
}

// Init registers the flow.
func (s *TableSink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	t := s.table
	t.mu.Lock()
	f := t.flow(s.setup.Flow)
	t.mu.Unlock()
	select {
	case f.init <- struct{}{}:
		defer func() { <-f.init }()
	case <-ctx.Done():
		return ctx.Err()
	}

	t.mu.Lock()
	fingerprint := [2]string{s.setup.ClusterID, s.setup.Source}
	err := t.check(ctx)
	switch {
	case err != nil:
	case !f.registered:
		f.registered, f.fingerprint = true, fingerprint
	case f.fingerprint != fingerprint:
		err = flow.Fatal(fmt.Errorf("flow %s exists and reads %q of cluster %q, not %q of %q; give the new flow another name",
			s.setup.Flow, f.fingerprint[1], f.fingerprint[0], fingerprint[1], fingerprint[0]))
	}
	fresh := len(f.checkpoints) == 0
	t.mu.Unlock()
	if err != nil || !fresh {
		return err
	}
	positions, err := starts(ctx)
	if err != nil {
		return err
	}
	return s.Insert(ctx, positions)
}

// Claim takes partitions over. Transactions that lock a row are terminated.
func (s *TableSink) Claim(ctx context.Context, _ int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check(ctx); err != nil {
		return nil, err
	}
	f := t.flow(s.setup.Flow)
	out := make([]flow.Checkpoint, len(ps))
	for i, p := range ps {
		if c := f.checkpoints[p]; c != nil {
			if c.lock != nil {
				c.lock.kill()
			}
			c.Owner++
		}
		out[i] = f.checkpoint(p)
	}
	t.signal()
	return out, nil
}

// Insert adds rows that do not exist.
func (s *TableSink) Insert(ctx context.Context, positions []flow.Position) error {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check(ctx); err != nil {
		return err
	}
	f := t.flow(s.setup.Flow)
	for _, p := range positions {
		if f.checkpoints[p.Partition] == nil {
			f.checkpoints[p.Partition] = &checkpointRow{Checkpoint: flow.Checkpoint{Position: p}}
		}
	}
	t.signal()
	return nil
}

// Read returns what is stored.
func (s *TableSink) Read(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check(ctx); err != nil {
		return nil, err
	}
	f := t.flow(s.setup.Flow)
	out := make([]flow.Checkpoint, len(ps))
	for i, p := range ps {
		out[i] = f.checkpoint(p)
	}
	return out, nil
}

// Topics counts the rows of each topic.
func (s *TableSink) Topics(ctx context.Context) (map[string]int32, error) {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.check(ctx); err != nil {
		return nil, err
	}
	out := map[string]int32{}
	for p := range t.flow(s.setup.Flow).checkpoints {
		out[p.Topic]++
	}
	return out, nil
}

type tableWriter struct {
	table     *Table
	setup     flow.Setup
	lane      int
	positions bool // the sink is a Checkpointer

	closed atomic.Bool
	// inDoubt are the parts of a commit whose answer was lost; nil if none.
	inDoubt []flow.Part
}

// Write writes the batch in one transaction.
func (w *tableWriter) Write(ctx context.Context, b *flow.Batch) error {
	t := w.table
	t.mu.Lock()
	var fault Fault
	if t.hook != nil {
		fault = t.hook(Attempt{Flow: w.setup.Flow, Lane: w.lane, N: t.writes, Batch: b})
	}
	t.writes++
	t.mu.Unlock()

	if w.closed.Load() {
		return flow.Fatal(errors.New("the writer is closed"))
	}
	if fault.At == None || fault.At == BeforeBegin {
		if err := fault.wait(ctx); err != nil {
			return err
		}
	}
	if fault.At == BeforeBegin {
		return fault.err()
	}
	if done, err := w.settle(ctx, b); done || err != nil {
		return err
	}
	tx, err := t.begin(ctx, w, b)
	if err != nil {
		return err
	}
	defer tx.rollback()
	if err := tx.insert(b); err != nil {
		return err
	}
	if fault.At == InTransaction {
		if err := fault.wait(ctx); err != nil {
			return err
		}
		if fault.Err != nil || fault.Wait == nil {
			return fault.err()
		}
	}
	if w.positions {
		if err := b.BeforeCommit(ctx); err != nil {
			return err
		}
	}
	switch fault.At {
	case LostRollback:
		tx.rollback()
		w.inDoubt = slices.Clone(b.Parts)
		return errAnswer
	case LostCommit:
		if err := tx.commit(ctx); err != nil {
			return err
		}
		w.inDoubt = slices.Clone(b.Parts)
		return errAnswer
	default:
		return tx.commit(ctx)
	}
}

// settle finds out what became of a commit whose answer was lost. It reports
// whether b is that batch, and durable. Without positions nobody can tell: the
// batch is written again.
func (w *tableWriter) settle(ctx context.Context, b *flow.Batch) (bool, error) {
	if w.inDoubt == nil {
		return false, nil
	}
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	if err := w.table.check(ctx); err != nil {
		return false, err
	}
	parts := w.inDoubt
	w.inDoubt = nil
	if !w.positions || !slices.Equal(parts, b.Parts) {
		return false, nil
	}
	f := w.table.flow(w.setup.Flow)
	for _, p := range parts {
		if c := f.checkpoint(p.Partition); c.Offset != p.Next || c.Owner != p.Owner {
			return false, nil
		}
	}
	return len(parts) > 0, nil
}

// Close frees the writer.
func (w *tableWriter) Close() error {
	w.closed.Store(true)
	return nil
}
