package telemetry

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const (
	namespace = "penstock"
	flowLabel = "flow"
)

// latencyBuckets are in seconds, from a batch into a file to a database that is in trouble.
var latencyBuckets = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}

// decodeBuckets are in seconds: a record takes less than a microsecond.
var decodeBuckets = []float64{.00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5}

// The label values that are there from the start: a counter that appears with its first
// event hides that event from Prometheus, which sees only what increases.
var (
	knownDeadClasses  = []string{"malformed", "type", "range", "null", "encoding", "tombstone", "constraint", "oversized", "rejected"}
	knownRetryClasses = []string{"transient", "unknown"}
)

// Registry holds the metrics of a process: those of its flows, each with the label
// flow, and those of the process itself, once. All methods may be called at any time.
type Registry struct {
	prometheus *prometheus.Registry

	reloads                       *prometheus.CounterVec
	read, decode, write, endToEnd *prometheus.HistogramVec
	batchRecords, batchBytes      *prometheus.HistogramVec

	mu      sync.Mutex // guards what follows
	flows   map[string]*FlowMetrics
	tracing *Tracing
}

// NewRegistry makes the metrics of a process. Version is Penstock's own.
func NewRegistry(version string) *Registry {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, []string{flowLabel})
	}
	r := &Registry{
		prometheus: prometheus.NewRegistry(),
		flows:      make(map[string]*FlowMetrics),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "reloads_total", Help: "Changes of the flow files that were accepted or refused.",
		}, []string{"result"}),
		read:   histogram("read_duration_seconds", "Time of a read that delivered records, waiting for them included.", latencyBuckets),
		decode: histogram("decode_duration_seconds", "Time that the transforms took for a batch.", decodeBuckets),
		write: histogram("commit_duration_seconds",
			"Time from the first attempt to write a batch until it was durable, retries included.", latencyBuckets),
		endToEnd: histogram("end_to_end_duration_seconds",
			"Time from the timestamp of a batch's first record until it was durable. One observation per batch.",
			slices.Concat(latencyBuckets, []float64{300, 1800, 7200, 43200, 86400})),
		batchRecords: histogram("batch_records", "Records in a batch.", []float64{1, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000}),
		batchBytes:   histogram("batch_bytes", "Bytes of the records in a batch, as read.", prometheus.ExponentialBuckets(1<<10, 4, 8)),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the versions are labels.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	build.Set(1)
	for _, result := range []string{reloadAccepted, reloadRefused} {
		r.reloads.WithLabelValues(result)
	}
	r.prometheus.MustRegister(
		r.reloads, r.read, r.decode, r.write, r.endToEnd, r.batchRecords, r.batchBytes, build, newStatusCollector(r),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

const (
	reloadAccepted = "accepted"
	reloadRefused  = "refused"
)

// Gatherer gives the metrics to a handler or a test.
func (r *Registry) Gatherer() prometheus.Gatherer { return r.prometheus }

// Reloaded counts a change of the flow files; err is why it was refused.
func (r *Registry) Reloaded(err error) {
	result := reloadAccepted
	if err != nil {
		result = reloadRefused
	}
	r.reloads.WithLabelValues(result).Inc()
}

// Trace makes the flows that are made from now on give their batches to t, which may be
// nil.
func (r *Registry) Trace(t *Tracing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tracing = t
}

// Flow returns the metrics of the flow of this name: those that are there (a flow that
// starts again in the same process goes on counting), or new ones.
func (r *Registry) Flow(name string) *FlowMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.flows[name]; m != nil {
		return m
	}
	m := &FlowMetrics{
		registry: r, name: name, now: time.Now,
		dead: zeros(knownDeadClasses), retries: zeros(knownRetryClasses),
		read:         r.read.WithLabelValues(name),
		decode:       r.decode.WithLabelValues(name),
		write:        r.write.WithLabelValues(name),
		endToEnd:     r.endToEnd.WithLabelValues(name),
		batchRecords: r.batchRecords.WithLabelValues(name),
		batchBytes:   r.batchBytes.WithLabelValues(name),
	}
	if r.tracing != nil {
		m.tracer = r.tracing.flow(name)
	}
	r.flows[name] = m
	return m
}

// remove takes a flow's series away, unless the name belongs to newer ones.
func (r *Registry) remove(m *FlowMetrics) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flows[m.name] != m {
		return
	}
	delete(r.flows, m.name)
	for _, v := range []*prometheus.HistogramVec{r.read, r.decode, r.write, r.endToEnd, r.batchRecords, r.batchBytes} {
		v.DeleteLabelValues(m.name)
	}
}

// all returns the flows in order of their names.
func (r *Registry) all() []*FlowMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.flows), func(a, b *FlowMetrics) int { return strings.Compare(a.name, b.name) })
}

func zeros(keys []string) map[string]int64 {
	out := make(map[string]int64, len(keys))
	for _, k := range keys {
		out[k] = 0
	}
	return out
}
