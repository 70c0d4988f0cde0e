package flowtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// checkingIntake is an Intake that verifies what the contract asks of a
// source, and keeps what was delivered.
type checkingIntake struct {
	// startAt says where to start; default PartitionInfo.Start. Set before Subscribe.
	startAt func(flow.PartitionInfo) int64
	// onAssigned, if set, runs within Assigned.
	onAssigned func(context.Context)
	// shared, if set, is the owners and positions of all sources of a group.
	shared *handover

	mu         sync.Mutex
	wrong      []error
	reading    bool
	delivering bool
	calls      int // Assigned and Revoked under way
	closed     bool
	owned      map[flow.Partition]*ownedPartition
	got        map[flow.Partition][]flow.Record // copies
	views      []view
	n          int
	assigned   int // calls of Assigned that have returned
}

type ownedPartition struct {
	life    context.Context // of the assignment
	topicID string
	next    int64 // -1: must not be read
}

// view is a record as it was delivered, and what it was then: it must not
// change while the intake owns it.
type view struct {
	delivered []flow.Record
	copies    []flow.Record
}

// handover is what the intakes of a group have in common: the checkpoint.
type handover struct {
	mu    sync.Mutex
	owner map[flow.Partition]*checkingIntake
	next  map[flow.Partition]int64
}

func newHandover() *handover {
	return &handover{owner: map[flow.Partition]*checkingIntake{}, next: map[flow.Partition]int64{}}
}

func newCheckingIntake() *checkingIntake {
	return &checkingIntake{owned: map[flow.Partition]*ownedPartition{}, got: map[flow.Partition][]flow.Record{}}
}

// fault notes a breach of the contract. The lock is held.
func (in *checkingIntake) fault(format string, args ...any) {
	if len(in.wrong) < 10 {
		in.wrong = append(in.wrong, fmt.Errorf(format, args...))
	}
}

// broken returns the breaches so far.
func (in *checkingIntake) broken() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, v := range in.views {
		for i := range v.copies {
			if diff := DiffRecord(&v.copies[i], &v.delivered[i]); diff != "" {
				in.fault("a delivered record at offset %d has changed afterwards: %s", v.copies[i].Offset, diff)
			}
		}
	}
	return errors.Join(in.wrong...)
}

// reads says whether Read is under way.
func (in *checkingIntake) reads(now bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.reading = now
}

// enter begins Assigned or Revoked.
func (in *checkingIntake) enter(what string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.delivering {
		in.fault("%s was called during Deliver", what)
	}
	in.calls++
}

func (in *checkingIntake) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.calls--
}

// Assigned implements flow.Intake.
func (in *checkingIntake) Assigned(ctx context.Context, infos []flow.PartitionInfo) ([]flow.Position, error) {
	in.enter("Assigned")
	defer in.leave()
	if in.onAssigned != nil {
		in.onAssigned(ctx)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	out := make([]flow.Position, len(infos))
	for i, info := range infos {
		// An assignment whose context has ended may be repeated.
		if o := in.owned[info.Partition]; o != nil && o.life.Err() == nil {
			in.fault("%s was assigned twice", info.Partition)
		}
		if info.Begin > info.End || info.Start < 0 {
			in.fault("%s: begin %d, end %d, start %d", info.Partition, info.Begin, info.End, info.Start)
		}
		at := info.Start
		if in.startAt != nil {
			at = in.startAt(info)
		}
		if in.shared != nil {
			at = in.shared.take(in, info.Partition, at)
		}
		in.owned[info.Partition] = &ownedPartition{life: ctx, topicID: info.TopicID, next: at}
		out[i] = flow.Position{Partition: info.Partition, TopicID: info.TopicID, Offset: at, LeaderEpoch: -1}
	}
	in.assigned++
	return out, nil
}

// Revoked implements flow.Intake.
func (in *checkingIntake) Revoked(_ context.Context, ps []flow.Partition, lost bool) {
	in.enter("Revoked")
	defer in.leave()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range ps {
		o := in.owned[p]
		if o == nil {
			in.fault("%s was revoked and is not assigned", p)
			continue
		}
		delete(in.owned, p)
		if in.shared != nil {
			in.shared.give(in, p, o.next)
		}
	}
	_ = lost // what is lost is treated in the same way: nothing is in flight here
}

func (h *handover) take(in *checkingIntake, p flow.Partition, at int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.owner[p]; other != nil && other != in {
		in.fault("%s was assigned while another member of the group has not given it up", p)
	}
	h.owner[p] = in
	if next, ok := h.next[p]; ok {
		return next
	}
	return at
}

func (h *handover) give(in *checkingIntake, p flow.Partition, next int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owner[p] == in {
		delete(h.owner, p)
		h.next[p] = next
	}
}

// Buffer implements flow.Intake.
func (in *checkingIntake) Buffer(n int) []flow.Record { return make([]flow.Record, 0, n) }

// Deliver implements flow.Intake.
func (in *checkingIntake) Deliver(f flow.Fetch) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closed:
		in.fault("%s was delivered after Close", f.Partition)
	case !in.reading:
		in.fault("%s was delivered outside of Read", f.Partition)
	case in.delivering:
		in.fault("Deliver was called during Deliver")
	case in.calls > 0:
		in.fault("%s was delivered during Assigned or Revoked", f.Partition)
	}
	in.delivering = true
	defer func() { in.delivering = false }()
	in.mu.Unlock()
	runtime.Gosched() // so that an Assigned or Revoked at the same time is seen
	in.mu.Lock()

	o := in.owned[f.Partition]
	if o == nil {
		in.fault("%s was delivered and is not assigned", f.Partition)
		return
	}
	if o.next < 0 {
		in.fault("%s was delivered though its position could not be had", f.Partition)
		return
	}
	if f.TopicID != o.topicID {
		in.fault("%s was assigned with topic id %q and delivered with %q", f.Partition, o.topicID, f.TopicID)
	}
	var copies []flow.Record
	for i := range f.Records {
		r := &f.Records[i]
		if r.Offset < o.next {
			in.fault("%s: offset %d was delivered where %d or higher comes next", f.Partition, r.Offset, o.next)
		}
		o.next = r.Offset + 1
		copies = append(copies, CloneRecord(r))
	}
	if f.Next < o.next {
		in.fault("%s: Next is %d after offset %d", f.Partition, f.Next, o.next-1)
	}
	if f.End < f.Next {
		in.fault("%s: End is %d, before Next %d", f.Partition, f.End, f.Next)
	}
	o.next = max(o.next, f.Next)
	in.n += len(copies)
	in.got[f.Partition] = append(in.got[f.Partition], copies...)
	in.views = append(in.views, view{slices.Clone(f.Records), copies})
}

// moved tells the intake of a Seek; what was delivered before is forgotten.
func (in *checkingIntake) moved(p flow.Partition, offset int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.owned[p].next = offset
	in.n -= len(in.got[p])
	in.got[p] = nil
}

func (in *checkingIntake) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// count is how many records were delivered.
func (in *checkingIntake) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.n
}

// records returns what was delivered of a partition.
func (in *checkingIntake) records(p flow.Partition) []flow.Record {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.got[p])
}

// next returns the position after what was delivered; -1 if p is not assigned.
func (in *checkingIntake) next(p flow.Partition) int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if o := in.owned[p]; o != nil {
		return o.next
	}
	return -1
}

// ownedNow lists what is assigned.
func (in *checkingIntake) ownedNow() []flow.Partition {
	in.mu.Lock()
	defer in.mu.Unlock()
	var ps []flow.Partition
	for p := range in.owned {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, comparePartitions)
	return ps
}

func (in *checkingIntake) String() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var parts []string
	for p, o := range in.owned {
		parts = append(parts, fmt.Sprintf("%s: %d records, next %d", p, len(in.got[p]), o.next))
	}
	slices.Sort(parts)
	if len(parts) == 0 {
		return "nothing is assigned"
	}
	return strings.Join(parts, "; ")
}
