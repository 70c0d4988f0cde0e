package tap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/expr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// batchOf makes a batch of n records in each of two partitions.
func batchOf(n int, value string) *flow.Batch {
	var records []flow.Record
	var parts []flow.Part
	for id := range int32(2) {
		p := flow.Part{Partition: flow.Partition{Topic: "t", ID: id}, First: len(records)}
		for i := range n {
			records = append(records, flow.Record{Key: []byte("k"), Value: []byte(value), Offset: int64(i), Part: id, Timestamp: 1_700_000_000_000_000})
		}
		p.Next, p.End = int64(n), len(records)
		parts = append(parts, p)
	}
	return flow.NewBatch(records, parts)
}

func filter(t testing.TB, src string) *expr.Filter {
	t.Helper()
	f, err := expr.NewFilter(src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newTap(t testing.TB, o Options) *Tap {
	t.Helper()
	tp, err := New("f", o)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// collect runs the tap until stop is called.
func collect(t *Tap) (stop func() []Record) {
	ctx, cancel := context.WithCancel(context.Background())
	var out []Record
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = t.Run(ctx, func(r *Record) error { out = append(out, *r); return nil })
	})
	return func() []Record {
		cancel()
		wg.Wait()
		return out
	}
}

func TestTheRateHoldsOverAllLanesAndRecordsAreSpreadOverTheBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTap(t, Options{Rate: 20})
		stop := collect(tp)
		b := batchOf(500, `{"a":1}`)
		for range 300 { // for 30 s, of four lanes
			for lane := range 4 {
				tp.Read(lane, b)
			}
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // virtual
		}
		synctest.Wait()
		got := stop()
		if len(got) < 590 || len(got) > 640 { // 20 at once, then 20 a second
			t.Fatalf("%d records in 30 s", len(got))
		}
		passed, tenths, partitions := int64(0), map[int64]int{}, map[int32]int{}
		for _, r := range got {
			tenths[r.Offset/50]++
			partitions[r.Partition]++
			passed += r.Passed
		}
		for i := range int64(10) {
			if tenths[i] < 20 {
				t.Errorf("offsets %d to %d were shown %d times: not spread over the batch", 50*i, 50*i+49, tenths[i])
			}
		}
		if partitions[0] < 200 || partitions[1] < 200 {
			t.Errorf("by partition: %v", partitions)
		}
		if passed < 1_190_000 || passed > 1_210_000 {
			t.Errorf("the records say that %d have passed, of 1,200,000", passed)
		}
	})
}

func TestAStageDoesNotUseUpTheRateOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTap(t, Options{Stages: []string{StageDead, StageRead}, Rate: 10})
		stop := collect(tp)
		for range 10 {
			b := batchOf(1000, "x")
			tp.Read(0, b)
			b.Reject(700, flow.StageWrite, &flow.RecordError{Class: "range", Column: "ts", Err: errors.New("too large")})
			tp.Decoded(0, b)
			tp.Written(0, b, nil)
			time.Sleep(time.Second) //nolint:forbidigo // virtual
		}
		synctest.Wait()
		var dead []Record
		got := stop()
		for _, r := range got {
			if r.Stage == StageDead {
				dead = append(dead, r)
			}
		}
		if len(dead) != 10 || len(got) < 55 || len(got) > 60 {
			t.Fatalf("%d dead letters of 10, %d records in all", len(dead), len(got))
		}
		d := dead[3]
		if d.Class != "range" || d.Column != "ts" || d.FailedAt != "write" || d.Message == "" || d.Partition != 0 || d.Offset != 700 {
			t.Errorf("%+v", d)
		}
	})
}

// A person who does not read does not slow a lane, and memory is bounded.
func TestAStalledReaderCostsTheLanesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTap(t, Options{Rate: MaxRate, Stages: []string{StageRead, StageWritten}})
		b := batchOf(5000, strings.Repeat("x", 20_000))
		for range 20 {
			tp.Read(0, b)
			tp.Written(1, b, nil)
			time.Sleep(time.Second) //nolint:forbidigo // virtual
		}
		if n := tp.queued.Load(); n > maxQueuedBytes || len(tp.queue) == 0 {
			t.Errorf("%d bytes in the queue", n)
		}
		if tp.Stats().Dropped == 0 {
			t.Error("nothing is said of what was dropped")
		}
		if n := testing.AllocsPerRun(100, func() { tp.Read(0, b) }); n > 0 {
			t.Errorf("%.1f allocations for a batch that nobody looks at", n)
		}
	})
}

func TestAFilterLooksAtABoundedSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTap(t, Options{Rate: 5, Where: filter(t, "offset % 100 == 7")})
		stop := collect(tp)
		b := batchOf(10_000, `{"a":1}`)
		for range 100 {
			tp.Read(0, b)
			synctest.Wait()                    // the filter keeps up
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // virtual
		}
		got := stop()
		if len(got) < 45 || len(got) > 60 {
			t.Errorf("%d records in 10 s", len(got))
		}
		for _, r := range got {
			if r.Offset%100 != 7 {
				t.Errorf("offset %d does not match", r.Offset)
			}
		}
	})
}

func TestALimitEndsTheTap(t *testing.T) {
	tp := newTap(t, Options{Limit: 3})
	tp.Read(0, batchOf(100, "x"))
	n := 0
	if err := tp.Run(t.Context(), func(*Record) error { n++; return nil }); err != nil || n != 3 {
		t.Fatalf("%d records, %v", n, err)
	}
	before := len(tp.queue)
	tp.Read(0, batchOf(100, "x"))
	if len(tp.queue) != before {
		t.Error("records are copied, and nobody looks any more")
	}
	broken := newTap(t, Options{})
	broken.Read(0, batchOf(1, "x"))
	gone := errors.New("the client is gone")
	if err := broken.Run(t.Context(), func(*Record) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestTheFormOfARecord(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value []byte
		want  string
	}{
		{"JSON", []byte(`{"n": 12345678901234567890}`), `"value":{"n":12345678901234567890},"value_encoding":"json"`},
		{"text", []byte("hello\n\"you\""), `"value":"hello\n\"you\"","value_encoding":"text"`},
		{"bytes", []byte{0xff, 0x00}, `"value":"/wA=","value_encoding":"base64"`},
		{"JSON but for its UTF-8", []byte("{\"n\":\"\xff\"}"), `"value":"eyJuIjoi/yJ9","value_encoding":"base64"`},
		{"tombstone", nil, `"value":null`},
		{"empty", []byte{}, `"value":"","value_encoding":"text"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tp := newTap(t, Options{Stages: []string{StageDecoded}, Limit: 1})
			b := flow.NewBatch([]flow.Record{{
				Key: []byte("12"), Value: tt.value, Offset: 42, Timestamp: 1_700_000_000_123_456,
				Headers: []flow.Header{{Key: "h", Value: []byte("v")}, {Key: "h"}, {Key: "b", Value: []byte{0xfe}}},
			}}, []flow.Part{{Partition: flow.Partition{Topic: "t", ID: 3}, End: 1}})
			b.Columns = flow.NewColumns([]flow.Field{{Name: "id", Type: "int8", Kind: flow.KindInt64}, {Name: "s", Type: "text", Kind: flow.KindString}})
			b.Columns.Reset(1)
			b.Columns.Cols[0].Ints[0] = 7
			b.Columns.Cols[1].SetNull(0)
			tp.Decoded(2, b)
			var got []byte
			err := tp.Run(t.Context(), func(r *Record) (err error) { got, err = json.Marshal(r); return err })
			if err != nil {
				t.Fatal(err)
			}
			row := `,"row":{"id":7,"s":null}`
			if tt.value == nil {
				row = ""
			}
			want := `{"stage":"decoded","flow":"f","lane":2,"passed":1,"topic":"t","partition":3,"offset":42,"time":"2023-11-14T22:13:20.123456Z",` +
				`"key":"12","key_encoding":"text",` + tt.want +
				`,"headers":[{"key":"h","value":"v","encoding":"text"},{"key":"h","value":null},{"key":"b","value":"/g==","encoding":"base64"}]` + row + `}`
			if string(got) != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestALongValueIsCut(t *testing.T) {
	tp := newTap(t, Options{Limit: 1})
	value := "x" + strings.Repeat("é", maxValue)
	tp.Read(0, batchOf(1, value))
	if err := tp.Run(t.Context(), func(r *Record) error {
		if r.ValueEncoding != EncodingText || r.Cut < maxValue || r.Cut+len(r.Value)-2 != len(value) {
			return fmt.Errorf("%s, %d bytes and %d more", r.ValueEncoding, len(r.Value), r.Cut)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for _, o := range []Options{{Stages: []string{"raw"}}, {Rate: -1}, {Rate: 1001}, {Limit: -1}} {
		if _, err := New("f", o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestARunningFlowIsTapped(t *testing.T) {
	log, table := flowtest.NewLog(), flowtest.NewTable(flowtest.TableOptions{})
	log.Create("t", 2)
	for i := range 1000 {
		r := flow.Record{Value: fmt.Appendf(nil, `{"n":%d}`, i)}
		if i%100 == 0 {
			r.Headers = []flow.Header{{Key: "poison"}}
		}
		log.Append("t", int32(i%2), r)
	}
	f, err := flow.New(flow.Config{
		Name: "f", Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}, MaxRecords: 20}), Sink: table.Sink(), Lanes: 2,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	tp := newTap(t, Options{Stages: Stages, Rate: 100}) // 25 of each stage at once: the queue holds them
	remove := f.AddTap(tp)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	waiting, stopWaiting := context.WithTimeout(t.Context(), 20*time.Second)
	defer stopWaiting()
	if err := table.Wait(waiting, func() bool { rows, dead := table.Len(); return rows+dead == 1000 }); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	remove()
	tp.opts.Limit = len(tp.queue)
	byStage := map[string]int{}
	err = tp.Run(t.Context(), func(r *Record) error {
		byStage[r.Stage]++
		var v struct{ N int }
		if err := json.Unmarshal(r.Value, &v); err != nil || (v.N%100 == 0) != (r.Stage == StageDead) && r.Stage != StageRead && r.Stage != StageDecoded {
			return fmt.Errorf("%s: %s: %w", r.Stage, r.Value, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Stages {
		if byStage[s] < 10 {
			t.Errorf("%d records of stage %s", byStage[s], s)
		}
	}
}

// BenchmarkBatch is what a batch of 20,000 records costs a lane: with a tap at 1,000 a second,
// with a filter, and with a person who does not read. A flow writes 5 to 50 such batches a second.
func BenchmarkBatch(b *testing.B) {
	batch := batchOf(10_000, strings.Repeat("x", 512))
	for name, o := range map[string]Options{
		"rate=10": {}, "rate=1000": {Rate: MaxRate},
		"filter": {Where: filter(b, "offset == -1")},
	} {
		b.Run(name, func(b *testing.B) {
			tp := newTap(b, o)
			stop := collect(tp)
			defer stop()
			for b.Loop() {
				tp.Read(0, batch)
			}
		})
	}
	b.Run("stalled", func(b *testing.B) {
		tp := newTap(b, Options{Rate: MaxRate})
		for b.Loop() {
			tp.Read(0, batch)
		}
	})
}
