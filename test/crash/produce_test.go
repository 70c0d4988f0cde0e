package crash

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
	partitions = 8
	devices    = 40
	// badEvery makes every so many-th record malformed: a dead letter.
	badEvery = 97
)

// topicLog is a topic, and what was written into it: per device the numbers 1 to n
// in order, and here and there a record that is no JSON.
type topicLog struct {
	t      *testing.T
	broker string
	name   string
	client *kgo.Client
	admin  *kadm.Client

	mu   sync.Mutex // guards what follows
	sent int
	seq  [devices]int64
	bad  map[place]bool
}

// place is where a record lies.
type place struct {
	part int32
	off  int64
}

func newTopic(t *testing.T, broker string) *topicLog {
	t.Helper()
	l := &topicLog{t: t, broker: broker, name: testservice.Name(t), bad: map[place]bool{}}
	l.connect()
	l.create()
	return l
}

// connect makes a new client.
func (l *topicLog) connect() {
	l.t.Helper()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(l.broker), kgo.ProducerBatchMaxBytes(30<<20), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(2*time.Minute), kgo.UnknownTopicRetries(-1),
	)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(cl.Close)
	l.client, l.admin = cl, kadm.NewClient(cl)
}

func (l *topicLog) create() {
	l.t.Helper()
	if _, err := l.admin.CreateTopic(l.t.Context(), partitions, 1, nil, l.name); err != nil {
		l.t.Fatalf("create topic %s: %v", l.name, err)
	}
}

// produce writes n records and returns when the broker has them.
func (l *topicLog) produce(n int) {
	l.t.Helper()
	if err := l.send(l.t.Context(), n); err != nil {
		l.t.Fatalf("produce: %v", err)
	}
}

var padding = strings.Repeat("x", 60)

func (l *topicLog) send(ctx context.Context, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := make([]*kgo.Record, 0, n)
	for range n {
		l.sent++
		d := (l.sent * 7) % devices
		r := &kgo.Record{Topic: l.name, Key: fmt.Appendf(nil, "d%02d", d)}
		if l.sent%badEvery == 0 {
			r.Value = fmt.Appendf(nil, `{"device_id":"d%02d","seq":`, d)
		} else {
			l.seq[d]++
			r.Value = fmt.Appendf(nil, `{"device_id":"d%02d","seq":%d,"pad":"%s"}`, d, l.seq[d], padding)
		}
		records = append(records, r)
	}
	for _, res := range l.client.ProduceSync(ctx, records...) {
		if res.Err != nil {
			return res.Err
		}
		if res.Record.Value[len(res.Record.Value)-1] != '}' {
			l.bad[place{res.Record.Partition, res.Record.Offset}] = true
		}
	}
	return nil
}

// flow writes bursts until stop is called: records arrive while processes die.
func (l *topicLog) flow(burst int, every time.Duration) (stop func()) {
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
			l.t.Errorf("produce: %v", err)
		}
	})
}

// expected is how many rows and dead letters there must be in the end.
func (l *topicLog) expected() (rows, dead int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent - len(l.bad), len(l.bad)
}
