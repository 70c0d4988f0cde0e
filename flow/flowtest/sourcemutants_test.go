package flowtest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// mutantSource is a LogSource with a fault. A nil function is not broken.
type mutantSource struct {
	*LogSource
	in      *mutantIntake
	testCtx context.Context // ends with the test

	deliver  func(next func(flow.Fetch), f flow.Fetch)
	assigned func(context.Context, []flow.PartitionInfo) ([]flow.Position, error)
	open     func(*flow.Log)
	read     func(context.Context) error
	seek     func(context.Context, []flow.Position) error
	commit   func(context.Context, []flow.Position) error
	pause    func([]flow.Partition)
	close    func(context.Context) error
}

// brokenSource makes the source of a Log into one that can be broken.
func brokenSource(t *testing.T, s flow.Source) *mutantSource {
	t.Helper()
	whole, ok := s.(*LogSource)
	if !ok {
		t.Fatalf("%T is not the source of a Log", s)
	}
	return &mutantSource{LogSource: whole, testCtx: t.Context()}
}

// mutantIntake stands between a broken source and its intake.
type mutantIntake struct {
	flow.Intake
	m *mutantSource
}

func (in *mutantIntake) Deliver(f flow.Fetch) {
	if in.m.deliver == nil {
		in.Intake.Deliver(f)
		return
	}
	in.m.deliver(in.Intake.Deliver, f)
}

func (in *mutantIntake) Assigned(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
	if in.m.assigned == nil {
		return in.Intake.Assigned(ctx, ps)
	}
	return in.m.assigned(ctx, ps)
}

func (m *mutantSource) Subscribe(ctx context.Context, in flow.Intake) error {
	m.in = &mutantIntake{in, m}
	return m.LogSource.Subscribe(ctx, m.in)
}

func (m *mutantSource) Open(ctx context.Context) (*flow.Log, error) {
	l, err := m.LogSource.Open(ctx)
	if err == nil && m.open != nil {
		m.open(l)
	}
	return l, err
}

func (m *mutantSource) Read(ctx context.Context) error {
	if m.read == nil {
		return m.LogSource.Read(ctx)
	}
	return m.read(ctx)
}

func (m *mutantSource) Seek(ctx context.Context, ps []flow.Position) error {
	if m.seek == nil {
		return m.LogSource.Seek(ctx, ps)
	}
	return m.seek(ctx, ps)
}

func (m *mutantSource) Commit(ctx context.Context, ps []flow.Position) error {
	if m.commit == nil {
		return m.LogSource.Commit(ctx, ps)
	}
	return m.commit(ctx, ps)
}

func (m *mutantSource) Pause(ps []flow.Partition) {
	if m.pause == nil {
		m.LogSource.Pause(ps)
		return
	}
	m.pause(ps)
}

func (m *mutantSource) Close(ctx context.Context) error {
	if m.close == nil {
		return m.LogSource.Close(ctx)
	}
	return m.close(ctx)
}

type sourceMutant struct {
	name    string
	foundBy string
	mutate  func(*testing.T, *mutantSource)
}

// onDeliver breaks what is delivered.
func onDeliver(f func(m *mutantSource, next func(flow.Fetch), fetch flow.Fetch)) func(*testing.T, *mutantSource) {
	return func(_ *testing.T, m *mutantSource) {
		m.deliver = func(next func(flow.Fetch), fetch flow.Fetch) { f(m, next, fetch) }
	}
}

func onRecord(change func(*flow.Record)) func(*testing.T, *mutantSource) {
	return onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		for i := range f.Records {
			change(&f.Records[i])
		}
		next(f)
	})
}

var sourceMutants = []sourceMutant{
	{"drops", "ReadsAllInOrder", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		f.Records = slices.DeleteFunc(f.Records, func(r flow.Record) bool { return r.Offset == 33 })
		next(f)
	})},
	{"doubles", "ReadsAllInOrder", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		again := f
		again.Records = slices.Clone(f.Records)
		next(f)
		next(again)
	})},
	{"reorders", "ReadsAllInOrder", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		slices.Reverse(f.Records)
		next(f)
	})},
	{"renumbers", "ReadsAllInOrder", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		f.Next = f.Records[0].Offset
		next(f)
	})},
	{"mixes partitions", "ReadsAllInOrder", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		f.ID = (f.ID + 1) % 4
		next(f)
	})},
	{"reuses memory", "ReadsAllInOrder", func(_ *testing.T, m *mutantSource) {
		var memory []byte
		m.deliver = func(next func(flow.Fetch), f flow.Fetch) {
			memory = memory[:0:cap(memory)]
			for i := range f.Records {
				start := len(memory)
				memory = append(memory, f.Records[i].Value...)
				f.Records[i].Value = memory[start:len(memory):len(memory)]
			}
			next(f)
		}
	}},
	{"delivers outside of Read", "CommittedIsKept", func(_ *testing.T, m *mutantSource) {
		m.commit = func(ctx context.Context, ps []flow.Position) error {
			if len(ps) > 0 {
				m.in.Intake.Deliver(flow.Fetch{Partition: ps[0].Partition, Next: 1 << 20, End: 1 << 20})
			}
			return m.LogSource.Commit(ctx, ps)
		}
	}},
	{"delivers during Assigned", "ReadsAllInOrder", func(_ *testing.T, m *mutantSource) {
		m.assigned = func(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
			m.in.Intake.Deliver(flow.Fetch{Partition: ps[0].Partition})
			return m.in.Intake.Assigned(ctx, ps)
		}
	}},
	{"starts at the beginning", "StartsWhereAssigned", func(_ *testing.T, m *mutantSource) {
		m.assigned = func(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
			out, err := m.in.Intake.Assigned(ctx, ps)
			for i := range out {
				out[i].Offset = ps[i].Begin
			}
			return out, err
		}
	}},
	{"reads what has no position", "LeavesOutUnassigned", func(_ *testing.T, m *mutantSource) {
		m.assigned = func(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
			out, err := m.in.Intake.Assigned(ctx, ps)
			for i := range out {
				out[i].Offset = max(0, out[i].Offset)
			}
			return out, err
		}
	}},
	{"tombstone is empty", "RecordsAreWhole", onRecord(func(r *flow.Record) {
		if r.Value == nil {
			r.Value = []byte{}
		}
	})},
	{"empty is tombstone", "RecordsAreWhole", onRecord(func(r *flow.Record) {
		if len(r.Value) == 0 {
			r.Value = nil
		}
	})},
	{"headers as a map", "RecordsAreWhole", onRecord(func(r *flow.Record) {
		slices.SortStableFunc(r.Headers, func(a, b flow.Header) int { return int(a.Key[0]) - int(b.Key[0]) })
	})},
	{"timestamps in milliseconds", "RecordsAreWhole", onRecord(func(r *flow.Record) { r.Timestamp /= 1000 })},
	{"does not tell of gaps", "GapsMoveTheNext", onDeliver(func(_ *mutantSource, next func(flow.Fetch), f flow.Fetch) {
		if len(f.Records) > 0 {
			f.Next = f.Records[len(f.Records)-1].Offset + 1
			next(f)
		}
	})},
	{"wrong end", "OpenDescribesTheLog", func(_ *testing.T, m *mutantSource) {
		m.open = func(l *flow.Log) { l.Partitions[0].End-- }
	}},
	{"another name every time", "OpenDescribesTheLog", func(_ *testing.T, m *mutantSource) {
		m.open = func(l *flow.Log) {
			m.log.private++
			l.ClusterID += string(rune('a' + m.log.private))
		}
	}},
	{"latest is earliest", "StartsLatest", func(_ *testing.T, m *mutantSource) {
		m.open = func(l *flow.Log) { l.Partitions[0].Start = l.Partitions[0].Begin }
	}},
	{"returns the context's error", "ReadEndsWithContext", func(_ *testing.T, m *mutantSource) {
		m.read = func(ctx context.Context) error { return errors.Join(m.LogSource.Read(ctx), ctx.Err()) }
	}},
	{"reads on after its context", "ReadEndsWithContext", func(_ *testing.T, m *mutantSource) {
		m.read = func(ctx context.Context) error {
			if ctx.Err() == nil {
				return m.LogSource.Read(ctx)
			}
			return m.LogSource.Read(m.testCtx)
		}
	}},
	{"ignores pauses", "PauseAndResume", func(_ *testing.T, m *mutantSource) { m.pause = func([]flow.Partition) {} }},
	{"ignores pauses, all", "PauseAll", func(_ *testing.T, m *mutantSource) { m.pause = func([]flow.Partition) {} }},
	{"pauses everything", "PauseAndResume", func(_ *testing.T, m *mutantSource) {
		m.pause = func(ps []flow.Partition) {
			m.LogSource.Pause([]flow.Partition{{Topic: ps[0].Topic}, {Topic: ps[0].Topic, ID: 1}})
		}
	}},
	{"stale after Seek", "SeekAtRandom", staleAfterSeek},
	{"stale after Seek back", "SeekBack", staleAfterSeek},
	{"Seek goes one too far", "SeekBack", func(_ *testing.T, m *mutantSource) {
		m.seek = func(ctx context.Context, ps []flow.Position) error {
			ps = slices.Clone(ps)
			ps[0].Offset++
			return m.LogSource.Seek(ctx, ps)
		}
	}},
	{"Seek ends a pause", "SeekWhilePaused", func(_ *testing.T, m *mutantSource) {
		m.seek = func(ctx context.Context, ps []flow.Position) error {
			m.Resume([]flow.Partition{ps[0].Partition})
			return m.LogSource.Seek(ctx, ps)
		}
	}},
	{"ignores commits", "CommittedIsKept", func(_ *testing.T, m *mutantSource) {
		m.commit = func(context.Context, []flow.Position) error { return nil }
	}},
	{"commits one too many", "CommittedIsKept", func(_ *testing.T, m *mutantSource) {
		m.commit = func(ctx context.Context, ps []flow.Position) error {
			ps = slices.Clone(ps)
			for i := range ps {
				ps[i].Offset++
			}
			return m.LogSource.Commit(ctx, ps)
		}
	}},
	{"does not share", "GroupShares", func(_ *testing.T, m *mutantSource) { m.groupName += string(rune('a' + len(m.log.groups))) }},
	{"does not leave", "GroupTakesOver", func(t *testing.T, m *mutantSource) {
		s := m.LogSource
		t.Cleanup(func() { _ = s.Close(context.Background()) })
		m.close = func(context.Context) error { return nil }
	}},
	{"second close fails", "CloseTwice", func(_ *testing.T, m *mutantSource) {
		closed := false
		m.close = func(ctx context.Context) error {
			if closed {
				return errors.New("closed already")
			}
			closed = true
			return m.LogSource.Close(ctx)
		}
	}},
	{"Close waits for Assigned", "CloseEndsAssigned", func(_ *testing.T, m *mutantSource) {
		m.assigned = func(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
			return m.in.Intake.Assigned(m.testCtx, ps)
		}
	}},
	{"opens after Close", "NothingAfterClose", func(_ *testing.T, m *mutantSource) {
		m.close = func(ctx context.Context) error {
			err := m.LogSource.Close(ctx)
			m.LogSource = m.log.Source(m.opts)
			return err
		}
	}},
	{"leaks goroutines", "LeavesNoGoroutines", func(t *testing.T, m *mutantSource) {
		done := make(chan struct{})
		t.Cleanup(func() { close(done) })
		go func() { <-done }()
	}},
	{"forgets its position when the log was away", "AwayAndBack", func(_ *testing.T, m *mutantSource) {
		var end int64
		m.deliver = func(next func(flow.Fetch), f flow.Fetch) {
			// What is delivered after the first hundred records is taken for new.
			if end > 100 {
				f.Records = f.Records[len(f.Records)/2:]
			}
			end = f.Next
			next(f)
		}
	}},
}

func staleAfterSeek(_ *testing.T, m *mutantSource) {
	var last flow.Fetch
	stale := false
	m.deliver = func(next func(flow.Fetch), f flow.Fetch) {
		again := last
		last = f
		last.Records = slices.Clone(f.Records)
		if stale && again.Records != nil {
			next(again)
		}
		stale = false
		next(f)
	}
	m.seek = func(ctx context.Context, ps []flow.Position) error {
		stale = true
		return m.LogSource.Seek(ctx, ps)
	}
}

// contextOf ends when the mutant's test does.

// The suite finds every one of these faults.
func TestSourceMutants(t *testing.T) {
	impatient(t)
	for _, m := range sourceMutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			mustFail(t, SourceCases(logHarness(func(s flow.Source) flow.Source {
				broken := brokenSource(t, s)
				m.mutate(t, broken)
				return broken
			})), m.foundBy)
		})
	}
}
