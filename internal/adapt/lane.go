package adapt

import (
	"math"
	"time"
)

// Limits bound what a Lane may choose. The zero value of a field is its
// default; a maximum that is below its minimum counts as equal to it.
type Limits struct {
	// MinRecords and MaxRecords bound the records of a batch; default 500 and
	// 200,000. What a batch may cost in memory is bounded by the engine, in bytes.
	MinRecords, MaxRecords int
	// FirstRecords is the limit before anything is known; default 20,000.
	FirstRecords int
	// MaxLinger bounds Settings.Linger, default 5 ms; MaxLagLinger bounds
	// Settings.LagLinger, default 100 ms.
	MaxLinger, MaxLagLinger time.Duration
	// MaxWrite is how long writing a full batch should take at most; default
	// 2 s. It must be well below what the engine grants a write, and a revoked
	// partition.
	MaxWrite time.Duration
}

// Sample describes a batch that became durable.
type Sample struct {
	// Records in the batch. One without records (positions alone) teaches nothing.
	Records int
	// Starved is how long the writer was idle with nothing queued before the
	// batch's first record came; 0 if the record came earlier.
	Starved time.Duration
	// Write is the time from the call of Write to its return, for one attempt
	// that succeeded. 0 leaves the batch out of the estimate: retried, or isolated.
	Write time.Duration
	// Full says that the batch was cut because the lane could hold no more, and
	// not because it had enough records or bytes, or had waited enough.
	Full bool
}

// Settings are what a lane goes by until the next batch has been written.
type Settings struct {
	// Records is when a batch is full.
	Records int
	// Linger is how old the oldest record of a batch that is not full may grow
	// while the writer is idle and the flow keeps up.
	Linger time.Duration
	// LagLinger is the same while the log holds more than a full batch: it will
	// be filled soon.
	LagLinger time.Duration
}

const (
	// overhead is ε: the share of a lane's time that fixed costs may take while
	// it lags.
	overhead = 0.025
	// share is U: the same while it keeps up.
	share = 0.5
	// optimism is how far above the estimate n* may lie where a/b is in doubt.
	optimism = 2
	// ignorance is the standard deviation of a, as a share of a+b·n, above
	// which another size is worth a try; not less than half the scatter of t, or
	// there would be no end to it.
	ignorance = 0.1
	// deadBand is the factor by which what is wanted must differ from what is
	// set, and step the most by which Records changes at once.
	deadBand = 1.2
	step     = 2
	// delay is how many batches it takes until one is observed that was cut with
	// the limit that was set last: one is being prepared, one was.
	delay = 3
	// lingerBand is the difference below which a linger is left alone, beside the dead band.
	lingerBand = 50 * time.Microsecond
	// The ceiling rises with each batch that was not cut for want of memory:
	// slowly at first, because what fits changes seldom and finding out costs
	// some batches that cannot be prepared in time; then ever faster, as in TCP
	// CUBIC, because records may have become smaller by a lot.
	relax, relaxMost, relaxAfter = 0.001, 0.1, 32
	// mostRecords is more than any batch holds.
	mostRecords = 1 << 30
	// gapMemory is over how many batches Starved is averaged.
	gapMemory = 16
)

// Lane steers one lane. Not safe for concurrent use.
type Lane struct {
	limits Limits
	cost   cost
	gap    float64 // mean of Starved in seconds; negative before the first
	// ceiling is what the lane's memory allows: batches that are cut because the
	// lane is full alternate in size, and the next one cannot be prepared while
	// the larger is written. last is the size of the last batch.
	ceiling, last float64
	fitted        int // batches since the ceiling was found
	wait          int // batches until Records may change again
	now           Settings
}

// NewLane returns the controller of one lane.
func NewLane(l Limits) *Lane {
	def(&l.MinRecords, 500)
	def(&l.MaxRecords, 200_000)
	def(&l.FirstRecords, 20_000)
	def(&l.MaxLinger, 5*time.Millisecond)
	def(&l.MaxLagLinger, 100*time.Millisecond)
	def(&l.MaxWrite, 2*time.Second)
	l.MaxRecords = max(l.MaxRecords, l.MinRecords)
	l.MaxLagLinger = max(l.MaxLagLinger, l.MaxLinger)
	c := &Lane{limits: l, cost: newCost(), gap: -1}
	c.now = Settings{Records: min(max(l.FirstRecords, l.MinRecords), l.MaxRecords)}
	c.ceiling, c.last = float64(l.MaxRecords), float64(c.now.Records)
	c.linger()
	return c
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Settings returns what the last Observe returned.
func (c *Lane) Settings() Settings { return c.now }

// Cost returns the estimate: the time that a transaction takes however small
// it is, and what each record adds.
func (c *Lane) Cost() (fixed, record time.Duration) {
	return seconds(c.cost.a), seconds(c.cost.b)
}

// Observe learns from a batch that became durable and returns what to go by from now on.
func (c *Lane) Observe(s Sample) Settings {
	if s.Records <= 0 {
		return c.now
	}
	starved := min(max(s.Starved, 0), time.Minute).Seconds()
	if c.gap < 0 {
		c.gap = starved
	}
	c.gap += (starved - c.gap) / gapMemory
	if s.Write > 0 {
		n := min(s.Records, mostRecords)
		c.cost.observe(float64(n), min(s.Write, time.Hour).Seconds())
		c.records(n, s.Full)
	}
	c.linger()
	return c.now
}

// records sets the limit of a batch, after one of n records.
func (c *Lane) records(n int, full bool) {
	a, b := c.cost.a, c.cost.b
	now := float64(c.now.Records)
	want := (1 - overhead) / overhead * a / b * min(optimism, 1+c.cost.fixedSpread()/a)
	want = min(want, (c.limits.MaxWrite.Seconds()-a)/b)
	if full {
		c.ceiling, c.fitted = (c.last+float64(n))/2, 0
	} else {
		c.fitted++
		k := float64(c.fitted) / relaxAfter
		c.ceiling = min(c.ceiling*(1+min(relax*(1+k*k), relaxMost)), float64(c.limits.MaxRecords))
	}
	c.last = float64(n)
	ignorant := c.cost.fixedSpread() > max(ignorance, math.Sqrt(c.cost.noise)/2)*(a+b*float64(n))
	switch {
	case ignorant && (full || n >= c.now.Records && want < now*deadBand):
		// From batches of one size nothing can be learnt of a alone: try another.
		if want = float64(n) / step; want < float64(c.limits.MinRecords) {
			want = float64(n) * step
		}
	case n < c.now.Records:
		want = min(want, now, c.ceiling) // the limit did not bind: raising it means nothing
	default:
		want = min(want, c.ceiling)
	}
	want = min(max(want, float64(c.limits.MinRecords), now/step), float64(c.limits.MaxRecords), now*step)
	if c.wait = max(0, c.wait-1); c.wait > 0 {
		return
	}
	limit := int(want)
	if want > now*deadBand || want < now/deadBand || limit != c.now.Records && (limit == c.limits.MinRecords || limit == c.limits.MaxRecords) {
		c.now.Records = limit
		c.wait = delay
	}
}

// linger sets how long a batch is collected.
func (c *Lane) linger() {
	a := c.cost.a
	enough := a * (1 - share) / share
	keep := 0.0
	if c.gap < enough {
		keep = a / share * (1 - max(0, c.gap)/enough)
	}
	settle(&c.now.Linger, min(seconds(keep), c.limits.MaxLinger))
	settle(&c.now.LagLinger, min(max(seconds(a/overhead), c.now.Linger), c.limits.MaxLagLinger))
}

// settle moves v to want unless it is near enough. Zero is always taken: then
// nothing is to be waited for.
func settle(v *time.Duration, want time.Duration) {
	low, high := float64(*v)/deadBand, float64(*v)*deadBand
	if want == 0 || (float64(want) < low || float64(want) > high) && (want-*v).Abs() > lingerBand {
		*v = want
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, time.Hour.Seconds()) * float64(time.Second))
}
