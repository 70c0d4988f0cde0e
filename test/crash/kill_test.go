package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// The steps between reading and committing into a database.
var databaseSteps = []string{
	"source.read", "source.revoke", "flow.revoke", "sink.before_begin", "sink.in_copy", "sink.before_commit", "sink.after_commit",
	"sink.dead_letter", "flow.before_source_commit",
}

const atRandom = "at random"

// agenda hands out where to kill next, until enough kills have happened at
// steps and each step was hit twice.
type agenda struct {
	want  int
	steps []string

	mu    sync.Mutex // guards what follows
	total int        // those at random included, which do not count
	hits  map[string]int
	turn  int
}

func newAgenda(want int, steps []string) *agenda {
	return &agenda{want: want, steps: steps, hits: map[string]int{}}
}

// next is a step, or at random for one kill in five; false when it is enough.
func (a *agenda) next() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rare := slices.DeleteFunc(slices.Clone(a.steps), func(s string) bool { return a.hits[s] >= 2 })
	switch {
	case a.named() >= a.want && len(rare) == 0:
		return "", false
	case a.total >= 10*a.want+100: // a step that is never reached: the caller complains
		return "", false
	case a.named() >= a.want:
		return rare[rand.IntN(len(rare))], true
	}
	a.turn++
	if a.turn%5 == 0 {
		return atRandom, true
	}
	return a.steps[a.turn%len(a.steps)], true
}

// named is how many kills were at a step. Called with mu held.
func (a *agenda) named() int { return a.total - a.hits[atRandom] }

func (a *agenda) killed(where string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total++
	a.hits[where]++
}

func (a *agenda) report(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(a.hits)) {
		fmt.Fprintf(&b, ", %s %d", s, a.hits[s])
	}
	t.Logf("%d kills%s", a.total, b.String())
	for _, s := range a.steps {
		if a.hits[s] < 2 {
			t.Errorf("failpoint %s killed %d times, want at least 2", s, a.hits[s])
		}
	}
	if a.named() < a.want {
		t.Errorf("%d kills at a step, want %d", a.named(), a.want)
	}
}

// slot is one place in the group: a process that is killed and started again.
func (a *agenda) slot(r *rig.Rig) {
	for !r.T.Failed() {
		where, more := a.next()
		if !more {
			return
		}
		arm := ""
		if where != atRandom {
			arm = fmt.Sprintf("%s=kill@%d", where, hitToKill(where))
		}
		p, err := r.Launch(arm, "127.0.0.1:0")
		if err != nil {
			r.T.Error(err)
			return
		}
		limit := 8 * time.Second
		if where == atRandom {
			limit = time.Duration(300+rand.IntN(3000)) * time.Millisecond
		}
		if !p.Wait(limit) && strings.HasSuffix(where, ".revoke") {
			p.Signal(syscall.SIGTERM) // leaving revokes as well
			p.Wait(time.Second)
		}
		p.Kill()
		if p.Err == nil && strings.HasSuffix(where, ".revoke") {
			continue // it had nothing to give up, and left in order
		}
		if !p.Killed() {
			r.T.Errorf("%s, to be killed %s, ended by itself: %v\n%s", p.Label, where, p.Err, p.Log.Tail())
			return
		}
		if arm == "" || p.Failpoints()[where] == 0 {
			where = atRandom
		}
		a.killed(where)
	}
}

// hitToKill is at which hit a failpoint kills: not always the first, or nothing
// would ever get past it.
func hitToKill(where string) int {
	switch {
	case where == "flow.before_source_commit": // once in a while, not with every batch
		return 1
	case strings.HasSuffix(where, ".revoke"), where == "sink.dead_letter":
		return 1 + rand.IntN(2)
	default:
		return 1 + rand.IntN(12)
	}
}

// killRun kills until the agenda is done, on several flows at once, and checks
// each in the end.
func killRun(t *testing.T, a *agenda, flows, slots int, newTarget func(*testing.T) *rig.Target) {
	t.Run("flows", func(t *testing.T) {
		for i := range flows {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), newTarget(t))
				r.Topic.Produce(2000)
				stop := r.Topic.Flow(400, 200*time.Millisecond)
				defer stop()
				var wg sync.WaitGroup
				for range slots {
					wg.Go(func() { a.slot(r) })
				}
				wg.Wait()
				stop()
				r.Finish()
			})
		}
	})
	a.report(t)
}

func TestKillPostgres(t *testing.T) {
	t.Parallel()
	killRun(t, newAgenda(*kills, databaseSteps), 4, 2, rig.Postgres)
}

func TestKillSQLite(t *testing.T) {
	t.Parallel()
	killRun(t, newAgenda(*kills*2/5, databaseSteps), 3, 1, rig.SQLite) // a SQLite file has one process
}

// TestKillControl kills the naive loop between the commit of the database and
// that of the group: it must double rows, and the check must see it.
func TestKillControl(t *testing.T) {
	t.Parallel()
	for name, newTarget := range map[string]func(*testing.T) *rig.Target{"postgres": rig.Postgres, "sqlite": rig.SQLite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), newTarget(t)).Control("group")
			r.Topic.Produce(2000)
			for range 10 {
				p := r.Start("sink.after_commit=kill@2")
				if !p.Wait(10*time.Second) || !p.Killed() {
					t.Fatalf("the control was not killed: %v\n%s", p.Err, p.Log.Tail())
				}
				if r.Target.Doubled() {
					break
				}
			}
			if !r.WantCaught(0) {
				t.Fatal("ten kills between the two commits doubled nothing: this test proves nothing")
			}
		})
	}
}
