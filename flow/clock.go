package flow

import (
	"sync"
	"time"

	"github.com/penstockdev/penstock/internal/failpoint"
)

// clock is the time of day for what is shown (lag in seconds, the last commit);
// nothing is decided by it. The machine's clock may be set while the flow runs: a jump
// is taken over when it has lasted, so that one that is taken back at once is not
// seen.
type clock struct {
	mu     sync.Mutex
	day    time.Time // what the clock showed at since
	since  time.Time // by the monotonic clock
	jumped time.Time // since when the machine's clock has shown another time; zero: it does not
}

const (
	// slew is how far the machine's clock may be from ours without being a jump.
	slew = time.Second
	// settled is how long a jump must last.
	settled = time.Minute
)

func (c *clock) now() time.Time { return c.read(failpoint.WallClock(), time.Now()) }

// read takes what the machine's clock shows, and the monotonic time.
func (c *clock) read(machine, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	expected := c.day.Add(now.Sub(c.since))
	switch {
	case c.since.IsZero(), machine.Sub(expected).Abs() <= slew, !c.jumped.IsZero() && now.Sub(c.jumped) >= settled:
		c.day, c.since, c.jumped = machine.Round(0), now, time.Time{}
		return c.day
	case c.jumped.IsZero():
		c.jumped = now
	}
	return expected
}
