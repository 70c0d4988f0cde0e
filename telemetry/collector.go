package telemetry

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockdev/penstock/flow"
)

// states are those that a flow can be in.
var states = []flow.State{
	flow.StateStarting, flow.StateRunning, flow.StateRetrying, flow.StateWaiting, flow.StatePaused, flow.StateStopping, flow.StateStopped,
}

// statusCollector turns the flows' Status into metrics when it is asked.
type statusCollector struct {
	registry *Registry
	descs    []*prometheus.Desc

	records, rows, batches, bytes, fenced             *prometheus.Desc
	dead, retries, rebalances, restarts               *prometheus.Desc
	buffered, bufferLimit, laneBuffered               *prometheus.Desc
	lanes, partitions, state, ready, commit           *prometheus.Desc
	lagRecords, lagSeconds, position, end, pause, age *prometheus.Desc
}

func newStatusCollector(r *Registry) *statusCollector {
	c := &statusCollector{registry: r}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, append([]string{flowLabel}, labels...), nil)
		c.descs = append(c.descs, d)
		return d
	}
	c.records = desc("records_total", "Records read and made durable, as rows or as dead letters.")
	c.rows = desc("rows_total", "Rows written.")
	c.batches = desc("batches_total", "Batches made durable.")
	c.bytes = desc("bytes_total", "Bytes of the records made durable: keys and values.")
	c.fenced = desc("fenced_writes_total", "Writes refused because another process owned the partition by then.")
	c.dead = desc("dead_letters_total", "Records that became dead letters, by class of error.", "class")
	c.retries = desc("retries_total", "Attempts to write, to read or to start that failed and were made again, by class of error.", "class")
	c.rebalances = desc("rebalances_total", "Changes of the partitions that this process owns.")
	c.restarts = desc("flow_restarts_total", "Starts of the flow in this process after the first one.")
	c.buffered = desc("buffered_bytes", "Bytes of records in the lanes, not yet written.")
	c.bufferLimit = desc("buffer_limit_bytes", "Bytes of records that all lanes together may hold.")
	c.laneBuffered = desc("lane_buffered_bytes", "Bytes of records in the lane, not yet written.", "lane")
	c.lanes = desc("lanes", "Lanes that write.")
	c.partitions = desc("partitions", "Partitions that this process owns.")
	c.state = desc("state", "1 for the state that the flow is in, 0 for the others.", "state")
	c.ready = desc("ready", "1 while the flow does what it should, as on /readyz; else 0.")
	c.commit = desc("last_commit_timestamp_seconds", "When the last batch became durable, in Unix time; 0 before the first.")
	c.lagRecords = desc("lag_records", "Offsets between the committed position and the end of the partition.", "topic", "partition")
	c.lagSeconds = desc("lag_seconds", "How long ago the last written record was made, where there are more to write; else 0. "+
		"Of a partition that this process has not written yet: how long it has been seen to wait.", "topic", "partition")
	c.position = desc("position_offset", "Committed position: the next offset to write.", "topic", "partition")
	c.end = desc("end_offset", "End of the partition, as last seen.", "topic", "partition")
	c.pause = desc("partition_paused", "1 while reading the partition waits for its lane to write.", "topic", "partition")
	c.age = desc("checkpoint_age_seconds",
		"Time since this process last committed the partition's position; before it has done so once, since it has had records of it to write.",
		"topic", "partition")
	return c
}

// Describe implements prometheus.Collector.
func (c *statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *statusCollector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.registry.all() {
		c.collect(m, ch)
	}
}

func (c *statusCollector) collect(m *FlowMetrics, ch chan<- prometheus.Metric) {
	s, counts := m.current()
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{m.name}, labels...)...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{m.name}, labels...)...)
	}
	count(c.records, counts.Records)
	count(c.rows, counts.Rows)
	count(c.batches, counts.Batches)
	count(c.bytes, counts.Bytes)
	count(c.fenced, counts.Fenced)
	count(c.rebalances, m.rebalances.Load())
	count(c.restarts, m.restarts.Load())
	dead, retries := m.byClass()
	for class, n := range dead {
		count(c.dead, n, class)
	}
	for class, n := range retries {
		count(c.retries, n, class)
	}
	gauge(c.buffered, float64(s.Buffered))
	if limit := m.bufferLimit.Load(); limit > 0 {
		gauge(c.bufferLimit, float64(limit))
	}
	gauge(c.lanes, float64(s.Lanes))
	gauge(c.partitions, float64(len(s.Partitions)))
	for _, state := range states {
		gauge(c.state, boolean(s.State == state), string(state))
	}
	_, err := m.checkReady(&s)
	gauge(c.ready, boolean(err == nil))
	if s.LastCommit.IsZero() {
		gauge(c.commit, 0)
	} else {
		gauge(c.commit, float64(s.LastCommit.UnixMicro())/1e6)
	}
	for i := range s.LaneStates {
		l := &s.LaneStates[i]
		gauge(c.laneBuffered, float64(l.Buffered), strconv.Itoa(l.Lane))
	}
	now := m.now()
	for i := range s.Partitions {
		p := &s.Partitions[i]
		id := strconv.Itoa(int(p.ID))
		committed := p.Updated
		if committed.IsZero() && p.Behind > 0 {
			committed = now.Add(-p.Behind)
		}
		gauge(c.lagRecords, float64(max(0, p.End-p.Next)), p.Topic, id)
		gauge(c.lagSeconds, p.Behind.Seconds(), p.Topic, id)
		gauge(c.position, float64(p.Next), p.Topic, id)
		gauge(c.end, float64(p.End), p.Topic, id)
		gauge(c.pause, boolean(p.Paused), p.Topic, id)
		if !committed.IsZero() {
			gauge(c.age, max(0, now.Sub(committed).Seconds()), p.Topic, id)
		}
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
