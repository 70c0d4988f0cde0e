package telemetry

import (
	"fmt"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// stallAfter is how long a flow that lags may go without a commit before it
// counts as not ready: longer than one attempt to write a batch may take.
const stallAfter = 90 * time.Second

// Healthy returns nil unless the flow has failed.
func Healthy(s *flow.Status) error {
	if s.State == flow.StateStopped && s.Err != nil {
		return fmt.Errorf("the flow has failed: %w", s.Err)
	}
	return nil
}

// Readiness decides whether a flow moves records, or has none to move. It remembers since
// when the flow is as it is; the zero value knows nothing yet.
type Readiness struct {
	// since is when the flow was first seen running, next what was committed
	// then or at the last progress.
	since time.Time
	next  int64
}

// Check returns what to say of a flow that moves records, has none to move, or was paused
// by a person; else why it does not. Assigned says that the group has answered.
func (r *Readiness) Check(s *flow.Status, assigned bool, now time.Time) (string, error) {
	switch s.State {
	case flow.StateRunning:
	case flow.StateStarting:
		r.since = time.Time{}
		return "", withCause("the flow is connecting", s.Err)
	case flow.StatePaused:
		r.since = time.Time{}
		return "ok: paused by a person", nil
	case flow.StateRetrying:
		return "", withCause("something failed and is tried again", s.Err)
	case flow.StateWaiting:
		return "", withCause("the flow waits: its position is lost", s.Err)
	case flow.StateStopping:
		return "", withCause("the flow is stopping", s.Err)
	case flow.StateStopped:
		return "", withCause("the flow has stopped", s.Err)
	}
	var next int64
	for i := range s.Partitions {
		next += s.Partitions[i].Next
	}
	if r.since.IsZero() || next != r.next {
		r.since, r.next = now, next
	}
	switch {
	case len(s.Partitions) == 0 && !assigned:
		return "", fmt.Errorf("no partition is assigned yet")
	case len(s.Partitions) == 0:
		return "ok: standby, the other members of the group have all partitions", nil
	}
	last := r.since
	if s.LastCommit.After(last) {
		last = s.LastCommit
	}
	if lag := s.Lag(); lag > 0 && now.Sub(last) > stallAfter {
		return "", fmt.Errorf("%d records behind, and nothing was committed for %s", lag, now.Sub(last).Round(time.Second))
	}
	return "ok", nil
}

func withCause(what string, err error) error {
	if err == nil {
		return fmt.Errorf("%s", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}
