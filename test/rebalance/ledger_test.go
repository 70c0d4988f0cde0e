package rebalance

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// ledger is what all members have told.
type ledger struct {
	mu sync.Mutex // guards what follows
	// parts by partition.
	parts []history
	// changed is closed and replaced with every event.
	changed chan struct{}
}

// history is what was told of one partition.
type history struct {
	// owner is the member that has the partition, since when; empty for none.
	owner string
	since time.Time
	// writtenSince: its owner has written a batch since it was assigned.
	writtenSince bool
	events       []event
}

func newLedger(partitions int) *ledger {
	return &ledger{parts: make([]history, partitions), changed: make(chan struct{})}
}

// add takes an event. Those of different members may come out of order.
func (l *ledger) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.parts[e.Partition]
	h.events = append(h.events, e)
	switch {
	case e.Kind == assigned && !e.At.Before(h.since):
		h.owner, h.since, h.writtenSince = e.Member, e.At, false
	case e.Kind == revoked && e.Member == h.owner && !e.At.Before(h.since):
		h.owner, h.since, h.writtenSince = "", e.At, false
	case e.Kind == written && e.Member == h.owner && e.At.After(h.since):
		h.writtenSince = true
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// owners are those of all partitions, with whether the members share them
// evenly and each partition has had a batch from its owner.
func (l *ledger) owners(members []string) (owners []string, settled bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	for _, m := range members {
		counts[m] = 0
	}
	settled = true
	for i := range l.parts {
		h := &l.parts[i]
		owners = append(owners, h.owner)
		settled = settled && h.writtenSince && slices.Contains(members, h.owner)
		counts[h.owner]++
	}
	shares := slices.Collect(maps.Values(counts))
	return owners, settled && slices.Max(shares)-slices.Min(shares) <= 1, l.changed
}

// of are all events of a partition in order of time.
func (l *ledger) of(partition int) []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := slices.Clone(l.parts[partition].events)
	slices.SortStableFunc(events, func(a, b event) int { return a.At.Compare(b.At) })
	return events
}
