package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

// openSink opens an at-least-once sink, and returns a writer of it.
func openSink(t testing.TB, cfg SinkConfig) (flow.Writer, error) {
	t.Helper()
	cfg.Delivery = deliverAtLeastOnce
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	eventually(t, "Open", func() bool { // a topic may be new
		err = s.Open(t.Context(), flow.Setup{Flow: "f", Lanes: 1})
		return !flow.IsTransient(err)
	})
	if err != nil {
		return nil, err
	}
	w, err := s.Writer(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, nil
}

func mustOpenSink(t testing.TB, cfg SinkConfig) flow.Writer {
	t.Helper()
	w, err := openSink(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// partsOf makes a batch of records for each partition of the topic.
func partsOf(topic string, records ...[]flow.Record) *flow.Batch {
	var all []flow.Record
	var parts []flow.Part
	for id, rs := range records {
		first := len(all)
		for i := range rs {
			rs[i].Offset, rs[i].Part = int64(i), int32(id)
		}
		all = append(all, rs...)
		parts = append(parts, flow.Part{Partition: flow.Partition{Topic: topic, ID: int32(id)}, Next: int64(len(rs)), First: first, End: len(all)})
	}
	return flow.NewBatch(all, parts)
}

func TestSinkKeepsRecordsWhole(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2, "retention.ms=-1")
	w := mustOpenSink(t, SinkConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: topic})
	at := time.Date(2020, 2, 3, 4, 5, 6, 7_000_000, time.UTC).UnixMicro()
	records := func() [][]flow.Record {
		return [][]flow.Record{
			{
				{Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: []flow.Header{{Key: "a", Value: []byte{0, 255}}, {Key: "a", Value: nil}, {Key: "", Value: []byte{}}}},
				{Key: nil, Value: []byte("no key"), Timestamp: at + 1000},
				{Key: []byte("tombstone"), Value: nil, Timestamp: at + 2000},
			},
			{
				{Key: []byte{}, Value: []byte{}, Timestamp: 0},
				{Key: []byte("second"), Value: []byte("\xff\x00"), Timestamp: at},
			},
		}
	}
	for range 2 { // buffers are used again
		if err := w.Write(t.Context(), partsOf("source", records()...)); err != nil {
			t.Fatal(err)
		}
	}
	got := map[int32][]*kgo.Record{}
	for _, r := range b.committed(topic) {
		got[r.Partition] = append(got[r.Partition], r)
	}
	for id, once := range records() {
		want := slices.Concat(once, once)
		if len(got[int32(id)]) != len(want) {
			t.Fatalf("partition %d has %d records, want %d", id, len(got[int32(id)]), len(want))
		}
		for i, r := range got[int32(id)] {
			have := flow.Record{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp.UnixMicro()}
			for _, h := range r.Headers {
				have.Headers = append(have.Headers, flow.Header(h))
			}
			if diff := flowtest.DiffRecord(&want[i], &have); diff != "" {
				t.Errorf("partition %d, record %d: %s", id, i, diff)
			}
		}
	}
}

// TestLargeRecords: what fits compressed goes through, what does not is a data
// error that names the rows, and their neighbours can be written.
func TestLargeRecords(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1, "max.message.bytes=100000")
	random := make([]byte, 150_000)
	for i := range random {
		random[i] = byte(rand.IntN(256))
	}
	soft, hard := []byte(strings.Repeat("compressible ", 20_000)), random
	for _, codec := range []string{"snappy", "none"} {
		w := mustOpenSink(t, SinkConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: topic, Compression: codec})
		some := func() []flow.Record {
			rs := make([]flow.Record, 400)
			for i := range rs {
				rs[i].Value = random[i : i+1000]
			}
			return rs
		}
		rs := some()
		rs[7].Value, rs[300].Value = hard, soft
		batch := partsOf("source", rs)
		for {
			err := w.Write(t.Context(), batch)
			if err == nil {
				break
			}
			data, ok := errors.AsType[*flow.DataError](err)
			if !ok || len(data.Rows) == 0 {
				t.Fatalf("%s: want a data error that names rows, have %v", codec, err)
			}
			if record, ok := errors.AsType[*flow.RecordError](err); !ok || record.Class != "oversized" {
				t.Errorf("%s: want class oversized, have %v", codec, err)
			}
			for _, row := range data.Rows {
				if row != 7 && (row != 300 || codec != "none") {
					t.Fatalf("%s: row %d was refused: %v", codec, row, err)
				}
				batch.Reject(row, flow.StageWrite, data.Err)
			}
		}
		if want := map[string]int{"snappy": 399, "none": 398}[codec]; batch.Rows() != want {
			t.Errorf("%s: %d rows were written, want %d", codec, batch.Rows(), want)
		}
		if err := w.Write(t.Context(), partsOf("source", some())); err != nil {
			t.Errorf("%s: the batch after it: %v", codec, err)
		}
	}
}

func TestSinkFindsAndCreatesTopics(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	source := b.topic(3, "max.message.bytes=200000")
	src := b.config(source)
	name := testservice.Name(t)
	at := Connection{Brokers: []string{b.addr}}
	for what, c := range map[string]struct {
		cfg  SinkConfig
		want string
	}{
		"missing":        {SinkConfig{Connection: at, Topic: name + ".missing"}, "does not exist"},
		"too narrow":     {SinkConfig{Connection: at, Topic: b.topic(2), Source: &src}, "2 partitions"},
		"dead letters":   {SinkConfig{Connection: at, Topic: b.topic(3), DeadLetterTopic: name + ".missing"}, "dead_letter_topic: kafka: topic " + name + ".missing does not exist"},
		"narrow, by key": {SinkConfig{Connection: at, Topic: b.topic(2), Source: &src, Partition: partitionKey}, ""},
	} {
		_, err := openSink(t, c.cfg)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", what, err)
		case c.want != "" && (flow.ClassOf(err) != flow.ClassFatal || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: want a fatal error with %q, have %v", what, c.want, err)
		}
	}

	w := mustOpenSink(t, SinkConfig{Connection: at, Topic: name + ".{topic}", DeadLetterTopic: name + ".dead", Create: true, Source: &src})
	made := name + "." + source
	t.Cleanup(func() { _, _ = b.adm.DeleteTopics(context.Background(), made, name+".dead") })
	batch := partsOf(source, []flow.Record{{Value: []byte("0")}}, []flow.Record{{Value: []byte("dead")}}, []flow.Record{{Value: []byte("2")}})
	batch.Reject(1, flow.StageTransform, errors.New("not wanted"))
	if err := w.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	byPartition := map[int32]string{}
	for _, r := range b.committed(made) {
		byPartition[r.Partition] += string(r.Value)
	}
	if diff := cmp.Diff(map[int32]string{0: "0", 2: "2"}, byPartition); diff != "" {
		t.Error(diff)
	}
	if dead := b.committed(name + ".dead"); len(dead) != 1 || string(dead[0].Value) != "dead" {
		t.Errorf("want one dead letter, have %d", len(dead))
	}
}

func TestSinkConfigSaysWhatIsWrong(t *testing.T) {
	source := &SourceConfig{Connection: Connection{Brokers: []string{"a:1"}}, Topics: []string{"in"}, Group: "g"}
	at := Connection{Brokers: []string{"a:1"}}
	for what, c := range map[string]struct {
		cfg  SinkConfig
		want string
	}{
		"no broker":              {SinkConfig{Topic: "t"}, "brokers: "},
		"loop":                   {SinkConfig{Connection: at, Topic: "in", Source: source}, "topic: in is written to"},
		"mirror onto itself":     {SinkConfig{Connection: at, Topic: "{topic}", Source: source}, "topic: in is written to"},
		"dead letter loop":       {SinkConfig{Connection: at, Topic: "t", DeadLetterTopic: "in", Source: source}, "dead_letter_topic: in is written to"},
		"dead letters with rows": {SinkConfig{Connection: at, Topic: "t", DeadLetterTopic: "t"}, "dead_letter_topic: "},
		"not a name":             {SinkConfig{Connection: at, Topic: "a b"}, "topic: "},
		"replication alone":      {SinkConfig{Connection: at, Topic: "t", Replication: 3}, "create: "},
		"timeout":                {SinkConfig{Connection: at, Topic: "t", TransactionTimeout: time.Millisecond}, "transaction_timeout: "},
	} {
		_, err := NewSink(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, have %v", what, c.want, err)
		}
		if _, ok := errors.AsType[*connect.FieldError](err); !ok {
			t.Errorf("%s: %v names no field", what, err)
		}
	}
	if _, err := NewSink(SinkConfig{Connection: at, Topic: "mirror.{topic}", DeadLetterTopic: "dead", Source: source}); err != nil {
		t.Error(err)
	}
}

func TestSinkTakesTheSourcesConnection(t *testing.T) {
	source := &SourceConfig{Connection: Connection{Brokers: []string{"a:1"}, ClientID: "s"}, Topics: []string{"in"}}
	cfg := SinkConfig{Topic: "t"}
	if err := cfg.Complete(connect.Context{Source: source}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(source.Connection, cfg.Connection); diff != "" || cfg.Source != source {
		t.Error(diff)
	}
	err := (&SinkConfig{Topic: "t"}).Complete(connect.Context{Source: "another kind of source"})
	if err == nil || !strings.Contains(err.Error(), deliverAtLeastOnce) {
		t.Errorf("exactly once from another kind of source: %v", err)
	}
}

func TestMarksAreReadBack(t *testing.T) {
	for _, m := range []mark{{flow: "f"}, {flow: "f.g-1", owner: 7, writer: "f-abc-0", topicID: "x-y", source: "1", target: "2"}} {
		got, ok := parseMark(m.String())
		if !ok || got != m {
			t.Errorf("%s is read as %+v", m.String(), got)
		}
	}
	if _, ok := parseMark("consumer-1-5f"); ok {
		t.Error("a member id was taken for a mark")
	}
}

// TestLimitOfAnotherTopic: a record is judged by the limit of the topic that takes
// it, as it is by now; one that another topic would not take goes through.
func TestLimitOfAnotherTopic(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	name := b.topic(1)
	big, dead := name+".big", name+".dead"
	b.create(big, 1, "max.message.bytes=10485760")
	b.create("m."+name, 1, "max.message.bytes=1048588")
	b.create("m."+big, 1, "max.message.bytes=10485760")
	b.create(dead, 1, "max.message.bytes=500000")
	src := b.config(name, big)
	w := mustOpenSink(t, SinkConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: "m.{topic}", Compression: "none", Source: &src, DeadLetterTopic: dead})
	large := []flow.Record{{Value: make([]byte, 2<<20)}, {Value: []byte("small")}}
	if err := w.Write(t.Context(), partsOf(big, large)); err != nil {
		t.Errorf("a record of 2 MiB into a topic that takes 10: %v", err)
	}
	err := w.Write(t.Context(), partsOf(name, large))
	if data, ok := errors.AsType[*flow.DataError](err); !ok || len(data.Rows) != 1 || data.Rows[0] != 0 || !strings.Contains(err.Error(), "m."+name+" takes messages up to 1048588") {
		t.Errorf("into a topic that takes 1: %v", err)
	}
	limit := "10485760"
	if _, err := b.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, "m."+name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the raised limit to hold", func() bool { return w.Write(t.Context(), partsOf(name, large)) == nil })
}

// TestLimitLowered: the topic takes smaller batches than when the flow began;
// no record is at fault, and none is refused.
func TestLimitLowered(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1)
	w := mustOpenSink(t, SinkConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: topic, Compression: "none"})
	limit := "20000"
	if _, err := b.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, topic); err != nil {
		t.Fatal(err)
	}
	some := make([]flow.Record, 300)
	for i := range some {
		some[i].Value = make([]byte, 1000)
	}
	batch := partsOf("source", some)
	eventually(t, "the batch passes", func() bool {
		err := w.Write(t.Context(), batch)
		if data, ok := errors.AsType[*flow.DataError](err); ok && data.Rows != nil {
			t.Fatalf("rows were refused: %v", err)
		}
		return err == nil && len(b.committed(topic)) >= len(some)
	})
}
