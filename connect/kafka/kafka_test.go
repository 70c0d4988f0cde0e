package kafka

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if os.Getenv(memberEnv) != "" {
		runMember()
		return
	}
	// Tests wait for brokers rather than compute. The command line wins.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

// eventually polls until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %s in vain: %s", patience, what)
}

// receive waits for what a goroutine of the test sends.
func receive[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("waited %s in vain: %s", patience, what)
	}
	return v
}

// gate holds goroutines until it is opened, once or more.
type gate struct {
	opened chan struct{}
	open   func()
}

func newGate() gate {
	opened := make(chan struct{})
	return gate{opened, sync.OnceFunc(func() { close(opened) })}
}

// broker is a real Kafka with a client for the tests' own requests.
type broker struct {
	t    testing.TB
	addr string
	cl   *kgo.Client
	adm  *kadm.Client
}

func newBroker(t testing.TB) *broker {
	t.Helper()
	return brokerAt(t, testservice.Kafka(t))
}

func brokerAt(t testing.TB, addr string, opts ...kgo.Opt) *broker {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(40 << 20),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(20 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &broker{t, addr, cl, kadm.NewClient(cl)}
}

// topic creates one, deleted when the test ends. configs are key=value.
func (b *broker) topic(partitions int32, configs ...string) string {
	b.t.Helper()
	name := testservice.Name(b.t)
	b.create(name, partitions, configs...)
	return name
}

func (b *broker) create(name string, partitions int32, configs ...string) {
	b.t.Helper()
	m := map[string]*string{}
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		m[k] = &v
	}
	if _, err := b.adm.CreateTopic(b.t.Context(), partitions, 1, m, name); err != nil {
		b.t.Fatalf("create topic %s: %v", name, err)
	}
	testservice.AwaitTopic(b.t, b.adm, name, int(partitions))
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t's has ended
		defer cancel()
		_, _ = b.adm.DeleteTopic(ctx, name)
	})
}

func (b *broker) produce(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.cl.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatalf("produce: %v", err)
	}
}

// fill produces n records with values 0, 1, ... to every partition.
func (b *broker) fill(topic string, partitions int32, from, n int) {
	b.t.Helper()
	var rs []*kgo.Record
	for p := range partitions {
		for i := from; i < from+n; i++ {
			rs = append(rs, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Append(nil, i)})
		}
	}
	b.produce(rs...)
}

// config is one for the topic with timeouts for tests.
func (b *broker) config(topics ...string) SourceConfig {
	return SourceConfig{
		Connection: Connection{Brokers: []string{b.addr}},
		Topics:     topics, Group: testservice.Name(b.t),
		SessionTimeout: 3 * time.Second, HeartbeatInterval: 300 * time.Millisecond, RebalanceTimeout: 10 * time.Second,
		MetadataMaxAge: time.Second,
	}
}

// got is a record as it was delivered, copied.
type got struct {
	offset     int64
	key, value string
	headers    string
	time       int64
	nilKey     bool
	nilValue   bool
}

// intake is an engine that notes what it is given, and checks the contract.
type intake struct {
	t testing.TB
	// start answers Assigned; nil: PartitionInfo.Start.
	start func(ctx context.Context, p flow.PartitionInfo) int64
	// revoking, if set, is called by Revoked.
	revoking func(ctx context.Context, ps []flow.Partition)
	// ledger, if set, is shared by all members of a group.
	ledger *ledger
	member string

	mu       sync.Mutex
	busy     map[flow.Partition]bool // Assigned or Revoked goes on
	owned    map[flow.Partition]flow.PartitionInfo
	next     map[flow.Partition]int64
	end      map[flow.Partition]int64
	records  map[flow.Partition][]got
	assigned int
	revoked  []flow.Partition
	lost     int
}

func newIntake(t testing.TB) *intake {
	return &intake{
		t: t, owned: map[flow.Partition]flow.PartitionInfo{}, next: map[flow.Partition]int64{},
		end: map[flow.Partition]int64{}, busy: map[flow.Partition]bool{}, records: map[flow.Partition][]got{},
	}
}

func (in *intake) Assigned(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
	in.mu.Lock()
	for _, p := range ps {
		in.busy[p.Partition] = true
	}
	in.mu.Unlock()
	out := make([]flow.Position, len(ps))
	for i, p := range ps {
		out[i] = flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Start, LeaderEpoch: -1}
		if in.start != nil {
			out[i].Offset = in.start(ctx, p)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range ps {
		delete(in.busy, p.Partition)
	}
	if ctx.Err() != nil {
		return out, nil
	}
	in.assigned++
	for i, p := range ps {
		if in.ledger != nil {
			out[i].Offset = in.ledger.claim(in.t, p.Partition, in.member)
		}
		in.owned[p.Partition] = p
		in.next[p.Partition] = out[i].Offset
	}
	return out, nil
}

func (in *intake) Revoked(ctx context.Context, ps []flow.Partition, lost bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.revoking != nil {
		for _, p := range ps {
			in.busy[p] = true
		}
		in.mu.Unlock()
		in.revoking(ctx, ps)
		in.mu.Lock()
		clear(in.busy)
	}
	for _, p := range ps {
		delete(in.owned, p)
		if in.ledger != nil {
			in.ledger.release(p, in.member)
		}
	}
	if lost {
		in.lost += len(ps)
	}
	in.revoked = append(in.revoked, ps...)
}

func (in *intake) Buffer(n int) []flow.Record { return make([]flow.Record, 0, n) }

func (in *intake) Deliver(f flow.Fetch) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.busy[f.Partition] {
		in.t.Errorf("%s delivered while Assigned or Revoked of it runs", f.Partition)
	}
	info, ok := in.owned[f.Partition]
	switch {
	case !ok:
		in.t.Errorf("%s delivered, but not owned", f.Partition)
	case f.TopicID != info.TopicID || f.TopicID == "":
		in.t.Errorf("%s: topic id %q, assigned with %q", f.Partition, f.TopicID, info.TopicID)
	case f.Next > f.End && f.End >= 0:
		in.t.Errorf("%s: next %d beyond end %d", f.Partition, f.Next, f.End)
	}
	next := in.next[f.Partition]
	for i := range f.Records {
		r := &f.Records[i]
		if r.Offset < next {
			in.t.Errorf("%s: offset %d after %d", f.Partition, r.Offset, next-1)
		}
		next = r.Offset + 1
		var h strings.Builder
		for _, x := range r.Headers {
			fmt.Fprintf(&h, "%s=%s;", x.Key, x.Value)
		}
		if len(r.Value) > 1<<20 {
			in.records[f.Partition] = append(in.records[f.Partition], got{offset: r.Offset, value: fmt.Sprint(len(r.Value))})
			continue
		}
		in.records[f.Partition] = append(in.records[f.Partition], got{
			offset: r.Offset, key: string(r.Key), value: string(r.Value), headers: h.String(), time: r.Timestamp,
			nilKey: r.Key == nil, nilValue: r.Value == nil,
		})
	}
	if f.Next < next {
		in.t.Errorf("%s: next %d, but records up to %d", f.Partition, f.Next, next-1)
	}
	if in.ledger != nil {
		in.ledger.advance(in.t, f, in.member)
	}
	in.next[f.Partition], in.end[f.Partition] = f.Next, f.End
}

func (in *intake) values(topic string, partition int32) []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []string
	for _, r := range in.records[flow.Partition{Topic: topic, ID: partition}] {
		out = append(out, r.value)
	}
	return out
}

func (in *intake) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for _, rs := range in.records {
		n += len(rs)
	}
	return n
}

func (in *intake) owns() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.owned)
}

// running is a source that is being read.
type running struct {
	*Source
	stop func()

	mu   sync.Mutex
	errs []error // that Read returned
}

// open makes a source and opens it.
func open(t testing.TB, cfg SourceConfig) (*Source, *flow.Log) {
	t.Helper()
	src, err := NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSource(t, src) })
	var log *flow.Log
	eventually(t, "Open", func() bool {
		log, err = src.Open(t.Context())
		if err != nil && !flow.IsTransient(err) { // the broker's first group takes a moment
			t.Fatal(err)
		}
		return err == nil
	})
	return src, log
}

func closeSource(t testing.TB, src *Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // t's may have ended
	defer cancel()
	if err := src.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// run opens and reads until stop or the end of the test. Errors of Read are kept.
func run(t testing.TB, cfg SourceConfig, in *intake) *running {
	t.Helper()
	src, _ := open(t, cfg)
	return read(t, src, in)
}

func read(t testing.TB, src *Source, in *intake) *running {
	t.Helper()
	if err := src.Subscribe(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := &running{Source: src}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := src.Read(ctx); err != nil {
				r.mu.Lock()
				r.errs = append(r.errs, err)
				r.mu.Unlock()
				if !flow.IsTransient(err) {
					sleep(ctx, 20*time.Millisecond)
				}
			}
		}
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(r.stop)
	return r
}

// fatal returns the first error of Read that is not transient.
func (r *running) fatal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.errs, func(err error) bool { return !flow.IsTransient(err) })
	if i < 0 {
		return nil
	}
	return r.errs[i]
}

func numbers(from, n int) []string {
	var out []string
	for i := from; i < from+n; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func wantValues(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %d records %.200v\nwant %d records %.200v", len(got), got, len(want), want)
	}
}
