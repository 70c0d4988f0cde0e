package telemetry

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/penstockdev/penstock/flow"
)

// Metrics counts what a flow does. It is the flow's Observer, and collects the
// rest from the flow's Status when it is asked.
type Metrics struct {
	registry *prometheus.Registry
	status   atomic.Pointer[func() flow.Status]
	// assigned is set at the first answer of the group, even an empty one.
	assigned atomic.Bool

	dead                     *prometheus.CounterVec
	retries                  *prometheus.CounterVec
	rebalances               prometheus.Counter
	write, decode, endToEnd  prometheus.Histogram
	batchRecords, batchBytes prometheus.Histogram
	now                      func() time.Time
}

var _ flow.Observer = (*Metrics)(nil)

const (
	namespace = "penstock"
	flowLabel = "flow"
)

// NewMetrics makes the metrics of the flow of that name. Give it to the flow as
// Observer, then call Watch.
func NewMetrics(name, version string) *Metrics {
	labels := prometheus.Labels{flowLabel: name}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: name, Help: help, ConstLabels: labels, Buckets: buckets,
		})
	}
	latency := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		now:      time.Now,
		dead:     prometheus.NewCounterVec(counter("dead_letters_total", "Records that became dead letters, by class of error."), []string{"class"}),
		retries:  prometheus.NewCounterVec(counter("retries_total", "Writes that failed and were tried again, by class of error."), []string{"class"}),
		rebalances: prometheus.NewCounter(counter("rebalances_total",
			"Changes of the partitions that this process owns.")),
		write: histogram("commit_duration_seconds",
			"Time from the first attempt to write a batch until it was durable, retries included.", latency),
		decode: histogram("decode_duration_seconds", "Time that the transforms took for a batch.", latency),
		endToEnd: histogram("end_to_end_duration_seconds",
			"Time from the timestamp of a batch's first record until it was durable. One observation per batch.",
			append(latency, 300, 1800, 7200, 43200, 86400)),
		batchRecords: histogram("batch_records", "Records in a batch.", []float64{1, 10, 100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000}),
		batchBytes: histogram("batch_bytes", "Bytes of the records in a batch, as read.",
			prometheus.ExponentialBuckets(1<<10, 4, 8)),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the version is a label.",
		ConstLabels: prometheus.Labels{flowLabel: name, "version": version},
	})
	build.Set(1)
	m.registry.MustRegister(
		m.dead, m.retries, m.rebalances, m.write, m.decode, m.endToEnd, m.batchRecords, m.batchBytes, build,
		newStatusCollector(m, labels),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Watch says where to ask for the flow's status. Before it is called there is
// none.
func (m *Metrics) Watch(status func() flow.Status) { m.status.Store(&status) }

// Status is the flow's status, or that of a flow that has not started.
func (m *Metrics) Status() flow.Status {
	if f := m.status.Load(); f != nil {
		return (*f)()
	}
	return flow.Status{State: flow.StateStarting}
}

// Gatherer gives the metrics to a handler or a test.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// BatchWritten implements flow.Observer.
func (m *Metrics) BatchWritten(b flow.BatchStats) {
	for class, n := range b.Dead {
		m.dead.WithLabelValues(class).Add(float64(n))
	}
	m.write.Observe(b.Write.Seconds())
	m.decode.Observe(b.Decode.Seconds())
	m.batchRecords.Observe(float64(b.Records))
	m.batchBytes.Observe(float64(b.Bytes))
	if b.Oldest > 0 {
		// A producer's clock may be ahead of ours.
		m.endToEnd.Observe(max(0, m.now().Sub(time.UnixMicro(b.Oldest)).Seconds()))
	}
}

// Retrying implements flow.Observer.
func (m *Metrics) Retrying(_, _ int, _ time.Duration, err error) {
	m.retries.WithLabelValues(flow.ClassOf(err).String()).Inc()
}

// Rebalanced implements flow.Observer.
func (m *Metrics) Rebalanced(int, int) {
	m.assigned.Store(true)
	m.rebalances.Inc()
}

// statusCollector turns a flow.Status into metrics when it is asked.
type statusCollector struct {
	m *Metrics

	records, rows, batches, bytes, fenced        *prometheus.Desc
	buffered, lanes, partitions, state, commit   *prometheus.Desc
	lagRecords, lagSeconds, position, end, pause *prometheus.Desc
}

func newStatusCollector(m *Metrics, labels prometheus.Labels) *statusCollector {
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, variable, labels)
	}
	return &statusCollector{
		m:          m,
		records:    desc("records_total", "Records read and made durable, as rows or as dead letters."),
		rows:       desc("rows_total", "Rows written."),
		batches:    desc("batches_total", "Batches made durable."),
		bytes:      desc("bytes_total", "Bytes of the records made durable: keys, values and headers."),
		fenced:     desc("fenced_writes_total", "Writes refused because another process owned the partition by then."),
		buffered:   desc("buffered_bytes", "Bytes of records in the lanes, not yet written."),
		lanes:      desc("lanes", "Lanes that write."),
		partitions: desc("partitions", "Partitions that this process owns."),
		state:      desc("state", "1 for the state that the flow is in, 0 for the others.", "state"),
		commit:     desc("last_commit_timestamp_seconds", "When the last batch became durable, in Unix time; 0 before the first."),
		lagRecords: desc("lag_records", "Offsets between the committed position and the end of the partition.", "topic", "partition"),
		lagSeconds: desc("lag_seconds", "How long ago the last written record was made, where there are more to write; else 0.", "topic", "partition"),
		position:   desc("position_offset", "Committed position: the next offset to write.", "topic", "partition"),
		end:        desc("end_offset", "End of the partition, as last seen.", "topic", "partition"),
		pause:      desc("partition_paused", "1 while reading the partition waits for its lane to write.", "topic", "partition"),
	}
}

// Describe implements prometheus.Collector.
func (c *statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.records, c.rows, c.batches, c.bytes, c.fenced, c.buffered, c.lanes, c.partitions, c.state, c.commit,
		c.lagRecords, c.lagSeconds, c.position, c.end, c.pause,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *statusCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.m.Status()
	count := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count(c.records, s.Records)
	count(c.rows, s.Rows)
	count(c.batches, s.Batches)
	count(c.bytes, s.Bytes)
	count(c.fenced, s.Fenced)
	gauge(c.buffered, float64(s.Buffered))
	gauge(c.lanes, float64(s.Lanes))
	gauge(c.partitions, float64(len(s.Partitions)))
	for _, state := range []flow.State{
		flow.StateStarting, flow.StateRunning, flow.StateRetrying, flow.StateWaiting, flow.StateStopping, flow.StateStopped,
	} {
		gauge(c.state, boolean(s.State == state), string(state))
	}
	if s.LastCommit.IsZero() {
		gauge(c.commit, 0)
	} else {
		gauge(c.commit, float64(s.LastCommit.UnixMicro())/1e6)
	}
	for i := range s.Partitions {
		p := &s.Partitions[i]
		labels := []string{p.Topic, strconv.Itoa(int(p.ID))}
		gauge(c.lagRecords, float64(max(0, p.End-p.Next)), labels...)
		gauge(c.lagSeconds, p.Behind.Seconds(), labels...)
		gauge(c.position, float64(p.Next), labels...)
		gauge(c.end, float64(p.End), labels...)
		gauge(c.pause, boolean(p.Paused), labels...)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
