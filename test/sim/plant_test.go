package sim

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bug is a bug that is planted in the world: in the part of a connector that
// keeps a promise of the design. Its seeds make other schedules.
type bug struct {
	// only is the guarantee with which it can show; drawn by the seed if 0.
	only guarantee

	anyOwner, anyOffset bool // the swap does not compare them
	claimSpares         bool // a claim leaves the predecessor's transaction alone
	positionFirst       bool // the position is durable before the data is
	positionForgotten   bool // now and then the data is durable and the position is not
	deadOutside         bool // dead letters are durable before the transaction is
	guess               bool // a commit whose answer is lost is taken for done
	seekIgnored         bool
	staleFetch          bool // a partition that comes back goes on with what was fetched before
	commitAhead         bool // the group is told what was delivered
}

type guarantee uint8

const (
	exactlyOnce guarantee = iota + 1
	atLeastOnce
)

// TestPlantedBugs: a promise that is not kept is found soon, or the simulation
// proves nothing.
func TestPlantedBugs(t *testing.T) {
	for name, b := range map[string]bug{
		"fence off":          {anyOwner: true, anyOffset: true, only: exactlyOnce},
		"zombie allowed":     {anyOwner: true, only: exactlyOnce},
		"rewind not noticed": {anyOffset: true, only: exactlyOnce},
		"predecessor's transaction outlives a claim": {claimSpares: true, only: exactlyOnce},
		"position before data":                       {positionFirst: true, only: exactlyOnce},
		"data without position":                      {positionForgotten: true, only: exactlyOnce},
		"dead letters outside of the transaction":    {deadOutside: true, only: exactlyOnce},
		"commit guessed as done, exactly once":       {guess: true, only: exactlyOnce},
		"commit guessed as done, at least once":      {guess: true, only: atLeastOnce},
		"seek ignored":                               {seekIgnored: true},
		"stale fetch after a partition comes back":   {staleFetch: true},
		"group told ahead of durability":             {commitAhead: true, only: atLeastOnce},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := atomic.Bool{}
			var once sync.Once
			began := time.Now()
			ran := each(t, 0, 0, began.Add(time.Minute), func(t *testing.T, seed uint64) bool {
				out := simulate(t, seed, b, nil)
				if out.violation == nil {
					return true
				}
				once.Do(func() { t.Logf("seed %d, step %d: %v", seed, out.stats.Steps, out.violation) })
				found.Store(true)
				return false
			})
			if !found.Load() {
				t.Errorf("not found in %d schedules", ran)
				return
			}
			t.Logf("found after %d schedules, %s", ran, time.Since(began).Round(time.Millisecond))
		})
	}
}
