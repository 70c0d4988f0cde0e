package flowtest

import (
	"context"
	"errors"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// The suite for flows finds every one of these faults, with either half broken.
func TestFlowMutants(t *testing.T) {
	impatient(t)
	sinks := map[string]struct {
		foundBy string
		write   func(m *mutantSink, n int, ctx context.Context, w flow.Writer, b *flow.Batch) error
	}{
		"drops": {"DeliversAll", func(_ *mutantSink, _ int, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			return w.Write(ctx, without(b, func(i int) bool { return i == b.Next(0) }))
		}},
		"a commit for the data and one for the positions": {"DeliversAll", func(m *mutantSink, n int, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			if err := m.plain(ctx, b); err != nil {
				return err
			}
			if n == 1 { // the process dies here
				return flow.Transient(errors.New("killed between the two"))
			}
			return w.Write(ctx, without(b, func(int) bool { return true }))
		}},
		"positions pass what was refused": {"PoisonIsIsolated", func(m *mutantSink, _ int, ctx context.Context, w flow.Writer, b *flow.Batch) error {
			err := w.Write(ctx, b)
			if flow.ClassOf(err) == flow.ClassData {
				return w.Write(ctx, without(b, func(int) bool { return true }))
			}
			return err
		}},
	}
	for name, m := range sinks {
		t.Run("sink "+name, func(t *testing.T) {
			t.Parallel()
			n := 0
			mustFail(t, FlowCases(FlowHarness{
				Source: LogHarness(),
				Sink: tableHarness(exactlyOnce, func(s flow.Sink) flow.Sink {
					broken := brokenSink(t, s)
					broken.write = func(ctx context.Context, w flow.Writer, b *flow.Batch) error {
						broken.table.mu.Lock()
						n++
						now := n
						broken.table.mu.Unlock()
						return m.write(broken, now, ctx, w, b)
					}
					return broken
				}),
			}), m.foundBy)
		})
	}

	// What the engine itself does not see: a source that loses, and one that
	// commits what it was not told.
	sources := map[string]struct {
		foundBy string
		mutate  func(*mutantSource)
	}{
		"drops": {"DeliversAll", func(m *mutantSource) {
			m.deliver = func(next func(flow.Fetch), f flow.Fetch) {
				if len(f.Records) > 1 {
					f.Records = f.Records[1:]
				}
				next(f)
			}
		}},
		"commits too much": {"HardStopsMidway", func(m *mutantSource) {
			m.commit = func(ctx context.Context, ps []flow.Position) error {
				for i := range ps {
					_, ps[i].Offset = m.log.Bounds(ps[i].Topic, ps[i].ID)
				}
				return m.LogSource.Commit(ctx, ps)
			}
		}},
	}
	for name, m := range sources {
		t.Run("source "+name, func(t *testing.T) {
			t.Parallel()
			mustFail(t, FlowCases(FlowHarness{
				Source: logHarness(func(s flow.Source) flow.Source {
					broken := brokenSource(t, s)
					m.mutate(broken)
					return broken
				}),
				Sink: TableHarness(SinkFeatures{}), // at least once
			}), m.foundBy)
		})
	}
}
