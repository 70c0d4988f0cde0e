package crash

import (
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// freezeAndThaw is one round: a process freezes at the failpoint, a successor
// takes its partitions over and writes everything, the first process thaws. It
// returns how many of the frozen process's writes were refused.
func freezeAndThaw(r *rig.Rig, failpoint string) int {
	r.T.Helper()
	r.Topic.Produce(600)
	zombie, admin := r.StartWithAdmin(failpoint + "=stop@2")
	if !zombie.WaitLine("failpoint "+failpoint, 20*time.Second) {
		r.T.Fatalf("the process never reached %s:\n%s", failpoint, zombie.Log.Tail())
	}
	successor := r.Start("")
	r.Settle(30*time.Second, successor)
	r.Topic.Produce(200) // the successor goes on, while the zombie thaws
	zombie.Signal(syscall.SIGCONT)
	refused := 0
	rig.Poll(r.T.Context(), 5*time.Second, func() bool {
		refused = r.Fenced(admin)
		return refused > 0
	})
	// The zombie is a member like any other again: it leaves in order.
	r.Settle(30*time.Second, zombie, successor)
	zombie.Stop(15 * time.Second)
	successor.Stop(15 * time.Second)
	return refused
}

// zombies runs rounds, on two flows at once, until so many of them had a
// refused write: a round without one proves nothing.
func zombies(t *testing.T, failpoint string, rounds, flows int, newTarget func(*testing.T) *rig.Target) {
	for i := range flows {
		t.Run(string(rune('a'+i)), func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), newTarget(t))
			want, proven := (rounds+flows-1)/flows, 0
			for n := range 4 * want {
				if refused := freezeAndThaw(r, failpoint); refused > 0 {
					proven++
				}
				if proven == want {
					t.Logf("%d rounds, %d of them with a refused write", n+1, proven)
					break
				}
			}
			if proven < want {
				t.Errorf("%d of %d rounds had a refused write, want %d", proven, 4*want, want)
			}
			r.Finish()
		})
	}
}

func TestZombieBeforeBegin(t *testing.T) {
	t.Parallel()
	zombies(t, "sink.before_begin", 10, 2, rig.Postgres)
}

// TestZombieInCopy freezes a process in the middle of its COPY, while it holds
// the locks of its checkpoint rows: the successor must remove it and go on
// (freezeAndThaw waits for that before it thaws).
func TestZombieInCopy(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	for range 3 {
		freezeAndThaw(r, "sink.in_copy")
	}
	r.Finish()
}

// TestZombieControl freezes a loop that keeps its offsets in the transaction of
// the rows, but has no fence.
func TestZombieControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("database")
	for range 5 {
		r.Topic.Produce(600)
		zombie := r.Start("sink.before_begin=stop@2")
		if !zombie.WaitLine("failpoint sink.before_begin", 20*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", zombie.Log.Tail())
		}
		successor := r.Start("")
		r.Settle(30*time.Second, successor)
		zombie.Signal(syscall.SIGCONT)
		if r.WantCaught(5 * time.Second) {
			return
		}
		zombie.Kill()
		successor.Kill()
	}
	t.Fatal("five zombies without a fence doubled nothing: this test proves nothing")
}

// TestZombieInCopyControl freezes the same loop in the middle of its
// transaction: nobody removes it, so either its successor cannot go on, or
// both write.
func TestZombieInCopyControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("database")
	r.Topic.Produce(600)
	zombie := r.Start("sink.before_commit=stop@2")
	if !zombie.WaitLine("failpoint sink.before_commit", 20*time.Second) {
		t.Fatalf("the control never reached its failpoint:\n%s", zombie.Log.Tail())
	}
	r.Start("")
	rows, _ := r.Topic.Expected()
	if rig.Poll(t.Context(), 5*time.Second, func() bool { return r.Target.RowCount() >= rows }) {
		zombie.Signal(syscall.SIGCONT)
		if !r.WantCaught(5 * time.Second) {
			t.Fatal("a loop without a fence passed: this test proves nothing")
		}
		return
	}
	t.Logf("the control was caught: %d of %d rows while its predecessor is frozen", r.Target.RowCount(), rows)
}
