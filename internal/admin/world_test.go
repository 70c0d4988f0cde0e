package admin_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const version = "v1.2.3"

const flowFile = `flow: %[1]s
source:
  kafka: {brokers: ["%[2]s"], topics: [%[1]s], group: %[1]s, heartbeat_interval: 100ms}
decode:
  json:
    columns: {id: int8, name: text}
sink:
  sqlite: {path: "%[3]s", table: t, create_table: true}
shutdown: {grace: 2s}
`

// world is a process with flows from an embedded Kafka into SQLite, and its admin server.
type world struct {
	t        *testing.T
	dir      string
	brokers  string
	producer *kgo.Client
	flows    *supervisor.Supervisor
	server   *admin.Server
	client   *admin.Client
	ended    func()
}

// newWorld runs a flow of each of these names; each reads the topic of its name.
func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, names...), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := &world{t: t, dir: t.TempDir(), brokers: strings.Join(cluster.ListenAddrs(), ",")}
	w.producer, err = kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.producer.Close)
	for _, name := range names {
		w.write(name, w.brokers)
	}
	registry, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	metrics := telemetry.NewRegistry(version)
	log := slog.New(slog.DiscardHandler)
	w.flows, err = supervisor.New(supervisor.Options{
		Paths: []string{w.dir}, Logger: log, Metrics: metrics,
		Lint: func(paths []string) ([]*config.Linted, error) {
			return config.Lint(paths, config.Options{Registry: registry})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.server, err = admin.New(admin.Config{Admin: config.Admin{Address: "127.0.0.1:0"}, Version: version}, w.flows, metrics, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.client, err = admin.NewClient(admin.Target{Address: w.server.Address(), Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.flows.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("the flows: %v", err)
		}
	})
	w.ended = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := w.server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.ended)
	return w
}

// write writes the file of a flow.
func (w *world) write(name, brokers string) {
	w.t.Helper()
	w.writeText(name, fmt.Sprintf(flowFile, name, brokers, filepath.Join(w.dir, name+".db")))
}

func (w *world) writeText(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name+".yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// produce writes n records, half of them to each partition.
func (w *world) produce(topic string, n int) {
	w.t.Helper()
	w.produceUntil(w.t.Context(), topic, n)
}

func (w *world) produceUntil(ctx context.Context, topic string, n int) {
	w.t.Helper()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: topic, Partition: int32(i % 2), Key: []byte("k"), Value: fmt.Appendf(nil, `{"id":%d,"name":"n%d"}`, i, i),
			Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0xff}}},
		}
	}
	if err := w.producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// await asks until the flow is as it should be.
func (w *world) await(name, what string, is func(*admin.Flow) bool) *admin.Flow {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last *admin.Flow
	for {
		f, err := w.client.Flow(ctx, name)
		switch {
		case err == nil && is(f):
			return f
		case err == nil:
			last = f
		case !errors.Is(err, context.DeadlineExceeded):
			w.t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("flow %s: %s did not come; it is %+v", name, what, last)
		}
	}
}

func records(n int64) func(*admin.Flow) bool {
	return func(f *admin.Flow) bool { return f.Records == n && f.State == "running" }
}

// keepProducing produces until the function is called that it returns, which says how many.
func (w *world) keepProducing(topic string) func() int64 {
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	var n int64
	running.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.produceUntil(context.WithoutCancel(ctx), topic, 2) // all of them or none
				n += 2
			case <-ctx.Done():
				return
			}
		}
	})
	return func() int64 {
		cancel()
		running.Wait()
		return n
	}
}
