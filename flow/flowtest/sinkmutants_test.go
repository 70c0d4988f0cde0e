package flowtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// mutantSink is a TableSink with a fault. A nil function is not broken.
type mutantSink struct {
	*TableSink
	write  func(ctx context.Context, w flow.Writer, b *flow.Batch) error
	init   func(context.Context, func(context.Context) ([]flow.Position, error)) error
	claim  func(context.Context, []flow.Partition) ([]flow.Checkpoint, error)
	insert func(context.Context, []flow.Position) error
	close  func(context.Context) error
}

type mutantWriter struct {
	flow.Writer
	write func(ctx context.Context, w flow.Writer, b *flow.Batch) error
}

func (m *mutantSink) Writer(lane int) (flow.Writer, error) {
	w, err := m.TableSink.Writer(lane)
	if m.write == nil {
		return w, err
	}
	return &mutantWriter{w, m.write}, err
}

func (w *mutantWriter) Write(ctx context.Context, b *flow.Batch) error {
	return w.write(ctx, w.Writer, b)
}

func (m *mutantSink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	if m.init == nil {
		return m.TableSink.Init(ctx, starts)
	}
	return m.init(ctx, starts)
}

func (m *mutantSink) Claim(ctx context.Context, lane int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	if m.claim == nil {
		return m.TableSink.Claim(ctx, lane, ps)
	}
	return m.claim(ctx, ps)
}

func (m *mutantSink) Insert(ctx context.Context, ps []flow.Position) error {
	if m.insert == nil {
		return m.TableSink.Insert(ctx, ps)
	}
	return m.insert(ctx, ps)
}

func (m *mutantSink) Close(ctx context.Context) error {
	if m.close == nil {
		return m.TableSink.Close(ctx)
	}
	return m.close(ctx)
}

// brokenSink makes the sink of a Table into one that can be broken.
func brokenSink(t *testing.T, s flow.Sink) *mutantSink {
	t.Helper()
	whole, ok := s.(*TableSink)
	if !ok {
		t.Fatalf("%T is not the sink of a Table", s)
	}
	return &mutantSink{TableSink: whole}
}

// plain writes only the data of a batch, in a transaction of its own.
func (m *mutantSink) plain(ctx context.Context, b *flow.Batch) error {
	w, err := m.PlainSink.Writer(0)
	if err != nil {
		return err
	}
	return w.Write(ctx, b)
}

// without is the batch with all rows for which drop returns true left out.
func without(b *flow.Batch, drop func(i int) bool) *flow.Batch {
	var records []flow.Record
	parts := slices.Clone(b.Parts)
	for k, p := range b.Parts {
		parts[k].First = len(records)
		for i := p.First; i < p.End; i++ {
			if !drop(i) {
				records = append(records, b.Records[i])
			}
		}
		parts[k].End = len(records)
	}
	return flow.NewBatch(records, parts)
}

// lookup replaces what the lane believes by what is stored.
func lookup(m *mutantSink, b *flow.Batch, change func(*flow.Part, flow.Checkpoint)) *flow.Batch {
	c := *b
	c.Parts = slices.Clone(b.Parts)
	for i := range c.Parts {
		if at := m.table.Checkpoint(m.setup.Flow, c.Parts[i].Partition); at.Offset >= 0 {
			change(&c.Parts[i], at)
		}
	}
	return &c
}

type sinkMutant struct {
	name     string
	foundBy  string
	features SinkFeatures
	mutate   func(*mutantSink)
}

var exactlyOnce = SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, LocatesBadRows: true}

func sinkMutants() []sinkMutant {
	write := func(f func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error) func(*mutantSink) {
		return func(m *mutantSink) {
			m.write = func(ctx context.Context, w flow.Writer, b *flow.Batch) error { return f(m, ctx, w, b) }
		}
	}
	noFence := write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		return w.Write(ctx, lookup(m, b, func(p *flow.Part, at flow.Checkpoint) { p.Owner = at.Owner }))
	})
	noSwap := write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		return w.Write(ctx, lookup(m, b, func(p *flow.Part, at flow.Checkpoint) { p.From = at.Offset }))
	})
	reorders := write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		r := without(b, func(int) bool { return false })
		slices.Reverse(r.Records)
		return w.Write(ctx, r)
	})
	drops := write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		return w.Write(ctx, without(b, func(i int) bool { return i == b.Len()-1 && i%50 == 49 }))
	})
	dataFirst := write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		if err := m.plain(ctx, b); err != nil {
			return err
		}
		return w.Write(ctx, without(b, func(int) bool { return true }))
	})
	positionFirst := write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		if err := w.Write(ctx, without(b, func(int) bool { return true })); err != nil {
			return err
		}
		return m.plain(ctx, b)
	})
	perPartition := write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
		for i := range b.Parts { // a transaction for each
			one := without(b, func(k int) bool { return k < b.Parts[i].First || k >= b.Parts[i].End })
			one.Parts = one.Parts[i : i+1]
			if err := w.Write(ctx, one); err != nil {
				return err
			}
		}
		return nil
	})
	always := func(class func(error) error) func(*mutantSink) {
		return write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if err := w.Write(ctx, b); err != nil {
				return class(errors.New(err.Error()))
			}
			return nil
		})
	}
	upsert := SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, Upsert: true, Tombstones: true}
	return []sinkMutant{
		{"no fence", "StaleOwnerFenced", exactlyOnce, noFence},
		{"no fence, two processes", "OtherProcessFenced", exactlyOnce, noFence},
		{"no compare", "WrongFromFenced", exactlyOnce, noSwap},
		{"writes a repeat", "RepeatIsRefused", exactlyOnce, noSwap},
		{"reorders", "WritesInOrder", exactlyOnce, reorders},
		{"upsert, first wins", "UpsertLastWins", upsert, reorders},
		{"drops", "WritesInOrder", exactlyOnce, drops},
		{"data before position", "StaleOwnerFenced", exactlyOnce, dataFirst},
		{"position before data", "BadRow", exactlyOnce, positionFirst},
		{"partition by partition", "AllPartitionsOrNone", exactlyOnce, perPartition},
		{"partition by partition, bad row", "BadRow", exactlyOnce, perPartition},
		{"no class", "BadRow", exactlyOnce, always(func(err error) error { return err })},
		{"away is fatal", "AwayAndBack", exactlyOnce, always(flow.Fatal)},
		{"fenced is transient", "WrongFromFenced", exactlyOnce, always(flow.Transient)},
		{"doubles", "WritesInOrder", exactlyOnce, write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return errors.Join(w.Write(ctx, b), m.plain(ctx, without(b, func(i int) bool { return i != 7 })))
		})},
		{"writes rejected rows", "RejectedRows", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return w.Write(ctx, without(b, func(int) bool { return false }))
		})},
		{"forgets dead letters", "DeadLettersAreWhole", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return w.Write(ctx, without(b, b.Rejected))
		})},
		{"dead letters outside of the transaction", "DeadLettersRollBack", exactlyOnce, write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if d := b.DeadLetters(); len(d) > 0 {
				m.table.dead = append(m.table.dead, DeadRow{DeadLetter: d[0]})
			}
			return w.Write(ctx, b)
		})},
		{"dead letters lose headers", "DeadLettersAreWhole", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			kept := b.Records[1].Headers
			b.Records[1].Headers = nil
			defer func() { b.Records[1].Headers = kept }()
			return w.Write(ctx, b)
		})},
		{"skips empty batches", "EmptyBatch", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if b.Len() == 0 {
				return nil
			}
			return w.Write(ctx, b)
		})},
		{"data error before fence", "FencedBeforeDataError", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			for i := range b.Records {
				if bytes.Contains(b.Records[i].Value, []byte(poison)) {
					return &flow.DataError{Rows: []int{i}, Err: errors.New("poison")}
				}
			}
			return w.Write(ctx, b)
		})},
		{"names the wrong row", "BadRow", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			err := w.Write(ctx, b)
			if data, ok := errors.AsType[*flow.DataError](err); ok {
				data.Rows[0]++
			}
			return err
		})},
		{"half of a batch", "CancelledDuringWrite", exactlyOnce, write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if err := w.Write(ctx, b); err == nil || ctx.Err() == nil {
				return err
			}
			_ = m.plain(context.WithoutCancel(ctx), without(b, func(i int) bool { return i > b.Len()/2 }))
			return ctx.Err()
		})},
		{"ignores the context", "CloseAfterBlockedWrite", exactlyOnce, write(func(m *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			for {
				changed := m.table.Changed()
				err := w.Write(context.WithoutCancel(ctx), b)
				if !flow.IsTransient(err) {
					return err
				}
				<-changed
			}
		})},
		{"commits before the dead letters", "BeforeCommitInTransaction", exactlyOnceElsewhere, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if err := w.Write(ctx, without(b, b.Rejected)); err != nil {
				return err
			}
			return b.BeforeCommit(ctx)
		})},
		{"tombstones do nothing", "TombstoneDeletes", upsert, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return w.Write(ctx, without(b, func(i int) bool { return b.Records[i].Value == nil }))
		})},
		{"truncates", "BigRecord", exactlyOnce, write(func(_ *mutantSink, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return w.Write(ctx, without(b, func(i int) bool { return len(b.Records[i].Value) > 1<<20 }))
		})},
		{"claims without increment", "ClaimIncrementsOwner", exactlyOnce, func(m *mutantSink) { m.claim = m.Read }},
		{"claims in another order", "ClaimIncrementsOwner", exactlyOnce, func(m *mutantSink) {
			m.claim = func(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
				return m.TableSink.Claim(ctx, 0, slices.SortedFunc(slices.Values(ps), comparePartitions))
			}
		}},
		{"leaves out unknown partitions", "UnknownPartition", exactlyOnce, func(m *mutantSink) {
			m.claim = func(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
				got, err := m.TableSink.Claim(ctx, 0, ps)
				return slices.DeleteFunc(got, func(c flow.Checkpoint) bool { return c.Offset < 0 }), err
			}
		}},
		{"makes unknown partitions", "UnknownPartition", exactlyOnce, func(m *mutantSink) {
			m.claim = func(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
				var at []flow.Position
				for _, p := range ps {
					at = append(at, flow.Position{Partition: p})
				}
				if err := m.TableSink.Insert(ctx, at); err != nil {
					return nil, err
				}
				return m.TableSink.Claim(ctx, 0, ps)
			}
		}},
		{"starts anew at every start", "InitOnce", exactlyOnce, func(m *mutantSink) {
			m.init = func(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
				ps, err := starts(ctx)
				for _, p := range ps {
					m.table.SetCheckpoint(m.setup.Flow, flow.Checkpoint{Position: p})
				}
				return err
			}
		}},
		{"no fingerprint", "FingerprintRefused", exactlyOnce, func(m *mutantSink) {
			m.init = func(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
				ps, err := starts(ctx)
				if err != nil {
					return err
				}
				return m.TableSink.Insert(ctx, ps)
			}
		}},
		{"insert overwrites", "InsertLeavesRows", exactlyOnce, func(m *mutantSink) {
			m.insert = func(_ context.Context, ps []flow.Position) error {
				for _, p := range ps {
					m.table.SetCheckpoint(m.setup.Flow, flow.Checkpoint{Position: p})
				}
				return nil
			}
		}},
		{"forgets positions", "PositionsSurvive", exactlyOnce, func(m *mutantSink) {
			m.close = func(context.Context) error {
				m.table.SetCheckpoint(m.setup.Flow, flow.Checkpoint{Position: flow.Position{Partition: sinkPartition(0)}, Owner: 1})
				return nil
			}
		}},
		{"second close fails", "CloseTwice", exactlyOnce, func(m *mutantSink) {
			closed := false
			m.close = func(context.Context) error {
				if closed {
					return errors.New("closed already")
				}
				closed = true
				return nil
			}
		}},
	}
}

var exactlyOnceElsewhere = SinkFeatures{ExactlyOnce: true, LocatesBadRows: true}

// impatient shortens the waits for cases that must fail.
func impatient(t *testing.T) {
	t.Helper()
	p, s := patience, soon
	patience, soon = 3*time.Second, time.Second
	t.Cleanup(func() { patience, soon = p, s })
}

// The suite finds every one of these faults.
func TestSinkMutants(t *testing.T) {
	impatient(t)
	for _, m := range sinkMutants() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			mustFail(t, SinkCases(tableHarness(m.features, func(s flow.Sink) flow.Sink {
				broken := brokenSink(t, s)
				m.mutate(broken)
				return broken
			})), m.foundBy)
		})
	}
}
