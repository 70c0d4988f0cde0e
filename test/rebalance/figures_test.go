package rebalance

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// figures are how long partitions waited for their next batch.
type figures struct {
	// gaps are those between two batches of a partition that stays, largest the
	// largest of each partition in each window.
	gaps, largest []time.Duration
	// fromRevoke and fromAssign are the pauses of partitions that move, from the moment
	// when the old owner, or the new one, was told to the first batch of the new
	// one. Nobody tells a member that was killed.
	fromRevoke, fromAssign []time.Duration
}

// figures are those of all changes of the kind; of all kinds with none.
func (g *group) figures(kinds ...string) *figures {
	f := &figures{}
	for p := range partitions {
		events := g.ledger.of(p)
		for i := range g.windows {
			w := &g.windows[i]
			switch {
			case len(kinds) > 0 && !slices.Contains(kinds, w.what):
			case w.before[p] == w.after[p]:
				f.staying(g.load, w, p, events)
			default:
				f.moving(w, p, events)
			}
		}
	}
	return f
}

// staying adds the gaps between batches of which one at least is in the window.
// A gap is the time for which a record was there to be written and none was: the
// time until the next record was produced is not a part of it.
func (f *figures) staying(l *load, w *window, p int, events []event) {
	var before time.Time
	var largest time.Duration
	for _, e := range events {
		if e.Kind != written || e.Member != w.after[p] {
			continue
		}
		if !before.IsZero() && e.At.After(w.from) && before.Before(w.to) {
			began := before
			if acked := l.ackedAt(p, e.From); acked.After(began) {
				began = acked
			}
			gap := max(0, e.At.Sub(began))
			f.gaps = append(f.gaps, gap)
			largest = max(largest, gap)
		}
		before = e.At
	}
	f.largest = append(f.largest, largest)
}

// moving adds the pause of a partition that has another owner after the window.
func (f *figures) moving(w *window, p int, events []event) {
	var told, gone time.Time
	for _, e := range events {
		switch {
		case e.At.Before(w.from):
		case e.Kind == revoked && e.Member == w.before[p]:
			gone = e.At
		case e.Kind == assigned && e.Member == w.after[p]:
			told = e.At
		case e.Kind == written && e.Member == w.after[p] && !told.IsZero():
			f.fromAssign = append(f.fromAssign, e.At.Sub(told))
			if !gone.IsZero() {
				f.fromRevoke = append(f.fromRevoke, e.At.Sub(gone))
			}
			return
		}
	}
}

func (f *figures) String() string {
	var s strings.Builder
	for _, line := range []struct {
		name string
		of   []time.Duration
	}{
		{"stays: gap between two batches", f.gaps},
		{"stays: largest of a partition and change", f.largest},
		{"moves: from revoke to the first batch", f.fromRevoke},
		{"moves: from assignment to the first batch", f.fromAssign},
	} {
		if len(line.of) > 0 {
			fmt.Fprintf(&s, "\n    %-42s p50 %8s  p99 %8s  max %8s  of %d", line.name,
				round(percentile(line.of, 50)), round(percentile(line.of, 99)), round(percentile(line.of, 100)), len(line.of))
		}
	}
	return s.String()
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// percentile is the value that so many of a hundred do not exceed.
func percentile(ds []time.Duration, percent int) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}
