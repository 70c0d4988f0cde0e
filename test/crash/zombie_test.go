package crash

import (
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
)

// freezeAndThaw is one round: a process freezes at the failpoint, a successor
// takes its partitions over and writes everything, the first process thaws. It
// returns how many of the frozen process's writes were refused.
func freezeAndThaw(r *rig, failpoint string) int {
	r.t.Helper()
	r.topic.produce(600)
	zombie, admin := r.startWithAdmin(failpoint + "=stop@2")
	if !zombie.waitLine("failpoint "+failpoint, 20*time.Second) {
		r.t.Fatalf("the process never reached %s:\n%s", failpoint, zombie.log.tail())
	}
	successor := r.start("")
	r.settle(30*time.Second, successor)
	r.topic.produce(200) // the successor goes on, while the zombie thaws
	zombie.signal(syscall.SIGCONT)
	refused := 0
	poll(r.t.Context(), 5*time.Second, func() bool {
		refused = r.fenced(admin)
		return refused > 0
	})
	// The zombie is a member like any other again: it leaves in order.
	r.settle(30*time.Second, zombie, successor)
	zombie.stop(15 * time.Second)
	successor.stop(15 * time.Second)
	return refused
}

// zombies runs rounds, on two flows at once, until so many of them had a
// refused write: a round without one proves nothing.
func zombies(t *testing.T, failpoint string, rounds, flows int) {
	for i := range flows {
		t.Run(string(rune('a'+i)), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t))
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
			r.finish()
		})
	}
}

func TestZombieBeforeBegin(t *testing.T) {
	t.Parallel()
	zombies(t, "sink.before_begin", 10, 2)
}

// TestZombieInCopy freezes a process in the middle of its COPY, while it holds
// the locks of its checkpoint rows: the successor must remove it and go on
// (freezeAndThaw waits for that before it thaws).
func TestZombieInCopy(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t))
	for range 3 {
		freezeAndThaw(r, "sink.in_copy")
	}
	r.finish()
}

// TestZombieControl freezes a loop that keeps its offsets in the transaction of
// the rows, but has no fence.
func TestZombieControl(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t)).control("database")
	for range 5 {
		r.topic.produce(600)
		zombie := r.start("sink.before_begin=stop@2")
		if !zombie.waitLine("failpoint sink.before_begin", 20*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", zombie.log.tail())
		}
		successor := r.start("")
		r.settle(30*time.Second, successor)
		zombie.signal(syscall.SIGCONT)
		if r.wantCaught(5 * time.Second) {
			return
		}
		zombie.kill()
		successor.kill()
	}
	t.Fatal("five zombies without a fence doubled nothing: this test proves nothing")
}

// TestZombieInCopyControl freezes the same loop in the middle of its
// transaction: nobody removes it, so either its successor cannot go on, or
// both write.
func TestZombieInCopyControl(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t)).control("database")
	r.topic.produce(600)
	zombie := r.start("sink.before_commit=stop@2")
	if !zombie.waitLine("failpoint sink.before_commit", 20*time.Second) {
		t.Fatalf("the control never reached its failpoint:\n%s", zombie.log.tail())
	}
	r.start("")
	rows, _ := r.topic.expected()
	if poll(t.Context(), 5*time.Second, func() bool { return r.target.rowCount() >= rows }) {
		zombie.signal(syscall.SIGCONT)
		if !r.wantCaught(5 * time.Second) {
			t.Fatal("a loop without a fence passed: this test proves nothing")
		}
		return
	}
	t.Logf("the control was caught: %d of %d rows while its predecessor is frozen", r.target.rowCount(), rows)
}
