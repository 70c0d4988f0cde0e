package dryrun

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const file = `flow: telemetry
source:
  kafka: {topics: [telemetry]}
decode:
  json:
    columns:
      device_id: text
      seq: int8
      at: timestamptz
      tags: text[]
sink:
  sqlite: {table: telemetry, create_table: true}
`

func build(t *testing.T, text, brokers, db string, set ...string) (flow.Config, []config.Writing) {
	t.Helper()
	r, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	f, err := config.Load("flow.yaml", []byte(text), config.Options{
		Registry: r, Set: append([]string{"source.kafka.brokers=" + brokers, "sink.sqlite.path=" + db}, set...),
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.Build(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, f.Writings()
}

// run is a dry run of n records.
func run(ctx context.Context, t *testing.T, n int, brokers, db string, set ...string) (*Report, error) {
	t.Helper()
	cfg, writings := build(t, file, brokers, db, set...)
	return Run(ctx, cfg, writings, n)
}

func produce(t *testing.T, cl *kgo.Client, values ...string) {
	t.Helper()
	produceTo(t, cl, "telemetry", values...)
}

func produceTo(t *testing.T, cl *kgo.Client, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(v)}
		if v == "" {
			r.Value = nil
		}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDryRunLeavesNoTrace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	produce(t, cl,
		`{"device_id":"a","seq":1,"at":"2026-01-31T12:00:00Z","tags":["x","y\u001b[31m"]}`,
		`{"device_id":"b","seq":"two"}`,
		`{"device_id":`,
		"",
		`{"device_id":"c","seq":3}`,
	)

	db := filepath.Join(t.TempDir(), "t.db")
	report, err := run(ctx, t, 10, brokers, db)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := report.Table(&text); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"device_id", "2026-01-31T12:00:00.000000Z", "rows: 2, tombstones: 0, dead letters: 3, of 5 records", "no checkpoint yet", "malformed", "seq"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the table lacks %q:\n%s", part, text.String())
		}
	}
	if strings.Contains(text.String(), "\x1b") {
		t.Error("a control character reaches the terminal")
	}
	var lines bytes.Buffer
	if err := report.JSON(&lines); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(lines.String(), "\n"); n != 5 || !strings.Contains(lines.String(), `"dead_letter":{"stage":"decode"`) || !strings.Contains(lines.String(), `"row":{"at":"2026-01-31`) {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
	if _, err := os.Stat(db); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the database was made: %v", err)
	}
	groups, err := kadm.NewClient(cl).ListGroups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) > 0 {
		t.Errorf("there is a group: %v", groups.Groups())
	}

	few, err := run(ctx, t, 2, brokers, db)
	if err != nil || len(few.Rows) != 2 {
		t.Errorf("asked for 2 records: %d, %v", len(few.Rows), err)
	}

	// The rules of writing, by mode and key.
	for _, tt := range []struct{ mode, key, want string }{
		{"ignore", "[at]", "rows: 1, tombstones: 0, dead letters: 4, of 5"},
		{"upsert", "[at]", "rows: 1, tombstones: 0, dead letters: 4, of 5"}, // a tombstone has no at
		{"upsert", "[device_id]", "rows: 2, tombstones: 1, dead letters: 2, of 5"},
	} {
		set := []string{"sink.sqlite.mode=" + tt.mode, "sink.sqlite.key=" + tt.key}
		if tt.key == "[device_id]" {
			set = append(set, "decode.json.columns.device_id={type: text, from: key}")
		}
		report, err := run(ctx, t, 10, brokers, db, set...)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := report.Table(&text); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), tt.want) || !strings.Contains(text.String(), "Not foreseen") {
			t.Errorf("mode %s, key %s:\n%s", tt.mode, tt.key, text.String())
		}
	}

	cfg, _ := build(t, file, brokers, db)
	runUntil(ctx, t, cfg, 5)
	none, err := run(ctx, t, 10, brokers, db)
	if err != nil || len(none.Rows) != 0 || !none.FromCheckpoint {
		t.Errorf("after the flow has read everything: %+v, %v", none, err)
	}
	produce(t, cl, `{"device_id":"d","seq":4}`)
	next, err := run(ctx, t, 10, brokers, db)
	if err != nil || len(next.Rows) != 1 || next.Rows[0].Dead != nil {
		t.Errorf("the next record: %+v, %v", next, err)
	}
}

const routed = `flow: shop
source:
  kafka: {topics: [orders, users]}
routes:
  orders:
    topics: [orders]
    decode: {json: {columns: {id: int8, amount: int8}}}
    sink: {table: orders, create_table: true}
  users:
    topics: [users]
    decode: {json: {columns: {id: {type: text, from: key}, name: text}}}
    sink: {table: people, mode: upsert, key: [id], create_table: true}
sink:
  sqlite: {}
`

func TestDryRunOfRoutesShowsEachTable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders", "users"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	produceTo(t, cl, "orders", `{"id":1,"amount":50}`, `{"id":"two"}`, "")
	produceTo(t, cl, "users", `{"name":"Ada"}`, "")

	db := filepath.Join(t.TempDir(), "t.db")
	cfg, writings := build(t, routed, brokers, db)
	report, err := Run(ctx, cfg, writings, 10)
	if err != nil {
		t.Fatal(err)
	}
	var text, lines bytes.Buffer
	if err := report.Table(&text); err != nil {
		t.Fatal(err)
	}
	// A tombstone is for a table in mode upsert only.
	for _, part := range []string{
		"route orders into orders\nposition     id  amount\norders[0]@0  1   50\n", "\nroute users into people\nposition    id  name\nusers[0]@0  k   Ada\n",
		"orders[0]@2  write   tombstone", "rows: 2, tombstones: 1, dead letters: 2, of 5 records", "A tombstone deletes",
	} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the tables lack %q:\n%s", part, text.String())
		}
	}
	if err := report.JSON(&lines); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(lines.String(), `"route":"users","table":"people","row":{"id":"k","name":"Ada"}`) {
		t.Errorf("the lines do not name the table:\n%s", lines.String())
	}

	cfg, _ = build(t, routed, brokers, db)
	runUntil(ctx, t, cfg, 5)
	cfg, writings = build(t, routed, brokers, db)
	none, err := Run(ctx, cfg, writings, 10)
	if err != nil || len(none.Rows) != 0 || !none.FromCheckpoint {
		t.Errorf("after the flow has read everything: %+v, %v", none, err)
	}
}

// runUntil runs the flow until n records are durable.
func runUntil(ctx context.Context, t *testing.T, cfg flow.Config, n int64) {
	t.Helper()
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s := f.Status(); s.Records < n; s = f.Status() {
		select {
		case err := <-done:
			t.Fatalf("the flow ended: %v", err)
		case <-tick.C:
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
