package crash

import (
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// The steps between reading and committing into Kafka: records, dead letters
// and offsets in one transaction.
var copySteps = []string{
	"source.read", "source.revoke", "flow.revoke", "sink.before_begin", "sink.in_copy", "sink.dead_letter", "sink.before_offsets",
	"sink.before_commit", "sink.after_commit",
}

func exactlyOnce(t *testing.T) *rig.Target {
	t.Helper()
	return rig.Copy(t, testservice.Kafka(t), "exactly_once")
}

func atLeastOnce(t *testing.T) *rig.Target {
	t.Helper()
	return rig.Copy(t, testservice.Kafka(t), "at_least_once")
}

func TestKillCopy(t *testing.T) {
	t.Parallel()
	killRun(t, newAgenda(*kills, copySteps), 4, 2, exactlyOnce)
}

// TestKillCopyControl kills the same flow, which writes without transactions,
// after it has written.
func TestKillCopyControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), atLeastOnce(t))
	r.Topic.Produce(2000)
	for range 10 {
		p := r.Start("sink.after_commit=kill@2")
		if !p.Wait(20*time.Second) || !p.Killed() {
			t.Fatalf("the control was not killed: %v\n%s", p.Err, p.Log.Tail())
		}
		if r.WantCaught(2 * time.Second) {
			return
		}
	}
	t.Fatal("ten kills between writing and committing doubled nothing: this test proves nothing")
}

// TestZombieCopy freezes a process before its transaction begins, until others
// have its partitions: what it writes then is refused.
func TestZombieCopy(t *testing.T) {
	t.Parallel()
	zombies(t, "sink.before_begin", 4, 2, exactlyOnce)
}

// TestZombieCopyInTransaction freezes it in the middle of its transaction: the
// successor must end that, and go on.
func TestZombieCopyInTransaction(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), exactlyOnce(t))
	for _, failpoint := range []string{"sink.in_copy", "sink.before_commit"} {
		freezeAndThaw(r, failpoint)
	}
	r.Finish()
}

// TestZombieCopyControl freezes the same flow, which writes without
// transactions: nothing refuses its late records.
func TestZombieCopyControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), atLeastOnce(t))
	for range 5 {
		freezeAndThaw(r, "sink.before_begin")
		if r.WantCaught(2 * time.Second) {
			return
		}
	}
	t.Fatal("five zombies without a fence doubled nothing: this test proves nothing")
}
