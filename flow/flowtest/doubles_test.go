package flowtest

import (
	"encoding/json"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const poison = "poison"

// tableHarness tests a Table; wrap changes the sinks, to break them.
func tableHarness(f SinkFeatures, wrap func(flow.Sink) flow.Sink) SinkHarness {
	return SinkHarness{Features: f, New: func(testing.TB) *Target {
		table := NewTable(TableOptions{
			Upsert: f.Upsert, Vague: !f.LocatesBadRows, NoDeadLetters: !f.StoresDeadLetters,
			Refuse: func(r *flow.Record) error {
				if it := itemOf(r); it.Payload == poison {
					return &flow.RecordError{Class: "constraint", Column: "payload", Err: errors.New("poison")}
				}
				return nil
			},
		})
		return &Target{
			Sink: func(testing.TB) flow.Sink {
				var s flow.Sink = table.PlainSink()
				if f.ExactlyOnce {
					s = table.Sink()
				}
				if wrap != nil {
					s = wrap(s)
				}
				return s
			},
			Rows: func(testing.TB) []Item {
				var out []Item
				for _, r := range table.Rows() {
					out = append(out, itemOf(&r.Record))
				}
				return out
			},
			Dead:   func(testing.TB) []DeadRow { return table.Dead() },
			Poison: func(it Item) Item { it.Payload = poison; return it },
			Break:  func(testing.TB) { table.Break() },
			Mend:   func(testing.TB) { table.Mend() },
		}
	}}
}

func itemOf(r *flow.Record) (it Item) {
	if err := json.Unmarshal(r.Value, &it); err != nil {
		return Item{Key: string(r.Key)}
	}
	return it
}

func TestTable(t *testing.T) {
	t.Run("exactly once", func(t *testing.T) {
		RunSink(t, tableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, LocatesBadRows: true}, nil))
	})
	t.Run("exactly once upsert", func(t *testing.T) {
		RunSink(t, tableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, Upsert: true, Tombstones: true}, nil))
	})
	t.Run("at least once", func(t *testing.T) {
		RunSink(t, tableHarness(SinkFeatures{Columns: true}, nil))
	})
}

func logHarness(f SourceFeatures, wrap func(flow.Source) flow.Source) SourceHarness {
	return SourceHarness{Features: f, New: func(_ testing.TB, partitions int) *Topic {
		log := NewLog()
		log.Create("t", partitions)
		return &Topic{
			Name: "t",
			Source: func(_ testing.TB, s SourceStart) flow.Source {
				o := LogOptions{Topics: []string{"t"}, Group: s.Group, MaxRecords: 70, MaxPartitions: 2}
				if s.Latest {
					o.Start = "latest"
				}
				var src flow.Source = log.Source(o)
				if wrap != nil {
					src = wrap(src)
				}
				return src
			},
			Produce: func(_ testing.TB, id int32, records ...flow.Record) { log.Append("t", id, records...) },
			Gap:     func(_ testing.TB, id int32) { log.Skip("t", id, 3) },
			Break:   func(testing.TB) { log.Break() },
			Mend:    func(testing.TB) { log.Mend() },
		}
	}}
}

var logFeatures = SourceFeatures{
	Group: true, Commit: true, Pause: true, Seek: true, Keys: true, Headers: true, Timestamps: true, Tombstones: true, Latest: true,
	MaxRecord: 1_000_000,
}

func TestLog(t *testing.T) {
	RunSource(t, logHarness(logFeatures, nil))
}

func TestLogIntoTable(t *testing.T) {
	t.Run("exactly once", func(t *testing.T) {
		RunFlow(t, FlowHarness{
			Source: logHarness(logFeatures, nil),
			Sink:   tableHarness(SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, Columns: true}, nil),
		})
	})
	t.Run("at least once", func(t *testing.T) {
		RunFlow(t, FlowHarness{Source: logHarness(logFeatures, nil), Sink: tableHarness(SinkFeatures{LocatesBadRows: true}, nil)})
	})
}
