package rig

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
)

const (
	// Partitions is how many a topic has.
	Partitions = 8
	devices    = 40
	// badEvery makes every so many-th record malformed: a dead letter.
	badEvery = 97
)

// Topic is a topic, and what was written into it: per device the numbers 1 to n
// in order, and here and there a record that is no JSON.
type Topic struct {
	T *testing.T
	// Brokers are host:port of some, separated by commas.
	Brokers string
	Name    string
	Client  *kgo.Client
	Admin   *kadm.Client

	transactions *kgo.Client

	mu   sync.Mutex // guards what follows
	sent int
	seq  [devices]int64
	bad  map[Place]bool
}

// Place is where a record lies.
type Place struct {
	Part int32
	Off  int64
}

// NewTopic creates a topic with Partitions partitions, as many copies as is
// usual there, and these settings ("cleanup.policy=compact").
func NewTopic(t *testing.T, brokers string, settings ...string) *Topic {
	t.Helper()
	l := &Topic{T: t, Brokers: brokers, Name: testservice.Name(t), bad: map[Place]bool{}}
	l.Connect()
	configs := map[string]*string{}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		configs[name] = &value
	}
	if _, err := l.Admin.CreateTopic(t.Context(), Partitions, -1, configs, l.Name); err != nil {
		t.Fatalf("create topic %s: %v", l.Name, err)
	}
	testservice.AwaitTopic(t, l.Admin, l.Name, Partitions)
	return l
}

// Connect makes a new client.
func (l *Topic) Connect() {
	l.T.Helper()
	l.Client = l.NewClient()
	l.Admin = kadm.NewClient(l.Client)
}

// NewClient makes one of the cluster, which ends with the test.
func (l *Topic) NewClient(opts ...kgo.Opt) *kgo.Client {
	l.T.Helper()
	cl, err := kgo.NewClient(append(opts,
		kgo.SeedBrokers(strings.Split(l.Brokers, ",")...), kgo.ProducerBatchMaxBytes(30<<20), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(2*time.Minute), kgo.UnknownTopicRetries(-1),
	)...)
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(cl.Close)
	return cl
}

// Produce writes n records and returns when the broker has them.
func (l *Topic) Produce(n int) {
	l.T.Helper()
	if err := l.send(l.T.Context(), n); err != nil {
		l.T.Fatalf("produce: %v", err)
	}
}

var padding = strings.Repeat("x", 60)

func (l *Topic) send(ctx context.Context, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.note(l.Client.ProduceSync(ctx, l.next(n)...))
}

// next are the next n records. Called with mu held.
func (l *Topic) next(n int) []*kgo.Record {
	records := make([]*kgo.Record, 0, n)
	for range n {
		l.sent++
		d := (l.sent * 7) % devices
		r := &kgo.Record{Topic: l.Name, Key: fmt.Appendf(nil, "d%02d", d)}
		if l.sent%badEvery == 0 {
			r.Value = fmt.Appendf(nil, `{"device_id":"d%02d","seq":`, d)
		} else {
			l.seq[d]++
			r.Value = fmt.Appendf(nil, `{"device_id":"d%02d","seq":%d,"pad":"%s"}`, d, l.seq[d], padding)
		}
		records = append(records, r)
	}
	return records
}

// note remembers where the malformed ones are. Called with mu held.
func (l *Topic) note(results kgo.ProduceResults) error {
	for _, res := range results {
		if res.Err != nil {
			return res.Err
		}
		if res.Record.Value[len(res.Record.Value)-1] != '}' {
			l.bad[Place{res.Record.Partition, res.Record.Offset}] = true
		}
	}
	return nil
}

// Begin writes n records in a transaction, which end commits or aborts. Nothing
// else is written in between. The numbers of an aborted transaction's records
// are used again: whoever reads those records sees them twice.
func (l *Topic) Begin(n int) (end func(commit bool)) {
	l.T.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.transactions == nil {
		l.transactions = l.NewClient(kgo.TransactionalID(l.Name))
	}
	cl, sent, seq := l.transactions, l.sent, l.seq
	if err := cl.BeginTransaction(); err != nil {
		l.T.Fatalf("begin a transaction: %v", err)
	}
	results := cl.ProduceSync(l.T.Context(), l.next(n)...)
	if err := results.FirstErr(); err != nil {
		l.T.Fatalf("produce in a transaction: %v", err)
	}
	return func(commit bool) {
		l.T.Helper()
		l.mu.Lock()
		defer l.mu.Unlock()
		if err := cl.EndTransaction(l.T.Context(), kgo.TransactionEndTry(commit)); err != nil {
			l.T.Fatalf("end a transaction, commit %t: %v", commit, err)
		}
		if !commit {
			l.sent, l.seq = sent, seq
			return
		}
		_ = l.note(results) // they have no errors
	}
}

// Flow writes bursts until stop is called: records arrive while processes die.
func (l *Topic) Flow(burst int, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
				// A burst is finished even while stopping: what was sent is counted.
				if err := l.send(context.WithoutCancel(ctx), burst); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.T.Errorf("produce: %v", err)
		}
	})
}

// Expected is how many rows and dead letters there must be in the end.
func (l *Topic) Expected() (rows, dead int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent - len(l.bad), len(l.bad)
}
