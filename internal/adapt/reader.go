package adapt

import "time"

// FetchLimits bound what a Reader may choose, in bytes. The zero value of a
// field is its default; a maximum that is below its minimum counts as equal to it.
type FetchLimits struct {
	// Min is what a flow that keeps up asks for, default 1 MiB; Max bounds what
	// a flow that lags asks for, default 16 MiB. The client holds up to two
	// answers of every broker, so Max is to fit the flow's memory.
	Min, Max int
	// First is where a flow starts, and what it goes back to at once when it falls
	// behind; default 4 MiB.
	First int
}

// ReadSample describes one Read of the source that delivered something.
type ReadSample struct {
	// Read is how long the source took to deliver. Full is how long the lanes
	// had held the reader up before.
	Read, Full time.Duration
	// Records and Bytes that were delivered, all partitions together.
	Records int
	Bytes   int64
	// Lag is how many records the log holds beyond them.
	Lag int64
}

const (
	// calm is after how many reads without lag the size is halved.
	calm = 16
	// trial is over how many reads the rate is measured before and after a
	// doubling beyond First, and hold for how many reads one that was not worth
	// it is not tried again.
	trial = 8
	hold  = 64
	// worth is the factor by which the rate must grow to keep a doubling.
	worth = 1.1
	// free is the share of its time that the reader must have been reading, not
	// held up by the lanes, for it to be what limits the flow.
	free = 0.8
)

// Reader steers how much one fetch asks for. Not safe for concurrent use.
type Reader struct {
	limits FetchLimits
	size   int
	calm   int // reads in a row without lag
	hold   int // reads until a doubling is tried again

	// The measurement that is under way, of size.
	reads      int
	bytes      float64
	read, full float64 // seconds
	before     float64 // rate before the doubling on trial; 0: none is
}

// NewReader returns the controller of a flow's reader.
func NewReader(l FetchLimits) *Reader {
	for _, d := range []struct {
		v   *int
		def int
	}{{&l.Min, 1 << 20}, {&l.Max, 16 << 20}, {&l.First, 4 << 20}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	l.Max = max(l.Max, l.Min)
	l.First = min(max(l.First, l.Min), l.Max)
	return &Reader{limits: l, size: l.First}
}

// Bytes is what one fetch should ask for.
func (r *Reader) Bytes() int { return r.size }

// Observe learns from a Read and returns what a fetch should ask for from now on.
func (r *Reader) Observe(s ReadSample) int {
	// Behind means that another whole answer waits.
	behind := s.Records > 0 && float64(s.Lag)*float64(max(0, s.Bytes))/float64(s.Records) >= float64(r.size)
	switch {
	case !behind:
		r.restart()
		r.before = 0
		if r.calm++; r.calm == calm {
			r.calm = 0
			r.size = max(r.limits.Min, r.size/2)
		}
		return r.size
	case r.size < r.limits.First:
		r.calm = 0
		r.size = min(2*r.size, r.limits.First)
		r.restart()
		return r.size
	}
	r.calm = 0
	r.hold = max(0, r.hold-1)
	r.reads++
	if r.reads <= 0 { // answers to what was asked for before
		return r.size
	}
	r.bytes += float64(max(0, s.Bytes))
	r.read += seconds01(s.Read)
	r.full += seconds01(s.Full)
	if r.reads == trial {
		r.decide()
	}
	return r.size
}

// decide ends a measurement.
func (r *Reader) decide() {
	limits := r.read >= free*(r.read+r.full) && r.read > 0
	rate := 0.0
	if limits {
		rate = r.bytes / r.read
	}
	trialled := r.before
	r.restart()
	r.before = 0
	switch {
	case !limits:
	case trialled > 0 && rate < worth*trialled:
		r.size = max(r.limits.First, r.size/2)
		r.hold = hold
	case r.hold == 0 && r.size < r.limits.Max:
		r.size = min(r.limits.Max, 2*r.size)
		r.before = rate
	}
}

// restart begins a measurement. Two answers of the size before may be under way.
func (r *Reader) restart() {
	r.reads, r.bytes, r.read, r.full = -2, 0, 0, 0
}

func seconds01(d time.Duration) float64 { return min(max(d, 0), time.Minute).Seconds() }
