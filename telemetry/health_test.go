package telemetry

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

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
		{"paused by a person", status(func(s *flow.Status) { s.State, s.LastCommit = flow.StatePaused, now.Add(-2*time.Hour) }), true, "ok: paused"},
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
			var r Readiness
			text, err := r.Check(&tt.status, tt.assigned, now)
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
		var r Readiness
		s := status(func(s *flow.Status) { s.LastCommit = time.Time{} })
		if _, err := r.Check(&s, true, now); err != nil {
			t.Errorf("just started: %v", err)
		}
		later := now.Add(stallAfter + time.Second)
		if _, err := r.Check(&s, true, later); err == nil || !strings.Contains(err.Error(), "10 records behind") {
			t.Errorf("stalled: %v", err)
		}
		s.Partitions[0].Next++
		if _, err := r.Check(&s, true, later); err != nil {
			t.Errorf("moved again: %v", err)
		}
	})
	t.Run("a flow that a person has stopped", func(t *testing.T) {
		m := NewRegistry("v1").Flow("f")
		m.Watch(func() flow.Status { return flow.Status{State: flow.StateStopped} })
		if _, err := m.Ready(); err == nil {
			t.Error("ready, though it has stopped by itself")
		}
		m.SetStopped(true)
		if text, err := m.Ready(); err != nil || !strings.HasPrefix(text, "ok: stopped by a person") {
			t.Errorf("%q, %v", text, err)
		}
		m.SetStopped(false)
		if _, err := m.Ready(); err == nil {
			t.Error("ready, though it was to start again")
		}
	})
}

func TestHealth(t *testing.T) {
	away := errors.New("table away")
	for _, s := range []flow.Status{{State: flow.StateRunning}, {State: flow.StateRetrying, Err: away}, {State: flow.StateStopped}, {State: flow.StatePaused}} {
		if err := Healthy(&s); err != nil {
			t.Errorf("%s: %v", s.State, err)
		}
	}
	if err := Healthy(&flow.Status{State: flow.StateStopped, Err: away}); !errors.Is(err, away) {
		t.Errorf("a flow that has failed: %v", err)
	}
}
