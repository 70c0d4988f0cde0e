package flow

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBatchIsCutByCountBytesOrTime(t *testing.T) {
	at := (&BatchLimits{Records: 100, Bytes: 1000, Wait: 10 * time.Millisecond}).limits()
	for name, c := range map[string]struct {
		s     batchState
		ready bool
		again time.Duration
	}{
		"enough records":             {batchState{records: 100}, true, 0},
		"enough bytes":               {batchState{records: 1, bytes: 1000}, true, 0},
		"nothing more fits":          {batchState{records: 1, full: true, writerIdle: true}, true, 0},
		"full, but the writer busy":  {batchState{records: 1, full: true}, false, 0},
		"the flow stops":             {batchState{records: 1, draining: true}, true, 0},
		"writer busy: collect":       {batchState{records: 50, waited: time.Hour}, false, 0},
		"writer idle: wait":          {batchState{records: 50, writerIdle: true, waited: 4 * time.Millisecond}, false, 6 * time.Millisecond},
		"writer idle: waited enough": {batchState{records: 50, writerIdle: true, waited: 10 * time.Millisecond}, true, 0},
		"lagging: wait for more":     {batchState{records: 50, writerIdle: true, lagging: true, waited: 10 * time.Millisecond}, false, 190 * time.Millisecond},
		"lagging: waited enough":     {batchState{records: 50, writerIdle: true, lagging: true, waited: 200 * time.Millisecond}, true, 0},
		"a position alone":           {batchState{records: 0, writerIdle: true, waited: 10 * time.Millisecond}, true, 0},
	} {
		ready, again := at.ready(c.s)
		if ready != c.ready || again != c.again {
			t.Errorf("%s: ready %v, again in %s; want %v, %s", name, ready, again, c.ready, c.again)
		}
	}
}

func TestATargetThatIsAwayIsAskedEverySecond(t *testing.T) {
	r := Retry{Initial: 100 * time.Millisecond, Max: time.Minute}
	err := fmt.Errorf("writing: %w", Unreachable(errors.New("connection refused")))
	if ClassOf(err) != ClassTransient {
		t.Errorf("class %s", ClassOf(err))
	}
	for range 300 {
		if w := r.wait(50, err); w > time.Second {
			t.Fatalf("waits %s", w)
		}
	}
}

func TestRetryWaitsGrowWithFullJitterUpToTheMaximum(t *testing.T) {
	r := Retry{Initial: 100 * time.Millisecond, Max: 2 * time.Second}
	for n := 1; n < 100; n++ {
		limit := r.Max
		if n < 6 {
			limit = min(r.Max, r.Initial<<(n-1))
		}
		var longest time.Duration
		for range 300 {
			w := r.wait(n, nil)
			if w < 0 || w > limit {
				t.Fatalf("attempt %d waits %s, limit %s", n, w, limit)
			}
			longest = max(longest, w)
		}
		if longest < limit/2 {
			t.Fatalf("attempt %d never waits longer than %s of %s", n, longest, limit)
		}
	}
}

// A target that refuses bad rows, with or without naming them, ends with
// exactly the good rows written, each once and in order, in a bounded number of attempts.
func TestIsolationFindsExactlyTheBadRows(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rng.IntN(300)
		bad := map[int]bool{}
		for range rng.IntN(6) {
			bad[rng.IntN(n)] = true
		}
		names := rng.IntN(2) == 0
		rejected := map[int]bool{}
		var written []int
		s := newIsolation(0, n)
		attempts := 0
		for s.done < n {
			if attempts++; attempts > 10_000 {
				t.Fatalf("seed %d: no end", seed)
			}
			var rows []int
			culprit := -1
			for i := s.done; i < s.limit; i++ {
				if rejected[i] {
					continue
				}
				rows = append(rows, i)
				if bad[i] && culprit < 0 {
					culprit = i
				}
			}
			if culprit < 0 {
				written = append(written, rows...)
				s.written()
				continue
			}
			var named []int
			if names {
				named = []int{culprit}
			}
			for _, i := range s.refused(named, len(rows), rows[0]) {
				if !bad[i] {
					t.Fatalf("seed %d: row %d rejected, bad are %v", seed, i, bad)
				}
				rejected[i] = true
			}
		}
		var want []int
		for i := range n {
			if !bad[i] {
				want = append(want, i)
			}
		}
		if !slices.Equal(written, want) {
			t.Fatalf("seed %d: wrote %v, want %v", seed, written, want)
		}
		if limit := (len(bad) + 1) * (2*bits.Len(uint(n)) + 2); attempts > limit {
			t.Fatalf("seed %d: %d attempts for %d bad of %d rows, want at most %d", seed, attempts, len(bad), n, limit)
		}
	}
}

func TestStartPosition(t *testing.T) {
	p := Partition{"t", 3}
	info := PartitionInfo{Partition: p, TopicID: "id", Begin: 10, End: 100, Start: 100, Committed: -1}
	at := func(offset int64) *Checkpoint {
		return &Checkpoint{Position: Position{Partition: p, TopicID: "id", Offset: offset}, Owner: 1}
	}
	committed := info
	committed.Committed = 50
	gone := committed
	gone.Committed = 5
	for name, c := range map[string]struct {
		info   PartitionInfo
		c      *Checkpoint
		offset int64
		lost   bool
	}{
		"no checkpoint store: the configured start": {info: info, offset: 100},
		"no checkpoint store: the committed offset": {info: committed, offset: 50},
		"no checkpoint store: committed but gone":   {info: gone, lost: true},
		"stored":                          {info: info, c: at(42), offset: 42},
		"stored wins over committed":      {info: committed, c: at(42), offset: 42},
		"stored at the end":               {info: info, c: at(100), offset: 100},
		"stored beyond the end as it was": {info: info, c: at(101), offset: 101},
		"stored before the start":         {info: info, c: at(9), lost: true},
		"another topic of the same name":  {info: PartitionInfo{Partition: p, TopicID: "other", End: 100}, c: at(42), lost: true},
	} {
		pos, err := startPosition(c.info, c.c)
		if got := errors.As(err, new(*PositionLostError)); got != c.lost || err == nil && pos.Offset != c.offset {
			t.Errorf("%s: offset %d, %v; want %d, lost %v", name, pos.Offset, err, c.offset, c.lost)
		}
	}
}

// A target that writes only so many rows in time gets pieces that it can write.
func TestIsolationMakesPiecesThatEndInTime(t *testing.T) {
	for n := 1; n < 200; n++ {
		for can := 1; can < n; can += 7 {
			s := newIsolation(0, n)
			tries := 0
			for s.done < n {
				if tries++; tries > 500 {
					t.Fatalf("%d rows, %d in time: no end", n, can)
				}
				if s.limit-s.done > can {
					s.late()
				} else {
					s.written()
				}
			}
		}
	}
}

func TestABatchOfPositionsAloneStaysEmptyWhenItIsLate(t *testing.T) {
	iso := newIsolation(0, 0)
	iso.late()
	if iso.limit != 0 {
		t.Errorf("tries %d rows of a batch that has none", iso.limit)
	}
}

func TestAFetchIsMadeToFitTheBuffer(t *testing.T) {
	const most, buffer = 4 << 20, 32 << 20
	fits := most
	for _, ratio := range []int64{15, 15, 15, 2, 15} { // of what is delivered to what was fetched
		for range 40 {
			fits = fetchThatFits(fits, fits, most, int64(fits)*ratio, buffer)
		}
		want := min(most, int(buffer/4/ratio))
		if fits > want || fits < want*2/5 {
			t.Errorf("of records that are %d times as large as stored, %d bytes are fetched at a time; want about %d", ratio, fits, want)
		}
	}
	if n := fetchThatFits(most, most, most, 1<<50, buffer); n < 64<<10 {
		t.Errorf("%d bytes at a time cannot move a flow", n)
	}
}
