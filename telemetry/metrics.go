package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockdev/penstock/flow"
)

// FlowMetrics counts what one flow does. It is the flow's Observer, and takes the
// rest from the flow's Status when it is asked. All methods may be called at any time.
type FlowMetrics struct {
	registry *Registry
	name     string
	now      func() time.Time
	tracer   *flowTracer // nil: no traces

	// assigned is set at the first answer of the group, even an empty one.
	assigned    atomic.Bool
	stopped     atomic.Bool
	bufferLimit atomic.Int64

	rebalances atomic.Int64
	restarts   atomic.Int64

	read, decode, write, endToEnd prometheus.Observer
	batchRecords, batchBytes      prometheus.Observer

	mu sync.Mutex // guards what follows
	// dead and retries are by class of error.
	dead, retries map[string]int64
	status        func() flow.Status
	// earlier are the counts of the flow's runs before this one.
	earlier Counts
	ready   Readiness
}

var (
	_ flow.Observer     = (*FlowMetrics)(nil)
	_ flow.ReadObserver = (*FlowMetrics)(nil)
)

// Counts are what a flow has done since the process started, restarts of the flow included.
type Counts struct {
	// Records were read and made durable: as Rows or as dead letters.
	Records int64 `json:"records"`
	Rows    int64 `json:"rows"`
	Batches int64 `json:"batches"`
	// Bytes of the records made durable.
	Bytes  int64 `json:"bytes"`
	Fenced int64 `json:"fenced_writes"`
}

func countsOf(s *flow.Status) Counts {
	return Counts{Records: s.Records, Rows: s.Rows, Batches: s.Batches, Bytes: s.Bytes, Fenced: s.Fenced}
}

func (c Counts) plus(d Counts) Counts {
	return Counts{c.Records + d.Records, c.Rows + d.Rows, c.Batches + d.Batches, c.Bytes + d.Bytes, c.Fenced + d.Fenced}
}

// Name is the flow's name.
func (m *FlowMetrics) Name() string { return m.name }

// Watch says where to ask for the flow's status; before it is called, the flow is starting.
// Called again, for a flow that was started anew, it counts a restart. The run before must have
// ended: its counts are kept, so that no counter goes back.
func (m *FlowMetrics) Watch(status func() flow.Status) {
	_, done := m.current()
	m.assigned.Store(false)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status != nil {
		m.restarts.Add(1)
	}
	m.status, m.earlier, m.ready = status, done, Readiness{}
}

// Describe says what the flow is made of: the names of its connectors, and its
// configuration. Call it before the flow runs.
func (m *FlowMetrics) Describe(source, sink string, cfg *flow.Config) {
	m.bufferLimit.Store(cfg.Buffer)
	if m.tracer != nil {
		m.tracer.describe(source, sink, cfg)
	}
}

// SetStopped says whether a person has stopped the flow: then it is ready as it is.
func (m *FlowMetrics) SetStopped(stopped bool) { m.stopped.Store(stopped) }

// Remove takes the flow's metrics out of the registry, when the flow has left the process.
// What is observed later is lost.
func (m *FlowMetrics) Remove() { m.registry.remove(m) }

// Status is the flow's status, or that of a flow that has not started.
func (m *FlowMetrics) Status() flow.Status {
	s, _ := m.current()
	return s
}

// Ready returns what to say of a flow that does what it should, else why it does not.
func (m *FlowMetrics) Ready() (string, error) {
	s := m.Status()
	return m.checkReady(&s)
}

// Tap is what the flow must be shown for traces (flow.Flow.AddTap); nil where there are none.
func (m *FlowMetrics) Tap() flow.Tap {
	if m.tracer == nil {
		return nil
	}
	return m.tracer
}

// BatchWritten implements flow.Observer.
func (m *FlowMetrics) BatchWritten(b flow.BatchStats) {
	if len(b.Dead) > 0 {
		m.mu.Lock()
		for class, n := range b.Dead {
			m.dead[class] += int64(n)
		}
		m.mu.Unlock()
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
func (m *FlowMetrics) Retrying(lane, attempt int, wait time.Duration, err error) {
	m.mu.Lock()
	m.retries[flow.ClassOf(err).String()]++
	m.mu.Unlock()
	if m.tracer != nil {
		m.tracer.retrying(lane, attempt, wait, err)
	}
}

// Rebalanced implements flow.Observer.
func (m *FlowMetrics) Rebalanced(int, int) {
	m.assigned.Store(true)
	m.rebalances.Add(1)
}

// ReadDone implements flow.ReadObserver.
func (m *FlowMetrics) ReadDone(_ int, _ int64, took time.Duration) { m.read.Observe(took.Seconds()) }

// byClass copies the dead letters and the retries.
func (m *FlowMetrics) byClass() (dead, retries map[string]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.dead), maps.Clone(m.retries)
}

// current is the flow's status, and what all its runs in this process have done.
func (m *FlowMetrics) current() (flow.Status, Counts) {
	m.mu.Lock()
	status, earlier := m.status, m.earlier
	m.mu.Unlock()
	if status == nil {
		return flow.Status{Flow: m.name, State: flow.StateStarting}, earlier
	}
	s := status()
	return s, earlier.plus(countsOf(&s))
}

func (m *FlowMetrics) checkReady(s *flow.Status) (string, error) {
	if m.stopped.Load() {
		return "ok: stopped by a person", nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready.Check(s, m.assigned.Load(), m.now())
}
