package embedded

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPort keeps clear of what "penstock dev" uses.
const testPort = 21092

func start(t *testing.T, dir string) *Kafka {
	t.Helper()
	k, err := StartKafka(t.Context(), KafkaConfig{Dir: dir, Port: testPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func client(t *testing.T, k *Kafka, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(k.Address()))...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func TestRecordsSurviveARestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "kafka")
	k := start(t, dir)
	for _, want := range []bool{true, false} {
		created, err := k.CreateTopic("t", 3)
		if err != nil || created != want {
			t.Fatalf("creating the topic: got %v, %v; want %v", created, err, want)
		}
	}
	const n = 1000
	cl := client(t, k, kgo.DefaultProduceTopic("t"))
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = kgo.StringRecord(strconv.Itoa(i))
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	k.Close()
	k.Close()

	k = start(t, dir)
	cl = client(t, k, kgo.ConsumeTopics("t"))
	defer cl.Close()
	seen := map[string]bool{}
	for len(seen) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d records: %v", len(seen), err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if seen[string(r.Value)] {
				t.Errorf("record %s twice", r.Value)
			}
			seen[string(r.Value)] = true
		})
	}
	if err := k.DeleteTopic("t"); err != nil {
		t.Error(err)
	}
	if err := k.DeleteTopic("t"); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	k := start(t, dir)
	if _, err := StartKafka(t.Context(), KafkaConfig{Dir: dir, Port: testPort}); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("second start: got %v", err)
	}
	other := start(t, t.TempDir()) // another directory gets another port
	if other.Address() == k.Address() {
		t.Errorf("both listen on %s", k.Address())
	}
}
