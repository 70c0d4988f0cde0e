package faults

import (
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// TestClockJumps sets the clock that the flow asks for the time of day forward
// and back by hours, several times a second, under load and over a restart. What waits and what
// decides asks for durations, so nothing may happen, and what people look at
// stays what it was: the age of records and of commits.
//
// No control: a flow that shows the clock as it is was caught here.
func TestClockJumps(t *testing.T) {
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	const jump = "PENSTOCK_CLOCK_JUMP"
	t.Setenv(jump, "far")
	if p := r.Start(""); !p.Wait(20*time.Second) || !p.WaitLine(jump, 0) {
		t.Fatal("the binary's clock cannot be made to jump: this test proves nothing")
	}
	t.Setenv(jump, "6h")
	stop := r.Topic.Flow(100, 50*time.Millisecond)
	defer stop()
	for _, end := range []func(*rig.Process){func(p *rig.Process) { p.Stop(20 * time.Second) }, (*rig.Process).Kill} {
		p, admin := r.StartWithAdmin("")
		r.WantProgress(200, time.Minute, p)
		looked := 0
		rig.Poll(t.Context(), 4*time.Second, func() bool {
			m := scrape(t.Context(), admin)
			if len(m) == 0 {
				return false
			}
			looked++
			for _, lag := range m["penstock_lag_seconds"] {
				if lag < 0 || lag > 60 {
					t.Errorf("a partition is %v s behind", lag)
				}
			}
			if age := time.Since(time.UnixMicro(int64(m.sum("penstock_last_commit_timestamp_seconds") * 1e6))); age < -time.Minute || age > time.Minute {
				t.Errorf("the last commit was %s ago", age)
			}
			return t.Failed()
		})
		if looked == 0 {
			t.Error("there are no metrics")
		}
		end(p)
	}
	stop()
	r.Finish()
}
