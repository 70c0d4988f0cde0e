package admin

import (
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

// flowOf turns what the supervisor knows into what the API shows.
func (s *Server) flowOf(v *supervisor.FlowView, now time.Time) Flow {
	st, m := &v.Status, &v.Metrics
	f := Flow{
		Name: v.Name, File: v.File, Source: v.Source, Sink: v.Sink,
		State: string(st.State), Since: v.Since.UTC(), Paused: v.Paused, Stopped: v.Stopped,
		ReloadError: v.ReloadError, Restarts: v.Restarts,
		Records: m.Records, Rows: m.Rows, DeadByClass: m.Dead, DeadLetters: sum(m.Dead), Batches: m.Batches, Bytes: m.Bytes,
		Retries: sum(m.Retries), Fenced: m.Fenced, Rebalances: m.Rebalances,
		LagRecords: st.Lag(), BufferedBytes: st.Buffered, LastCommit: timeOf(st.LastCommit), Commit: m.Commit,
	}
	if f.DeadByClass == nil {
		f.DeadByClass = map[string]int64{}
	}
	if f.Commit.Buckets == nil {
		f.Commit.Buckets = []telemetry.Bucket{}
	}
	if st.Err != nil {
		f.Error = st.Err.Error()
	}
	for i := range st.Partitions {
		f.LagSeconds = max(f.LagSeconds, st.Partitions[i].Behind.Seconds())
	}
	reason, err := s.metrics.Flow(v.Name).Ready()
	if f.Reason, f.Ready = reason, err == nil; err != nil {
		f.Reason = err.Error()
	}
	return f
}

func sum(byClass map[string]int64) (n int64) {
	for _, v := range byClass {
		n += v
	}
	return n
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func lanesOf(s *flow.Status, now time.Time) []Lane {
	lanes := make([]Lane, len(s.LaneStates))
	for i := range s.LaneStates {
		l := &s.LaneStates[i]
		lanes[i] = Lane{
			Lane: l.Lane, Partitions: l.Partitions, Records: l.Records, BufferedBytes: l.Buffered,
			Writing: l.Writing, FailedAttempts: l.Attempt,
		}
		if l.Writing {
			lanes[i].WritingSeconds = max(0, now.Sub(l.WriteBegan).Seconds())
		}
		if l.Err != nil {
			lanes[i].Error = l.Err.Error()
		}
	}
	return lanes
}

func partitionsOf(s *flow.Status) []Partition {
	ps := make([]Partition, len(s.Partitions))
	for i := range s.Partitions {
		p := &s.Partitions[i]
		ps[i] = Partition{
			Topic: p.Topic, Partition: p.ID, Lane: p.Lane, Position: p.Next, End: p.End,
			LagRecords: max(0, p.End-p.Next), LagSeconds: p.Behind.Seconds(), Paused: p.Paused, Updated: timeOf(p.Updated),
		}
	}
	return ps
}

func reportOf(r *supervisor.ReloadReport) *ReloadReport {
	out := &ReloadReport{OK: r.OK(), Flows: make([]FlowReload, len(r.Flows))}
	for i, f := range r.Flows {
		out.Flows[i] = FlowReload{Name: f.Name, File: f.File, Outcome: string(f.Outcome), Reason: f.Reason}
	}
	return out
}
