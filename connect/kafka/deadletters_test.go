package kafka

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

func openLetters(t testing.TB, cfg DeadLetterConfig) error {
	t.Helper()
	d, err := NewDeadLetters(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	return d.Open(t.Context(), flow.Setup{Flow: "f"})
}

func letters(t testing.TB, cfg DeadLetterConfig) *DeadLetters {
	t.Helper()
	d, err := NewDeadLetters(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	if err := d.Open(t.Context(), flow.Setup{Flow: "telemetry"}); err != nil {
		t.Fatal(err)
	}
	return d
}

func letter(p flow.Partition, r flow.Record) flow.DeadLetter {
	return flow.DeadLetter{
		ClusterID: "c1", Partition: p, TopicID: "t1", Record: &r,
		Stage: flow.StageDecode, Class: "malformed", Column: "seq", Message: "column seq: not a number",
	}
}

// read returns n records of the topic, in order per partition.
func (b *broker) read(topic string, n int) []*kgo.Record {
	b.t.Helper()
	cl := brokerAt(b.t, b.addr, kgo.ConsumeTopics(topic), kgo.FetchMaxPartitionBytes(40<<20)).cl
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	var out []*kgo.Record
	for len(out) < n {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			b.t.Fatalf("%d of %d records: %v", len(out), n, err)
		}
		out = append(out, f.Records()...)
	}
	return out
}

func TestDeadLetterIsTheWholeRecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(3)
	d := letters(t, DeadLetterConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: topic})
	at := time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	l := letter(flow.Partition{Topic: "in", ID: 4}, flow.Record{
		Key: []byte("k"), Value: []byte(`{"seq":`), Offset: 17, Timestamp: at.UnixMicro(),
		Headers: []flow.Header{{Key: "h", Value: []byte("1")}, {Key: "h"}},
	})
	l.Message = strings.Repeat("é", maxMessage)
	before := time.Now().Add(-time.Minute)
	if err := d.Put(t.Context(), []flow.DeadLetter{l}); err != nil {
		t.Fatal(err)
	}
	r := b.read(topic, 1)[0]
	if string(r.Key) != "k" || string(r.Value) != `{"seq":` || r.Partition != 1 || r.Timestamp.Before(before) {
		t.Errorf("record %+v", r)
	}
	var headers [][2]string
	for _, h := range r.Headers {
		headers = append(headers, [2]string{h.Key, string(h.Value)})
	}
	want := [][2]string{
		{"h", "1"},
		{"h", ""},
		{"__connect.errors.topic", "in"},
		{"__connect.errors.partition", "4"},
		{"__connect.errors.offset", "17"},
		{"__connect.errors.connector.name", "telemetry"},
		{"__connect.errors.stage", "VALUE_CONVERTER"},
		{"__connect.errors.exception.class.name", "malformed"},
		{"__connect.errors.exception.message", strings.Repeat("é", maxMessage/2)},
		{"penstock.dead_letter.version", "1"},
		{"penstock.dead_letter.id", "c1/t1/4/17"},
		{"penstock.dead_letter.class", "malformed"},
		{"penstock.dead_letter.column", "seq"},
		{"penstock.dead_letter.timestamp", "2020-01-02T03:04:05.006Z"},
	}
	if diff := cmp.Diff(want, headers); diff != "" {
		t.Error(diff)
	}
}

// Letters of one source partition stay in order, from several lanes at once,
// tombstones and empty values stay what they are, and large ones arrive.
func TestDeadLettersOfSeveralLanes(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2)
	d := letters(t, DeadLetterConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: topic})
	const lanes, each = 4, 60
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			var ls []flow.DeadLetter
			for i := range each {
				r := flow.Record{Offset: int64(i), Value: bytes.Repeat([]byte{'x'}, 40<<10)}
				switch {
				case i == 0:
					r.Value = nil
				case i == 1:
					r.Value = []byte{}
				case i == 2 && lane == 0:
					r.Value = make([]byte, 20<<20) // compresses well, as where it came from
				}
				ls = append(ls, letter(flow.Partition{Topic: "in", ID: int32(lane)}, r))
			}
			if err := d.Put(t.Context(), ls); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	next := map[string]int64{}
	for _, r := range b.read(topic, lanes*each) {
		var from string
		for _, h := range r.Headers {
			if h.Key == HeaderPartition {
				from = string(h.Value)
			}
		}
		i := next[from]
		next[from]++
		if i == 0 && r.Value != nil || i == 1 && (r.Value == nil || len(r.Value) > 0) || i == 2 && (len(r.Value) == 20<<20) != (from == "0") {
			t.Errorf("partition %s, letter %d: value of %d bytes, nil %v", from, i, len(r.Value), r.Value == nil)
		}
	}
}

func TestDeadLetterTopicIsChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	big, small, dead := b.topic(3, "max.message.bytes=3000000"), b.topic(1, "max.message.bytes=2000000"), b.topic(1, "max.message.bytes=1000000")
	conn := Connection{Brokers: []string{b.addr}}
	src := b.config(big, small)
	src.ClientID, src.Isolation = "x", readCommitted
	wantError(t, "missing", openLetters(t, DeadLetterConfig{Connection: conn, Topic: dead + ".no"}), flow.ClassFatal,
		dead+".no does not exist", b.addr, "create: true")
	wantError(t, "too small", openLetters(t, DeadLetterConfig{Connection: conn, Topic: dead, Source: &src}), flow.ClassFatal,
		dead, "1000000", big, "3000000")
	alias := Connection{Brokers: []string{strings.Replace(b.addr, "127.0.0.1", "localhost", 1)}} // Validate does not know that it is the same cluster
	wantError(t, "loop", openLetters(t, DeadLetterConfig{Connection: alias, Topic: big, Source: &src}), flow.ClassFatal, big, "come back")
	pattern := src
	pattern.Topics, pattern.Pattern = nil, "^"+big
	wantError(t, "loop by pattern", openLetters(t, DeadLetterConfig{Connection: alias, Topic: big + ".dead", Create: true, Source: &pattern}),
		flow.ClassFatal, big+".dead", "come back")
	if md, err := b.adm.Metadata(t.Context(), big+".dead"); err != nil || md.Topics.Has(big+".dead") {
		t.Errorf("the topic of the loop was created: %v", err)
	}

	made := dead + ".made"
	t.Cleanup(func() { _, _ = b.adm.DeleteTopic(context.Background(), made) })
	cfg := DeadLetterConfig{Connection: conn, Topic: made, Create: true, Source: &src}
	for range 2 { // the second time it exists
		eventually(t, "the topic", func() bool {
			err := openLetters(t, cfg)
			if err != nil && !flow.IsTransient(err) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	md, err := b.adm.Metadata(t.Context(), made)
	if err != nil || len(md.Topics[made].Partitions) != 3 {
		t.Errorf("created with %d partitions: %v", len(md.Topics[made].Partitions), err)
	}
	configs, err := b.adm.DescribeTopicConfigs(t.Context(), made)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "max.message.bytes" && c.MaybeValue() != "3000000" {
			t.Errorf("created with max.message.bytes %s", c.MaybeValue())
		}
	}
}

func TestDeadLetterTooLargeAndGone(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1, "max.message.bytes=1000")
	conn := Connection{Brokers: []string{b.addr}}
	d := letters(t, DeadLetterConfig{Connection: conn, Topic: topic})
	random := testservice.Name(t)
	noise := make([]byte, 0, 50_000)
	for i := range 50_000 { // does not compress
		noise = append(noise, byte(i*i*31>>(i%7))^random[i%len(random)]^byte(i*2654435761>>13))
	}
	err := d.Put(t.Context(), []flow.DeadLetter{letter(flow.Partition{Topic: "in"}, flow.Record{Value: noise})})
	wantError(t, "too large", err, flow.ClassFatal, topic, "max.message.bytes (now 1000)")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = d.Put(ctx, []flow.DeadLetter{letter(flow.Partition{Topic: "in"}, flow.Record{})})
	if !flow.IsTransient(err) {
		t.Errorf("context ended: %v", err)
	}
	cfg := DeadLetterConfig{Connection: Connection{Brokers: []string{"127.0.0.1:1"}}, Topic: topic}
	wantError(t, "unreachable", openLetters(t, cfg), flow.ClassTransient, "127.0.0.1:1", topic)
}

func TestDeadLetterDefaults(t *testing.T) {
	src := &SourceConfig{Connection: Connection{Brokers: []string{"a:1"}, TLS: &TLS{}}}
	var cfg DeadLetterConfig
	if err := cfg.Complete(connect.Context{Flow: "f", Source: src}); err != nil || cfg.Brokers[0] != "a:1" || cfg.TLS == nil || cfg.Source != src {
		t.Errorf("%+v, %v", cfg, err)
	}
	own := DeadLetterConfig{Connection: Connection{Brokers: []string{"b:1"}}}
	if err := own.Complete(connect.Context{Flow: "f", Source: src}); err != nil || own.Brokers[0] != "b:1" || own.TLS != nil {
		t.Errorf("%+v, %v", own, err)
	}
	var other DeadLetterConfig
	if err := other.Complete(connect.Context{Flow: "f", Source: new(int)}); err != nil || other.Source != nil {
		t.Errorf("%+v, %v", other, err)
	}
}
