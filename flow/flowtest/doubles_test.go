package flowtest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tableHarness tests a Table whose sinks wrap has broken.
func tableHarness(f SinkFeatures, wrap func(flow.Sink) flow.Sink) SinkHarness {
	h := TableHarness(f)
	whole := h.New
	h.New = func(t testing.TB) *Target {
		target := whole(t)
		sink := target.Sink
		target.Sink = func(t testing.TB) flow.Sink { return wrap(sink(t)) }
		return target
	}
	return h
}

// logHarness tests a Log whose sources wrap has broken.
func logHarness(wrap func(flow.Source) flow.Source) SourceHarness {
	h := LogHarness()
	whole := h.New
	h.New = func(t testing.TB, partitions int) *Topic {
		topic := whole(t, partitions)
		source := topic.Source
		topic.Source = func(t testing.TB, s SourceStart) flow.Source { return wrap(source(t, s)) }
		return topic
	}
	return h
}

func TestTable(t *testing.T) {
	t.Run("exactly once", func(t *testing.T) {
		t.Parallel()
		RunSink(t, TableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, LocatesBadRows: true}))
	})
	t.Run("exactly once upsert", func(t *testing.T) {
		t.Parallel()
		RunSink(t, TableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, Upsert: true, Tombstones: true}))
	})
	t.Run("at least once", func(t *testing.T) {
		t.Parallel()
		RunSink(t, TableHarness(SinkFeatures{Columns: true}))
	})
}

func TestLog(t *testing.T) {
	RunSource(t, LogHarness())
}

func TestLogIntoTable(t *testing.T) {
	t.Run("exactly once", func(t *testing.T) {
		t.Parallel()
		RunFlow(t, FlowHarness{
			Source: LogHarness(),
			Sink:   TableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, Columns: true}),
		})
	})
	t.Run("at least once", func(t *testing.T) {
		t.Parallel()
		RunFlow(t, FlowHarness{Source: LogHarness(), Sink: TableHarness(SinkFeatures{LocatesBadRows: true})})
	})
}
