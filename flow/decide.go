package flow

import (
	"errors"
	"math/rand/v2"
	"time"
)

// This file holds what the engine decides, without clock, lock or network.

// batchState is what a lane knows when it asks whether to cut a batch.
type batchState struct {
	records int
	bytes   int64
	// waited is the age of the oldest record or position in the queue.
	waited time.Duration
	// writerIdle: nothing would be gained by collecting more while waiting.
	writerIdle bool
	// lagging: more records than one batch holds are known to be in the log.
	lagging bool
	// full: the lane takes no more, so waiting cannot fill the batch.
	full bool
	// draining: the flow stops; nothing more will come.
	draining bool
}

// lagPatience is how many times Wait a lane waits for a full batch while the
// flow lags: small transactions cost the database more per row, and a reader
// that is behind will fill the batch soon.
const lagPatience = 20

// limits are what a lane cuts by now.
type limits struct {
	records int
	bytes   int64
	// linger is how old the first record of a batch that is not full may grow
	// while the writer is idle, lagLinger the same while the flow lags.
	linger, lagLinger time.Duration
}

func (l *BatchLimits) limits() limits {
	return limits{records: l.Records, bytes: l.Bytes, linger: l.Wait, lagLinger: lagPatience * l.Wait}
}

// full says that no more records are to be waited for.
func (l *limits) full(s batchState) bool { return s.records >= l.records || s.bytes >= l.bytes }

// ready says whether to cut a batch now and, if not, after what time to ask
// again (0: only when something changes).
func (l *limits) ready(s batchState) (bool, time.Duration) {
	switch {
	case l.full(s), s.draining:
		return true, 0
	case !s.writerIdle:
		return false, 0 // collects until the writer asks: more batches would only be smaller
	case s.full && s.records > 0:
		return true, 0
	}
	patience := l.linger
	if s.lagging {
		patience = l.lagLinger
	}
	if s.waited >= patience {
		return true, 0
	}
	return false, patience - s.waited
}

// fetchThatFits bounds what a source asks for at a time, so that what arrives is a
// quarter of the buffer at most: it is counted as stored, and may be many times as large when
// it is decompressed. fits is the bound so far and asked what was asked for; delivered bytes
// came of it.
func fetchThatFits(fits, asked, most int, delivered, buffer int64) int {
	const least = 64 << 10
	share := buffer / 4
	switch {
	case delivered > share:
		return max(least, int(float64(asked)*float64(share)/float64(delivered)))
	case fits < most && delivered < share/2:
		return min(most, fits+fits/8+1)
	}
	return fits
}

// knockEvery bounds the wait while the target is unreachable: the flow goes on
// soon after it is back, however long it was away.
const knockEvery = time.Second

// wait is the pause before attempt n (n = 1 is the first retry) after err:
// exponential with full jitter, so that many lanes that fail together do not come
// back together.
func (r Retry) wait(n int, err error) time.Duration {
	limit := r.Max
	if n <= 20 {
		limit = min(limit, r.Initial<<(n-1))
	}
	if _, ok := errors.AsType[*unreachable](err); ok {
		limit = min(limit, knockEvery)
	}
	return time.Duration(rand.Int64N(int64(limit) + 1)) //nolint:gosec // jitter, not a secret
}

// isolation finds the records at fault in a batch that a target refuses.
//
// It works on row indices: done rows have been written, rows up to limit are
// tried next, and the fault is known to lie below suspect (0: no fault known).
// The target names the rows (rejected at once) or not (halved until one row is
// left: at most log2(rows)+1 attempts for each bad record).
//
// A target that does not finish in time gets smaller pieces: most bounds them (0: no bound).
type isolation struct {
	done, limit, suspect, end int
	faults, most              int
}

func newIsolation(lo, hi int) isolation { return isolation{done: lo, limit: hi, end: hi} }

// written: the rows up to limit are durable.
func (s *isolation) written() {
	s.done = s.limit
	switch {
	case s.done >= s.suspect:
		s.suspect, s.limit = 0, s.end
		if s.most > 0 {
			s.limit = min(s.end, s.done+s.most)
		}
	default:
		s.limit = s.done + max(1, (s.suspect-s.done)/2)
	}
}

// late: the attempt on the rows up to limit did not end in time.
func (s *isolation) late() {
	s.most = max(1, (s.limit-s.done)/2)
	s.limit = min(s.end, s.done+s.most) // a batch of positions alone has no rows
}

// refused: the attempt on the rows up to limit failed for the data. rows are
// those that the target named, writable the number of rows that were tried and
// first one of them. It returns the rows to reject now.
func (s *isolation) refused(rows []int, writable, first int) []int {
	s.faults++
	switch {
	case len(rows) > 0:
		// The first time, everything is tried again without the bad row. With
		// more faults the good rows before the fault are written first, else
		// many bad rows would have them sent again and again.
		s.suspect = 0
		if s.faults > 1 {
			s.limit = min(s.limit, rows[len(rows)-1]+1)
		}
		return rows
	case writable <= 1:
		s.suspect = 0
		return []int{first}
	default:
		s.suspect = s.limit
		s.limit = s.done + max(1, (s.limit-s.done)/2)
		return nil
	}
}

// startPosition decides where an assigned partition is read from. c is what the
// sink's checkpoint holds, or nil for a sink without checkpoints.
func startPosition(info PartitionInfo, c *Checkpoint) (Position, error) {
	pos := Position{Partition: info.Partition, TopicID: info.TopicID, LeaderEpoch: -1}
	switch {
	case c != nil:
		pos = c.Position
	case info.Committed >= 0:
		pos.Offset, pos.LeaderEpoch = info.Committed, info.LeaderEpoch
	default:
		pos.Offset = info.Start
	}
	if pos.TopicID != "" && info.TopicID != "" && pos.TopicID != info.TopicID {
		return pos, &PositionLostError{Position: pos, Begin: info.Begin, End: info.End, TopicIDNow: info.TopicID}
	}
	// A position beyond the end is for the source to find: a predecessor may
	// have moved it there after info was asked for.
	if pos.Offset < info.Begin {
		return pos, &PositionLostError{Position: pos, Begin: info.Begin, End: info.End}
	}
	return pos, nil
}
