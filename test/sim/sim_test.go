package sim

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

var (
	seedFlag  = flag.Int64("seed", -1, "run the schedule of this seed alone")
	firstFlag = flag.Uint64("first", 0, "the seed to begin with")
	schedules = flag.Int64("schedules", 0, "run so many schedules, whatever time they take")
	runFor    = flag.Duration("for", 0, "run schedules for so long (default $PENSTOCK_SIM_FOR, or 20s)")
	traceFlag = flag.Bool("trace", false, "with -seed: print the trace and what the engines log")
)

func TestMain(m *testing.M) {
	debug.SetTraceback("all") // a panic in an engine shows the seed: the argument of run
	goleak.VerifyTestMain(m)
}

// simulate runs one schedule in a bubble of its own.
func simulate(t *testing.T, seed uint64, b bug, trace io.Writer) (out outcome) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if out.violation == nil {
				out.violation = fmt.Errorf("%v", r)
			}
		}
	}()
	synctest.Test(t, func(*testing.T) { out = run(seed, b, trace) })
	return out
}

// report says what happened, and how to see it again.
func report(t *testing.T, seed uint64, out outcome) {
	t.Helper()
	t.Errorf("seed %d: %v\n%s\nreplay: go test ./test/sim -run TestSchedules -v -args -seed=%d -trace",
		seed, out.violation, strings.Join(out.recent, ""), seed)
}

// each runs schedules on all processors until there are enough, or f says that it is enough.
func each(t *testing.T, first, n uint64, until time.Time, f func(t *testing.T, seed uint64) bool) (ran uint64) {
	var next atomic.Uint64
	var enough atomic.Bool
	t.Run("workers", func(t *testing.T) {
		for worker := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for !enough.Load() && (until.IsZero() || time.Now().Before(until)) {
					i := next.Add(1) - 1
					if n > 0 && i >= n {
						return
					}
					if !f(t, first+i) {
						enough.Store(true)
					}
				}
			})
		}
	})
	if n > 0 {
		return min(n, next.Load()) // a worker that finds nothing left has counted, too
	}
	return next.Load()
}

// TestSchedules: whatever happens, in whatever order, the promises hold.
func TestSchedules(t *testing.T) {
	if *seedFlag >= 0 {
		var trace io.Writer
		if *traceFlag {
			trace = os.Stdout
		}
		out := simulate(t, uint64(*seedFlag), bug{}, trace)
		t.Logf("hash %016x, %+v", out.hash, out.stats)
		if out.violation != nil {
			report(t, uint64(*seedFlag), out)
		}
		return
	}
	n, until := uint64(max(0, *schedules)), time.Time{} //nolint:gosec // not negative
	if n == 0 {
		d := *runFor
		if s := os.Getenv("PENSTOCK_SIM_FOR"); d == 0 && s != "" {
			var err error
			if d, err = time.ParseDuration(s); err != nil {
				t.Fatalf("PENSTOCK_SIM_FOR: %v", err)
			}
		}
		if d == 0 {
			d = 20 * time.Second
		}
		until = time.Now().Add(d)
	}
	var mu sync.Mutex
	var sum stats
	failed := 0
	began := time.Now()
	ran := each(t, *firstFlag, n, until, func(t *testing.T, seed uint64) bool {
		out := simulate(t, seed, bug{}, nil)
		mu.Lock()
		defer mu.Unlock()
		sum.add(out.stats)
		if out.violation != nil {
			report(t, seed, out)
			failed++
		}
		return failed < 3
	})
	if ran >= 100 && slices.Contains([]int{sum.Fenced, sum.Restores, sum.Kills, sum.Zombies, sum.LostAnswers, sum.Rewinds, sum.Dead, sum.Pauses}, 0) {
		t.Errorf("something never happened, and the schedules prove nothing of it: %+v", sum)
	}
	took := time.Since(began)
	t.Logf("%d schedules in %s (%.0f a minute): %+v", ran, took.Round(time.Millisecond), float64(ran)/took.Minutes(), sum)
}

// TestReplay: a seed makes the same schedule each time. Where one step wakes two
// goroutines of a lane they may still take turns in either order (which partition comes
// first in a batch): one schedule in hundreds, so a seed that differs has to come out
// the same in one of a few more runs.
func TestReplay(t *testing.T) {
	n, until := uint64(300), time.Now().Add(20*time.Second)
	if *schedules > 0 {
		n, until = uint64(*schedules), time.Time{}
	}
	ran := each(t, 1<<32, n, until, func(t *testing.T, seed uint64) bool {
		one, two := simulate(t, seed, bug{}, nil), simulate(t, seed, bug{}, nil)
		seen := []uint64{one.hash}
		for more := 0; more < 4 && !slices.Contains(seen, two.hash); more++ {
			seen = append(seen, two.hash)
			two = simulate(t, seed, bug{}, nil)
		}
		if !slices.Contains(seen, two.hash) {
			t.Errorf("seed %d: two runs differ:\n%s\n%s", seed, strings.Join(one.recent, ""), strings.Join(two.recent, ""))
			return false
		}
		return true
	})
	t.Logf("%d schedules, twice each", ran)
}
