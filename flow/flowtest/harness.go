package flowtest

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// TableHarness is the harness of a Table with these features. A source's tests
// run flows into it. Its poison is the payload "poison".
func TableHarness(f SinkFeatures) SinkHarness {
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
				if f.ExactlyOnce {
					return table.Sink()
				}
				return table.PlainSink()
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

const poison = "poison"

// itemOf is the item that a record carries; of a record that carries none, its key.
func itemOf(r *flow.Record) (it Item) {
	if err := json.Unmarshal(r.Value, &it); err != nil {
		return Item{Key: string(r.Key)}
	}
	return it
}

// LogHarness is the harness of a Log, which can do all that a source can. A
// sink's tests run flows from it.
func LogHarness() SourceHarness {
	f := SourceFeatures{
		Group: true, Commit: true, Pause: true, Seek: true, Keys: true, Headers: true, Timestamps: true, Tombstones: true,
		Latest: true, MaxRecord: 1_000_000,
	}
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
				return log.Source(o)
			},
			Produce: func(_ testing.TB, id int32, records ...flow.Record) { log.Append("t", id, records...) },
			Gap:     func(_ testing.TB, id int32) { log.Skip("t", id, 3) },
			Break:   func(testing.TB) { log.Break() },
			Mend:    func(testing.TB) { log.Mend() },
		}
	}}
}
