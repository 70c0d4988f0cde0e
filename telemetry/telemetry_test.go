package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exampleStatus() flow.Status {
	return flow.Status{
		Flow: "f", State: flow.StateRunning, Records: 10, Rows: 8, Dead: 2, Batches: 3, Bytes: 5000, Fenced: 1, Buffered: 77, Lanes: 2,
		LastCommit: time.UnixMicro(1_700_000_000_500_000),
		Partitions: []flow.PartitionStatus{
			{Partition: flow.Partition{Topic: "t", ID: 0}, Next: 90, End: 100, Behind: 1500 * time.Millisecond, Paused: true},
			{Partition: flow.Partition{Topic: "t", ID: 1}, Next: 50, End: 50},
		},
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics("f", "v1")
	m.Watch(exampleStatus)
	m.now = func() time.Time { return time.UnixMicro(5_000_000) }
	m.BatchWritten(flow.BatchStats{
		Records: 5, Rows: 3, Bytes: 2000, Dead: map[string]int{"malformed": 2}, Decode: time.Millisecond, Write: 30 * time.Millisecond, Oldest: 2_000_000,
	})
	m.BatchWritten(flow.BatchStats{Records: 1, Oldest: 9_000_000}) // the producer's clock is ahead
	m.BatchWritten(flow.BatchStats{Records: 1})                    // no timestamp
	m.Retrying(0, 1, time.Second, flow.Transient(errors.New("away")))
	m.Retrying(0, 1, time.Second, errors.New("what?"))
	m.Rebalanced(2, 0)
	want := `
# HELP penstock_lag_records Offsets between the committed position and the end of the partition.
# TYPE penstock_lag_records gauge
penstock_lag_records{flow="f",partition="0",topic="t"} 10
penstock_lag_records{flow="f",partition="1",topic="t"} 0
# HELP penstock_lag_seconds How long ago the last written record was made, where there are more to write; else 0.
# TYPE penstock_lag_seconds gauge
penstock_lag_seconds{flow="f",partition="0",topic="t"} 1.5
penstock_lag_seconds{flow="f",partition="1",topic="t"} 0
# HELP penstock_dead_letters_total Records that became dead letters, by class of error.
# TYPE penstock_dead_letters_total counter
penstock_dead_letters_total{class="malformed",flow="f"} 2
# HELP penstock_retries_total Writes that failed and were tried again, by class of error.
# TYPE penstock_retries_total counter
penstock_retries_total{class="transient",flow="f"} 1
penstock_retries_total{class="unknown",flow="f"} 1
# HELP penstock_records_total Records read and made durable, as rows or as dead letters.
# TYPE penstock_records_total counter
penstock_records_total{flow="f"} 10
# HELP penstock_fenced_writes_total Writes refused because another process owned the partition by then.
# TYPE penstock_fenced_writes_total counter
penstock_fenced_writes_total{flow="f"} 1
# HELP penstock_last_commit_timestamp_seconds When the last batch became durable, in Unix time; 0 before the first.
# TYPE penstock_last_commit_timestamp_seconds gauge
penstock_last_commit_timestamp_seconds{flow="f"} 1.7000000005e+09
# HELP penstock_state 1 for the state that the flow is in, 0 for the others.
# TYPE penstock_state gauge
penstock_state{flow="f",state="retrying"} 0
penstock_state{flow="f",state="running"} 1
penstock_state{flow="f",state="starting"} 0
penstock_state{flow="f",state="stopped"} 0
penstock_state{flow="f",state="stopping"} 0
penstock_state{flow="f",state="waiting"} 0
`
	err := testutil.GatherAndCompare(m.Gatherer(), strings.NewReader(want), "penstock_lag_records", "penstock_lag_seconds", "penstock_dead_letters_total",
		"penstock_retries_total", "penstock_records_total", "penstock_fenced_writes_total", "penstock_last_commit_timestamp_seconds", "penstock_state")
	if err != nil {
		t.Error(err)
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]uint64{}
	for _, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		seen[f.GetName()] = 0
		if h := f.GetMetric()[0].GetHistogram(); h != nil {
			seen[f.GetName()] = h.GetSampleCount()
		}
	}
	for name, n := range map[string]uint64{
		"penstock_commit_duration_seconds": 3, "penstock_end_to_end_duration_seconds": 2, "penstock_batch_records": 3,
		"penstock_buffered_bytes": 0, "go_goroutines": 0, "penstock_build_info": 0,
	} {
		if got, ok := seen[name]; !ok || got != n {
			t.Errorf("%s: there %t, with %d samples, want %d", name, ok, got, n)
		}
	}
	if problems, err := testutil.GatherAndLint(m.Gatherer()); err != nil || len(problems) > 0 {
		t.Errorf("Prometheus' linter: %v %v", problems, err)
	}
}

func TestReadiness(t *testing.T) {
	now := time.Unix(1000, 0)
	status := func(change func(*flow.Status)) flow.Status {
		s := exampleStatus()
		s.LastCommit = now.Add(-time.Second)
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name     string
		status   flow.Status
		assigned bool
		want     string // "ok" is ready
	}{
		{"moves", status(func(*flow.Status) {}), true, "ok"},
		{"connecting", status(func(s *flow.Status) { s.State = flow.StateStarting }), false, "connecting"},
		{"retries", status(func(s *flow.Status) { s.State, s.Err = flow.StateRetrying, errors.New("no table") }), true, "something failed and is tried again: no table"},
		{"waits", status(func(s *flow.Status) { s.State = flow.StateWaiting }), true, "position is lost"},
		{"stops", status(func(s *flow.Status) { s.State = flow.StateStopping }), true, "stopping"},
		{"stopped", status(func(s *flow.Status) { s.State = flow.StateStopped }), true, "stopped"},
		{"not assigned", status(func(s *flow.Status) { s.Partitions = nil }), false, "no partition"},
		{"standby", status(func(s *flow.Status) { s.Partitions = nil }), true, "ok: standby"},
		{"stalled", status(func(s *flow.Status) { s.LastCommit = now.Add(-2 * time.Hour) }), true, "ok"},
		{"caught up long ago", status(func(s *flow.Status) {
			s.LastCommit, s.Partitions = now.Add(-2*time.Hour), s.Partitions[1:]
		}), true, "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r readiness
			text, err := r.check(&tt.status, tt.assigned, now)
			ready := strings.HasPrefix(tt.want, "ok")
			if err != nil {
				text = err.Error()
			}
			if ready != (err == nil) || !strings.Contains(text, tt.want) || tt.want == "ok" && text != "ok" {
				t.Errorf("%q, %v, want %q", text, err, tt.want)
			}
		})
	}
	t.Run("stalls", func(t *testing.T) {
		var r readiness
		s := status(func(s *flow.Status) { s.LastCommit = time.Time{} })
		if _, err := r.check(&s, true, now); err != nil {
			t.Errorf("just started: %v", err)
		}
		later := now.Add(stallAfter + time.Second)
		if _, err := r.check(&s, true, later); err == nil || !strings.Contains(err.Error(), "10 records behind") {
			t.Errorf("stalled: %v", err)
		}
		s.Partitions[0].Next++
		if _, err := r.check(&s, true, later); err != nil {
			t.Errorf("moved again: %v", err)
		}
	})
}

func TestServerAddresses(t *testing.T) {
	m := NewMetrics("f", "v1")
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:9464": true, "[::1]:9464": true, "127.3.2.1:80": true,
		":9464": false, "0.0.0.0:9464": false, "[::]:9464": false, "10.0.0.1:9464": false, "example.com:80": false, "localhost": false, "": false,
		"127.0.0.1:70000": false, "127.0.0.1:": false, "127.0.0.1:http": false, "127.0.0.1:-1": false,
	} {
		if _, err := NewServer(address, false, m, slog.Default()); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := NewServer("0.0.0.0:9464", true, m, slog.Default()); err != nil {
		t.Error(err)
	}
}

func TestServer(t *testing.T) {
	m := NewMetrics("f", "v1")
	s, err := NewServer("127.0.0.1:0", false, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.Address() != "" {
		t.Error("an address before Start")
	}
	for range 2 { // starting twice is legal
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	check := func(method, path string, code int, part string) {
		t.Helper()
		if c, body := ask(method, path); c != code || !strings.Contains(body, part) {
			t.Errorf("%s %s: %d %.200q, want %d with %q", method, path, c, body, code, part)
		}
	}
	check("GET", "/healthz", 200, "ok")
	check("GET", "/readyz", 503, "connecting")
	m.Watch(func() flow.Status {
		st := exampleStatus()
		st.LastCommit = time.Now()
		return st
	})
	check("GET", "/readyz", 200, "ok")
	check("GET", "/metrics", 200, `penstock_rows_total{flow="f"} 8`)
	m.Watch(func() flow.Status { return flow.Status{State: flow.StateStopped, Err: errors.New("table away")} })
	check("GET", "/healthz", 503, "table away")
	check("POST", "/healthz", 405, "")
	check("GET", "/", 404, "")
	client.CloseIdleConnections()
	for range 2 { // and stopping twice
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}

	never, err := NewServer("127.0.0.1:0", false, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := never.Stop(context.Background()); err != nil {
		t.Errorf("stopping before starting: %v", err)
	}
}

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		format   string
		terminal bool
		json     bool
	}{{"auto", false, true}, {"auto", true, false}, {"text", false, false}, {"json", true, true}} {
		var b bytes.Buffer
		log, err := NewLogger(&b, tt.terminal, tt.format, "warn")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not this")
		log.Warn("this")
		if json.Valid(b.Bytes()) != tt.json || !strings.Contains(b.String(), "this") || strings.Contains(b.String(), "not this") {
			t.Errorf("%+v: %s", tt, b.String())
		}
	}
	var b bytes.Buffer
	log, err := NewLogger(&b, false, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("x", slog.Duration("wait", 68*time.Millisecond), slog.Group("g", slog.Any("grace", 30*time.Second)))
	for _, part := range []string{`"wait":"68ms"`, `"grace":"30s"`} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("the log lacks %s: %s", part, b.String())
		}
	}
	if _, err := NewLogger(io.Discard, false, "xml", "info"); err == nil {
		t.Error("format xml is accepted")
	}
	if _, err := NewLogger(io.Discard, false, "text", "loud"); err == nil {
		t.Error("level loud is accepted")
	}
}
