package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// Whole records arrive in order, those of aborted transactions do not, and
// control records move the position up to the end of the log.
func TestReadsAllOfATopicInOrder(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2, "retention.ms=-1")
	at := time.UnixMilli(1_700_000_000_123)
	plain := []*kgo.Record{
		{Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}}},
		{Value: []byte{}, Timestamp: at},
		{Key: []byte("gone"), Timestamp: at},
		{Key: []byte{}, Value: []byte("x"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "b", Value: []byte("2")}}},
	}
	for _, r := range plain {
		r.Topic = topic
		b.produce(r)
	}
	txn := brokerAt(t, b.addr, kgo.TransactionalID(testservice.Name(t)))
	for i := range 6 {
		if err := txn.cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		txn.fill(topic, 2, 100*i, 10)
		if err := txn.cl.EndTransaction(t.Context(), kgo.TransactionEndTry(i%2 == 0)); err != nil {
			t.Fatal(err)
		}
	}
	in := newIntake(t)
	r := run(t, b.config(topic), in)
	var committed []string
	for i := 0; i < 6; i += 2 {
		committed = append(committed, numbers(100*i, 10)...)
	}
	p0, p1 := flow.Partition{Topic: topic}, flow.Partition{Topic: topic, ID: 1}
	eventually(t, "the end of both partitions", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.next[p0] == 4+6*11 && in.next[p1] == 6*11
	})
	r.stop()
	wantValues(t, in.values(topic, 1), committed)
	wantValues(t, in.values(topic, 0)[4:], committed)
	us := at.UnixMicro()
	want := []got{
		{offset: 0, key: "k", value: "v", headers: "a=1;a=;", time: us},
		{offset: 1, nilKey: true, time: us},
		{offset: 2, key: "gone", nilValue: true, time: us},
		{offset: 3, value: "x", headers: "b=2;", time: us},
	}
	if d := cmp.Diff(want, in.records[p0][:4], cmp.AllowUnexported(got{})); d != "" {
		t.Error(d)
	}
	if in.end[p0] != in.next[p0] {
		t.Errorf("end %d at next %d", in.end[p0], in.next[p0])
	}
}

// An open transaction holds read_committed back at the last stable offset, and
// does not concern read_uncommitted.
func TestIsolation(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1)
	b.fill(topic, 1, 0, 5)
	txn := brokerAt(t, b.addr, kgo.TransactionalID(testservice.Name(t)))
	if err := txn.cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	txn.fill(topic, 1, 5, 5)
	committed, uncommitted := b.config(topic), b.config(topic)
	uncommitted.Isolation = "read_uncommitted"
	_, log := open(t, committed)
	if end := log.Partitions[0].End; end != 5 {
		t.Errorf("read_committed ends at %d", end)
	}
	src, log := open(t, uncommitted)
	if end := log.Partitions[0].End; end != 10 {
		t.Errorf("read_uncommitted ends at %d", end)
	}
	in := newIntake(t)
	read(t, src, in)
	eventually(t, "uncommitted records", func() bool { return in.count() == 10 })
	if err := txn.cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSaysWhatThereIs(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic, other := b.topic(2, "retention.ms=-1"), b.topic(1)
	old, recent := time.UnixMilli(1_600_000_000_000), time.UnixMilli(1_700_000_000_000)
	for i := range 10 {
		at := old
		if i >= 6 {
			at = recent
		}
		b.produce(&kgo.Record{Topic: topic, Timestamp: at})
	}
	b.produce(&kgo.Record{Topic: topic, Partition: 1, Timestamp: old})
	if _, err := b.adm.DeleteRecords(t.Context(), kadm.Offsets{topic: {0: {Topic: topic, Partition: 0, At: 2}}}); err != nil {
		t.Fatal(err)
	}
	cfg := b.config(topic, other)
	var os kadm.Offsets
	os.Add(kadm.Offset{Topic: topic, Partition: 0, At: 4, LeaderEpoch: 0})
	if err := b.adm.CommitAllOffsets(t.Context(), cfg.Group, os); err != nil {
		t.Fatal(err)
	}
	for start, want := range map[string][3]int64{
		"":                                     {2, 0, 0},
		"earliest":                             {2, 0, 0},
		"latest":                               {10, 1, 0},
		"group":                                {4, 0, 0},
		recent.UTC().Format(time.RFC3339):      {6, 1, 0}, // nothing so late in partition 1: its end
		old.Add(1).UTC().Format(time.RFC3339):  {2, 0, 0},
		"2055-01-01T00:00:00+01:00":            {10, 1, 0},
		time.UnixMilli(0).Format(time.RFC3339): {2, 0, 0},
	} {
		cfg.Start = start
		_, log := open(t, cfg)
		if len(log.Partitions) != 3 {
			t.Fatalf("%d partitions", len(log.Partitions))
		}
		slices.SortFunc(log.Partitions, func(x, y flow.PartitionInfo) int {
			if x.Topic != y.Topic {
				return map[bool]int{true: -1, false: 1}[x.Topic == topic]
			}
			return int(x.ID - y.ID)
		})
		for i, p := range log.Partitions {
			if p.Start != want[i] {
				t.Errorf("start %q: %s starts at %d, want %d", start, p.Partition, p.Start, want[i])
			}
			if len(p.TopicID) != 36 {
				t.Errorf("topic id %q", p.TopicID)
			}
		}
		p := log.Partitions[0]
		if p.Begin != 2 || p.End != 10 || p.Committed != 4 || log.Partitions[1].Committed != -1 {
			t.Errorf("partition 0: %+v", p)
		}
		names := []string{topic, other}
		slices.Sort(names)
		if want := "group " + cfg.Group + ", topics " + strings.Join(names, ", "); log.Name != want || log.ClusterID == "" || log.OpenEnded {
			t.Errorf("log %q of cluster %q, open ended %v", log.Name, log.ClusterID, log.OpenEnded)
		}
	}
}

// The answers of Assigned are where reading starts, and -1 is never read.
func TestPositionsAreTheEngines(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(3)
	b.fill(topic, 3, 0, 20)
	in := newIntake(t)
	in.start = func(_ context.Context, p flow.PartitionInfo) int64 { return []int64{7, -1, 20}[p.ID] }
	r := run(t, b.config(topic), in)
	eventually(t, "13 records", func() bool { return in.count() == 13 })
	b.fill(topic, 3, 20, 5)
	eventually(t, "10 more", func() bool { return in.count() == 23 })
	r.stop()
	wantValues(t, in.values(topic, 0), numbers(7, 18))
	wantValues(t, in.values(topic, 1), nil)
	wantValues(t, in.values(topic, 2), numbers(20, 5))
}

func TestLostPositions(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(3)
	b.fill(topic, 3, 0, 20)
	if _, err := b.adm.DeleteRecords(t.Context(), kadm.Offsets{topic: {0: {Topic: topic, Partition: 0, At: 8}}}); err != nil {
		t.Fatal(err)
	}
	in := newIntake(t)
	in.start = func(_ context.Context, p flow.PartitionInfo) int64 { return []int64{3, 25, 0}[p.ID] }
	r := run(t, b.config(topic), in)
	find := func(id int32) (lost *flow.PositionLostError) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, err := range r.errs {
			if errors.As(err, &lost) && lost.ID == id {
				return lost
			}
		}
		return nil
	}
	eventually(t, "both errors and the third partition", func() bool { return find(0) != nil && find(1) != nil && in.count() == 20 })
	if l := find(0); l.Offset != 3 || l.Begin != 8 || l.End != 20 {
		t.Errorf("below the start: %+v", l)
	}
	if l := find(1); l.Offset != 25 || l.Begin != 0 || l.End != 20 {
		t.Errorf("beyond the end: %+v", l)
	}
	// A new position makes it readable again.
	r.stop()
	if err := r.Seek(t.Context(), []flow.Position{{Partition: flow.Partition{Topic: topic}, Offset: 8, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	in.next[flow.Partition{Topic: topic}] = 8
	in.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for in.count() < 32 && ctx.Err() == nil {
		_ = r.Read(ctx)
	}
	wantValues(t, in.values(topic, 0), numbers(8, 12))
}

// A topic that is deleted and made anew while it is read is said, not read:
// at once, or after its absence was noticed.
func TestRecreatedTopic(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			topic := b.topic(1)
			b.fill(topic, 1, 0, 10)
			in := newIntake(t)
			r := run(t, b.config(topic), in)
			eventually(t, "the first topic's records", func() bool { return in.count() == 10 })
			if _, err := b.adm.DeleteTopic(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
			if wait {
				eventually(t, "a report of the deletion", func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return slices.ContainsFunc(r.errs, func(err error) bool { return strings.Contains(err.Error(), "does not exist any more") })
				})
				if err := r.fatal(); err != nil {
					t.Errorf("fatal when only deleted: %v", err)
				}
			}
			var made kadm.CreateTopicResponse
			eventually(t, "the topic to be made anew", func() bool {
				var err error
				made, err = b.adm.CreateTopic(t.Context(), 1, 1, nil, topic)
				return err == nil
			})
			// The broker may know the old one for a moment, and would take records for it.
			eventually(t, "the new topic to be known", func() bool {
				md, err := brokerAt(t, b.addr).adm.Metadata(t.Context(), topic)
				return err == nil && md.Topics[topic].ID == made.ID
			})
			fresh := brokerAt(t, b.addr)
			testservice.AwaitTopic(t, fresh.adm, topic, 1)
			fresh.fill(topic, 1, 1000, 30)
			eventually(t, "an error", func() bool { return r.fatal() != nil })
			var lost *flow.PositionLostError
			if !errors.As(r.fatal(), &lost) || lost.TopicIDNow == "" || lost.TopicIDNow == lost.TopicID || lost.Offset != 10 {
				t.Errorf("error %v", r.fatal())
			}
			r.stop()
			wantValues(t, in.values(topic, 0), numbers(0, 10))
		})
	}
}

func TestPatternFindsLaterTopics(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	prefix := testservice.Name(t)
	b.create(prefix+".a", 1)
	b.create("not-"+prefix+".a", 1)
	b.fill(prefix+".a", 1, 0, 3)
	b.fill("not-"+prefix+".a", 1, 0, 3)
	cfg := b.config()
	cfg.Pattern = "^" + prefix + `\.`
	src, log := open(t, cfg)
	if len(log.Partitions) != 1 || !log.OpenEnded || log.Name != "group "+cfg.Group+", topics matching "+cfg.Pattern {
		t.Errorf("log %+v", log)
	}
	in := newIntake(t)
	read(t, src, in)
	eventually(t, "the first topic", func() bool { return in.count() == 3 })
	b.create(prefix+".b", 2)
	b.fill(prefix+".b", 2, 0, 4)
	eventually(t, "the second topic", func() bool { return in.count() == 11 })
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.revoked) > 0 {
		t.Errorf("revoked %v: a new topic takes nothing away", in.revoked)
	}
}

// A record that is larger than every fetch limit still arrives, and so do its
// neighbours.
func TestLargeRecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2, "max.message.bytes=31457280")
	b.fill(topic, 2, 0, 3)
	b.produce(&kgo.Record{Topic: topic, Value: make([]byte, 20<<20)})
	b.fill(topic, 2, 3, 3)
	in := newIntake(t)
	r := run(t, b.config(topic), in)
	eventually(t, "all records", func() bool { return in.count() == 13 })
	r.stop()
	wantValues(t, in.values(topic, 0), []string{"0", "1", "2", fmt.Sprint(20 << 20), "3", "4", "5"})

	cfg := b.config(topic)
	cfg.Fetch.ResponseLimit = 8 << 20
	r = run(t, cfg, newIntake(t))
	eventually(t, "an error", func() bool { return r.fatal() != nil })
	if !strings.Contains(r.fatal().Error(), "fetch.response_limit (8MiB)") {
		t.Errorf("error %v", r.fatal())
	}
}

// TestCompressedBatches: what each codec compressed is read by the flow and by
// peek, and a batch that gets too large stops both, with advice.
func TestCompressedBatches(t *testing.T) {
	t.Parallel()
	value := string(telemetry(300_000))
	for name, codec := range map[string]kgo.CompressionCodec{
		"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokerAt(t, testservice.Kafka(t), kgo.ProducerBatchCompression(codec))
			topic := b.topic(1)
			for _, v := range []string{value, value[:100], value[:50_000]} { // a batch each
				b.produce(&kgo.Record{Topic: topic, Value: []byte(v)})
			}
			p := flow.Partition{Topic: topic}
			want := []string{value, value[:100], value[:50_000]}
			cfg := b.config(topic)
			in := newIntake(t)
			r := run(t, cfg, in)
			eventually(t, "the records", func() bool { return len(in.values(topic, 0)) == len(want) || r.fatal() != nil })
			wantValues(t, in.values(topic, 0), want)
			peek := func(src *Source) (values []string, err error) {
				err = src.Peek(t.Context(), []flow.Position{{Partition: p}}, len(want), func(f flow.Fetch) {
					for i := range f.Records {
						values = append(values, string(f.Records[i].Value))
					}
				})
				return values, err
			}
			values, err := peek(r.Source)
			if err != nil {
				t.Error(err)
			}
			wantValues(t, values, want)

			small := b.config(topic)
			small.Group += "-small"
			small.Fetch.BatchLimit = 250_000
			r = run(t, small, newIntake(t))
			eventually(t, "an error", func() bool { return r.fatal() != nil })
			wantError(t, "flow", r.fatal(), flow.ClassFatal, "offset 0 of", "fetch.batch_limit")
			_, err = peek(r.Source)
			wantError(t, "peek", err, flow.ClassFatal, "offset 0 of", "fetch.batch_limit")
		})
	}
}

func TestPauseResumeSeek(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2)
	b.fill(topic, 2, 0, 10)
	in := newIntake(t)
	src, _ := open(t, b.config(topic))
	if err := src.Subscribe(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	until := func(n int) {
		t.Helper()
		for in.count() < n {
			if err := src.Read(ctx); err != nil || ctx.Err() != nil {
				t.Fatalf("%d of %d records: %v", in.count(), n, err)
			}
		}
		if in.count() > n {
			t.Fatalf("%d records, want %d", in.count(), n)
		}
	}
	p0, p1 := flow.Partition{Topic: topic}, flow.Partition{Topic: topic, ID: 1}
	until(20)
	src.Pause([]flow.Partition{p0})
	b.fill(topic, 2, 10, 10)
	until(30)
	wantValues(t, in.values(topic, 0), numbers(0, 10))
	src.Resume([]flow.Partition{p0})
	until(40)
	wantValues(t, in.values(topic, 0), numbers(0, 20))

	// Fetched already, and not delivered: dropped by Pause and by Seek.
	b.fill(topic, 2, 20, 10)
	eventually(t, "kgo to have fetched", func() bool { return src.client().BufferedFetchRecords() > 0 })
	src.Pause([]flow.Partition{p1})
	seek := func(p flow.Partition, to int64) {
		t.Helper()
		if err := src.Seek(ctx, []flow.Position{{Partition: p, Offset: to, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
		in.mu.Lock()
		in.next[p] = to
		in.records[p] = nil
		in.mu.Unlock()
	}
	seek(p0, 15)
	until(20 + 15)
	wantValues(t, in.values(topic, 0), numbers(15, 15))
	seek(p1, 29)
	src.Resume([]flow.Partition{p1})
	until(15 + 1)
	wantValues(t, in.values(topic, 1), []string{"29"})
	seek(p1, 0)
	until(15 + 30)
	wantValues(t, in.values(topic, 1), numbers(0, 30))
	// Not ours: left out.
	if err := src.Seek(ctx, []flow.Position{{Partition: flow.Partition{Topic: "other", ID: 7}, Offset: 3}}); err != nil {
		t.Error(err)
	}
}

// A change of position that comes before the first fetch counts.
func TestSeekBeforeFirstFetch(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1)
	b.fill(topic, 1, 0, 20)
	in := newIntake(t)
	src, _ := open(t, b.config(topic))
	if err := src.Subscribe(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	p := flow.Partition{Topic: topic}
	eventually(t, "the assignment", func() bool { return in.owns() == 1 })
	for _, to := range []int64{5, 12, 12} {
		if err := src.Seek(t.Context(), []flow.Position{{Partition: p, Offset: to, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
		in.mu.Lock()
		in.next[p] = to
		in.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for in.count() < 8 && ctx.Err() == nil {
		if err := src.Read(ctx); err != nil {
			t.Fatal(err)
		}
	}
	wantValues(t, in.values(topic, 0), numbers(12, 8))
}

func TestCommit(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2)
	b.fill(topic, 2, 0, 10)
	in := newIntake(t)
	cfg := b.config(topic)
	r := run(t, cfg, in)
	eventually(t, "all records", func() bool { return in.count() == 20 })
	p0 := flow.Partition{Topic: topic}
	err := r.Commit(t.Context(), []flow.Position{
		{Partition: p0, Offset: 6, LeaderEpoch: 0},
		{Partition: flow.Partition{Topic: topic, ID: 9}, Offset: 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	os, err := b.adm.FetchOffsets(t.Context(), cfg.Group)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := os.Lookup(topic, 0)
	if !ok || o.At != 6 || o.LeaderEpoch != 0 || o.Metadata != "" {
		t.Errorf("committed %+v", o)
	}
	if _, ok := os.Lookup(topic, 9); ok {
		t.Error("committed for a partition of nobody")
	}
	r.stop()
	closeSource(t, r.Source)
	if err := r.Commit(t.Context(), []flow.Position{{Partition: p0, Offset: 7}}); err == nil {
		t.Error("committed after Close")
	}
	if r.Read(t.Context()) == nil {
		t.Error("read after Close")
	}
}

func TestCloseAtAnyTime(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	src, err := NewSource(b.config("nothing"))
	if err != nil {
		t.Fatal(err)
	}
	closeSource(t, src)
	closeSource(t, src)
	if _, err := src.Open(t.Context()); err == nil {
		t.Error("opened after Close")
	}
	src, _ = open(t, b.config(b.topic(1)))
	closeSource(t, src)
	if src.Subscribe(t.Context(), newIntake(t)) == nil {
		t.Error("subscribed after Close")
	}
	closeSource(t, src)
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	try := func(cfg SourceConfig) error {
		src, err := NewSource(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer closeSource(t, src)
		_, err = src.Open(t.Context())
		return err
	}
	wantError(t, "missing topic", try(b.config("no-such-topic")), flow.ClassFatal, "topic no-such-topic does not exist", b.addr, "create it")
	cfg := b.config("x")
	cfg.Brokers = []string{"127.0.0.1:1"}
	wantError(t, "unreachable", try(cfg), flow.ClassTransient, "127.0.0.1:1", "connection refused", "check that the brokers run")
	cfg.Brokers = []string{b.addr}
	cfg.TLS = &TLS{}
	wantError(t, "TLS to a plain port", try(cfg), flow.ClassUnknown, b.addr, "check tls")
	cfg.TLS = &TLS{CAFile: "/no/such/ca.pem"}
	wantError(t, "CA file", try(cfg), flow.ClassFatal, "tls.ca_file", "/no/such/ca.pem")
}

func wantError(t *testing.T, what string, err error, class flow.Class, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	if c := flow.ClassOf(err); c != class {
		t.Errorf("%s: class %s, want %s: %v", what, c, class, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %q is not in: %v", what, p, err)
		}
	}
}
