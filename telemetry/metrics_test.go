package telemetry

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/penstockdev/penstock/flow"
)

func exampleStatus() flow.Status {
	return flow.Status{
		Flow: "f", State: flow.StateRunning, Records: 10, Rows: 8, Dead: 2, Batches: 3, Bytes: 5000, Fenced: 1, Buffered: 77, Lanes: 2,
		LastCommit: time.UnixMicro(1_700_000_000_500_000),
		LaneStates: []flow.LaneStatus{{Lane: 0, Buffered: 70}, {Lane: 1, Buffered: 7}},
		Partitions: []flow.PartitionStatus{
			{
				Partition: flow.Partition{Topic: "t", ID: 0}, Next: 90, End: 100, Behind: 1500 * time.Millisecond, Paused: true,
				Updated: time.UnixMicro(3_000_000),
			},
			{Partition: flow.Partition{Topic: "t", ID: 1}, Next: 50, End: 50},
		},
	}
}

// observed is a flow to which everything has happened that is counted.
func observed(r *Registry, name string) *FlowMetrics {
	m := r.Flow(name)
	m.now = func() time.Time { return time.UnixMicro(5_000_000) }
	m.Describe("kafka", "sqlite", &flow.Config{Buffer: 1000})
	m.Watch(exampleStatus)
	m.BatchWritten(flow.BatchStats{
		Records: 5, Rows: 3, Bytes: 2000, Dead: map[string]int{"malformed": 2}, Decode: time.Millisecond, Write: 30 * time.Millisecond, Oldest: 2_000_000,
	})
	m.BatchWritten(flow.BatchStats{Records: 1, Oldest: 9_000_000}) // the producer's clock is ahead
	m.BatchWritten(flow.BatchStats{Records: 1})                    // no timestamp
	m.Retrying(0, 1, time.Second, flow.Transient(errors.New("away")))
	m.Retrying(0, 1, time.Second, errors.New("what?"))
	m.Rebalanced(2, 0)
	m.ReadDone(100, 1000, 4*time.Millisecond)
	return m
}

// values are the series of the gatherer: counters and gauges by value, histograms by count.
func values(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.Histogram != nil:
				out[name] = float64(m.GetHistogram().GetSampleCount())
			case m.Counter != nil:
				out[name] = m.GetCounter().GetValue()
			default:
				out[name] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

func TestMetricsOfAFlow(t *testing.T) {
	r := NewRegistry("v1")
	observed(r, "f")
	r.Reloaded(nil)
	r.Reloaded(errors.New("no sink"))
	got := values(t, r.Gatherer())
	for series, want := range map[string]float64{
		"penstock_records_total{flow=f}":                              10,
		"penstock_rows_total{flow=f}":                                 8,
		"penstock_batches_total{flow=f}":                              3,
		"penstock_bytes_total{flow=f}":                                5000,
		"penstock_fenced_writes_total{flow=f}":                        1,
		"penstock_dead_letters_total{class=malformed,flow=f}":         2,
		"penstock_dead_letters_total{class=constraint,flow=f}":        0, // there before its first event
		"penstock_retries_total{class=transient,flow=f}":              1,
		"penstock_retries_total{class=unknown,flow=f}":                1,
		"penstock_rebalances_total{flow=f}":                           1,
		"penstock_flow_restarts_total{flow=f}":                        0,
		"penstock_read_duration_seconds{flow=f}":                      1,
		"penstock_decode_duration_seconds{flow=f}":                    3,
		"penstock_commit_duration_seconds{flow=f}":                    3,
		"penstock_end_to_end_duration_seconds{flow=f}":                2,
		"penstock_batch_records{flow=f}":                              3,
		"penstock_batch_bytes{flow=f}":                                3,
		"penstock_buffered_bytes{flow=f}":                             77,
		"penstock_buffer_limit_bytes{flow=f}":                         1000,
		"penstock_lane_buffered_bytes{flow=f,lane=0}":                 70,
		"penstock_lane_buffered_bytes{flow=f,lane=1}":                 7,
		"penstock_lanes{flow=f}":                                      2,
		"penstock_partitions{flow=f}":                                 2,
		"penstock_state{flow=f,state=running}":                        1,
		"penstock_state{flow=f,state=paused}":                         0,
		"penstock_ready{flow=f}":                                      1,
		"penstock_last_commit_timestamp_seconds{flow=f}":              1_700_000_000.5,
		"penstock_lag_records{flow=f,partition=0,topic=t}":            10,
		"penstock_lag_records{flow=f,partition=1,topic=t}":            0,
		"penstock_lag_seconds{flow=f,partition=0,topic=t}":            1.5,
		"penstock_position_offset{flow=f,partition=0,topic=t}":        90,
		"penstock_end_offset{flow=f,partition=0,topic=t}":             100,
		"penstock_partition_paused{flow=f,partition=0,topic=t}":       1,
		"penstock_checkpoint_age_seconds{flow=f,partition=0,topic=t}": 2,
		"penstock_reloads_total{result=accepted}":                     1,
		"penstock_reloads_total{result=refused}":                      1,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s: there %t, %v, want %v", series, ok, v, want)
		}
	}
	if _, ok := got["penstock_checkpoint_age_seconds{flow=f,partition=1,topic=t}"]; ok {
		t.Error("a partition that was never committed, and has nothing to commit, has an age")
	}
	if problems, err := testutil.GatherAndLint(r.Gatherer()); err != nil || len(problems) > 0 {
		t.Errorf("Prometheus' linter: %v %v", problems, err)
	}
}

// A process that was started in the middle of an outage has written nothing yet, and is not "0 s behind" for that.
func TestAPartitionThatWasNeverWrittenGrowsOld(t *testing.T) {
	r := NewRegistry("v1")
	m := r.Flow("f")
	now := time.UnixMicro(0)
	m.now = func() time.Time { return now }
	part := flow.PartitionStatus{Partition: flow.Partition{Topic: "t", ID: 3}, Next: 10, End: 10}
	m.Watch(func() flow.Status {
		return flow.Status{State: flow.StateRunning, Partitions: []flow.PartitionStatus{part}}
	})
	const lag, age = "penstock_lag_seconds{flow=f,partition=3,topic=t}", "penstock_checkpoint_age_seconds{flow=f,partition=3,topic=t}"
	look := func(after time.Duration, wantLag float64, wantAge any) {
		t.Helper()
		now = now.Add(after)
		got := values(t, r.Gatherer())
		var gotAge any
		if v, ok := got[age]; ok {
			gotAge = v
		}
		if got[lag] != wantLag || gotAge != wantAge {
			t.Errorf("lag %v, age %v; want %v, %v", got[lag], gotAge, wantLag, wantAge)
		}
	}
	look(0, 0, nil)
	look(time.Hour, 0, nil) // idle
	part.End, part.Behind = 500, 10*time.Minute
	look(0, 600, 600.0)
	part.Next, part.Updated, part.Behind = 400, now, 2*time.Second // from now on it is known
	look(time.Second, 2, 1.0)
}

func TestFlowsOfAProcessShareItsMetrics(t *testing.T) {
	r := NewRegistry("v1")
	a, b := observed(r, "a"), observed(r, "b")
	if r.Flow("a") != a {
		t.Error("a second set of metrics for the same flow")
	}
	got := values(t, r.Gatherer())
	if got["penstock_rows_total{flow=a}"] != 8 || got["penstock_rows_total{flow=b}"] != 8 {
		t.Error("not both flows have their rows")
	}
	for once := range maps.Keys(got) {
		if strings.HasPrefix(once, "go_goroutines") && once != "go_goroutines{}" {
			t.Errorf("%s belongs to the process", once)
		}
	}
	a.Remove()
	a.Remove() // it may be called again
	for series := range values(t, r.Gatherer()) {
		if strings.Contains(series, "flow=a") {
			t.Errorf("%s is left of a flow that was removed", series)
		}
	}
	again := r.Flow("a")
	a.Remove() // and must not take away what has the name now
	if again == a || values(t, r.Gatherer())["penstock_ready{flow=a}"] != 0 || r.Flow("a") != again {
		t.Error("a flow that came back has no metrics of its own")
	}
	b.Remove()
}

func TestCountersSurviveARestartOfTheFlow(t *testing.T) {
	r := NewRegistry("v1")
	m := observed(r, "f")
	m.Watch(func() flow.Status { return flow.Status{State: flow.StateRunning, Records: 1, Rows: 1, Bytes: 5} })
	got := values(t, r.Gatherer())
	for series, want := range map[string]float64{
		"penstock_records_total{flow=f}": 11, "penstock_rows_total{flow=f}": 9, "penstock_bytes_total{flow=f}": 5005,
		"penstock_batches_total{flow=f}": 3, "penstock_flow_restarts_total{flow=f}": 1, "penstock_batch_records{flow=f}": 3,
	} {
		if got[series] != want {
			t.Errorf("%s %v, want %v", series, got[series], want)
		}
	}
	if s := m.Status(); s.Records != 1 {
		t.Errorf("the status is that of the run: %d records, want 1", s.Records)
	}
	if _, err := m.Ready(); err == nil {
		t.Error("ready before the group has answered the flow that was started anew")
	}
}

func TestSnapshot(t *testing.T) {
	m := observed(NewRegistry("v1"), "f")
	s := m.Snapshot()
	if want := (Counts{Records: 10, Rows: 8, Batches: 3, Bytes: 5000, Fenced: 1}); s.Counts != want {
		t.Errorf("%+v, want %+v", s.Counts, want)
	}
	if !maps.Equal(s.Dead, map[string]int64{"malformed": 2}) || !maps.Equal(s.Retries, map[string]int64{"transient": 1, "unknown": 1}) || s.Rebalances != 1 {
		t.Errorf("dead %v, retries %v, rebalances %d", s.Dead, s.Retries, s.Rebalances)
	}
	if s.Commit.Count != 3 || s.EndToEnd.Count != 2 || s.EndToEnd.Sum != 3 || len(s.Commit.Buckets) != len(latencyBuckets) {
		t.Errorf("commit %+v, end to end %+v", s.Commit, s.EndToEnd)
	}
	if !slices.IsSortedFunc(s.Commit.Buckets, func(a, b Bucket) int { return int(a.Count) - int(b.Count) }) {
		t.Errorf("buckets are not cumulative: %v", s.Commit.Buckets)
	}
	if _, err := json.Marshal(s); err != nil { // JSON has no infinity
		t.Error(err)
	}
	m.BatchWritten(flow.BatchStats{Records: 1, Write: 3 * time.Second})
	since := m.Snapshot().Commit.Since(s.Commit)
	if since.Count != 1 || since.Sum != 3 || since.Quantile(1) != 5 {
		t.Errorf("since the first snapshot: %+v", since)
	}
	if back := s.Commit.Since(m.Snapshot().Commit); back.Count != s.Commit.Count {
		t.Errorf("a process that was started anew has seen %d", back.Count)
	}
}

func TestQuantile(t *testing.T) {
	h := Histogram{Count: 10, Buckets: []Bucket{{1, 0}, {2, 5}, {4, 9}}}
	for q, want := range map[float64]float64{0: 1, 0.25: 1.5, 0.5: 2, 0.7: 3, 0.9: 4, 0.99: 4} {
		if got := h.Quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if got := (Histogram{}).Quantile(0.5); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMetricsMayBeAskedWhileTheyChange(t *testing.T) {
	r := NewRegistry("v1")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "a", "b"} {
		wg.Go(func() {
			for range 50 {
				shake(r.Flow(name))
				r.Flow(name).Remove()
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if _, err := r.Gatherer().Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

func shake(m *FlowMetrics) {
	m.Watch(exampleStatus)
	m.BatchWritten(flow.BatchStats{Records: 1, Dead: map[string]int{"type": 1}})
	m.Retrying(0, 1, time.Second, errors.New("what?"))
	m.Snapshot()
}
