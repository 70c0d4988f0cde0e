package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockdev/penstock/flow"
)

// Metrics are those of a process with one flow.
type Metrics struct {
	*FlowMetrics
}

// NewMetrics makes the metrics of a process with the one flow of that name. Give it to the flow
// as Observer, then call Watch.
func NewMetrics(name, version string) *Metrics {
	return &Metrics{NewRegistry(version).Flow(name)}
}

// Gatherer gives the metrics to a handler or a test.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry.Gatherer() }

type readiness struct{ Readiness }

func (r *readiness) check(s *flow.Status, assigned bool, now time.Time) (string, error) {
	return r.Check(s, assigned, now)
}
