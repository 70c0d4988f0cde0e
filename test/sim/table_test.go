package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/penstockdev/penstock/flow"
)

// table is a transactional table whose every step is one of the scheduler's. It
// is not flowtest.Table because that does a whole Write at a time, and because
// bugs are planted in this one.
type table struct {
	w           *world
	registered  bool
	checkpoints map[flow.Partition]*checkpoint
	parts       []*stored // by partition
	letters     map[row]bool
	open        []*tx
	snapshots   []snapshot
}

// checkpoint is a row of the checkpoint table.
type checkpoint struct {
	flow.Checkpoint
	lock *tx
}

// stored is what is durable of a partition, in the order of insertion.
type stored struct {
	rows, dead []int64
	// next is the position, furthest the highest that it ever was.
	next, furthest int64
	dirty          bool
}

// row names a record.
type row struct {
	id     int32
	offset int64
}

type snapshot struct {
	checkpoints map[flow.Partition]flow.Checkpoint
	parts       []stored
}

// tx is an open transaction: it holds the locks of the checkpoints that it moves.
type tx struct {
	proc       *process
	lane       int
	parts      []flow.Part
	rows, dead []row
	ended      bool
	committed  bool
	// abandoned: the client is gone, or believes so. committing: its COMMIT is
	// on its way all the same.
	abandoned, committing bool
}

func newTable(w *world) *table {
	return &table{w: w, checkpoints: map[flow.Partition]*checkpoint{}, letters: map[row]bool{}}
}

func (t *table) part(id int32) *stored {
	for int(id) >= len(t.parts) {
		t.parts = append(t.parts, &stored{})
	}
	return t.parts[id]
}

func (t *table) insert(ps []flow.Position) {
	for _, p := range ps {
		if t.checkpoints[p.Partition] == nil {
			t.checkpoints[p.Partition] = &checkpoint{Checkpoint: flow.Checkpoint{Position: p}}
		}
	}
}

func (t *table) read(ps []flow.Partition) []flow.Checkpoint {
	out := make([]flow.Checkpoint, len(ps))
	for i, p := range ps {
		out[i] = flow.Checkpoint{Position: flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}}
		if c := t.checkpoints[p]; c != nil {
			out[i] = c.Checkpoint
		}
	}
	return out
}

// claim takes partitions over. Whoever holds a row is ended.
func (t *table) claim(ps []flow.Partition) []flow.Checkpoint {
	for _, p := range ps {
		if c := t.checkpoints[p]; c != nil {
			if c.lock != nil && !t.w.bug.claimSpares {
				t.w.say("claim of %s ends a transaction of %s", p, c.lock.proc)
				t.rollback(c.lock)
			}
			c.Owner++
		}
	}
	return t.read(ps)
}

// locked says whether another transaction holds a row of the parts.
func (t *table) locked(parts []flow.Part) bool {
	return slices.ContainsFunc(parts, func(p flow.Part) bool {
		c := t.checkpoints[p.Partition]
		return c != nil && c.lock != nil
	})
}

// swap compares position and owner of all parts and locks their rows.
func (t *table) swap(x *tx) error {
	bug := &t.w.bug
	var wrong []flow.Partition
	for _, p := range x.parts {
		c := t.checkpoints[p.Partition]
		if c == nil || c.Owner != p.Owner && !bug.anyOwner || c.Offset != p.From && !bug.anyOffset {
			wrong = append(wrong, p.Partition)
		}
	}
	if len(wrong) > 0 {
		t.w.stats.Fenced++
		return &flow.FencedError{Partitions: wrong}
	}
	for _, p := range x.parts {
		t.checkpoints[p.Partition].lock = x
	}
	t.open = append(t.open, x)
	if bug.positionFirst {
		t.move(x)
	}
	return nil
}

// move makes the positions durable.
func (t *table) move(x *tx) {
	for _, p := range x.parts {
		c, s := t.checkpoints[p.Partition], t.part(p.ID)
		if c.Owner != p.Owner {
			t.w.violate("%s moved the position of %s, which has been taken over (owner epoch %d, now %d)", x.proc, p.Partition, p.Owner, c.Owner)
		}
		// After a restore an earlier life of the partition may have its epoch back.
		if x.proc.source.givenUp[p.Partition] && !x.abandoned && t.w.stats.Restores == 0 {
			t.w.violate("%s moved the position of %s after it has given it up", x.proc, p.Partition)
		}
		if p.Next < s.next {
			t.w.violate("%s moved the position of %s back from %d to %d", x.proc, p.Partition, s.next, p.Next)
		}
		c.Offset, c.TopicID, c.LeaderEpoch = p.Next, p.TopicID, p.LeaderEpoch
		s.next, s.furthest, s.dirty = p.Next, max(s.furthest, p.Next), true
	}
}

// write makes rows durable.
func (t *table) write(rows []row) {
	for _, r := range rows {
		s := t.part(r.id)
		s.rows, s.dirty = append(s.rows, r.offset), true
	}
}

func (t *table) writeDead(rows []row) {
	for _, r := range rows {
		s := t.part(r.id)
		s.dead, s.dirty = append(s.dead, r.offset), true
		t.w.stats.Dead++
	}
}

// commit makes everything of a transaction durable at once.
func (t *table) commit(x *tx) error {
	if x.ended {
		return flow.Transient(errors.New("the connection was terminated by an administrator"))
	}
	bug := &t.w.bug
	t.write(x.rows)
	if !bug.deadOutside {
		t.writeDead(x.dead)
	}
	if !bug.positionFirst && (!bug.positionForgotten || t.w.rng.IntN(20) > 0) {
		t.move(x)
	}
	x.committed = true
	t.end(x)
	t.keep()
	return nil
}

func (t *table) rollback(x *tx) { t.end(x) }

func (t *table) end(x *tx) {
	if x.ended {
		return
	}
	x.ended = true
	t.open = slices.DeleteFunc(t.open, func(o *tx) bool { return o == x })
	for _, p := range x.parts {
		if c := t.checkpoints[p.Partition]; c != nil && c.lock == x {
			c.lock = nil
		}
	}
}

// settled says whether a transaction was committed whose answer was lost, as far
// as the checkpoint shows.
func (t *table) settled(parts []flow.Part) bool {
	for _, p := range parts {
		if c := t.checkpoints[p.Partition]; c == nil || c.Offset != p.Next || c.Owner != p.Owner {
			return false
		}
	}
	return len(parts) > 0
}

// orphan leaves the transactions of a process that was killed to the table,
// which will notice. A COMMIT that was on its way arrives.
func (t *table) orphan(p *process, calls []*call) {
	for _, x := range t.open {
		if x.proc == p && !x.abandoned {
			x.abandoned = true
			x.committing = slices.ContainsFunc(calls, func(c *call) bool { return c.kind == commit && c.lane == x.lane })
		}
	}
}

// keep takes a snapshot now and then.
func (t *table) keep() {
	if t.w.plan.atLeastOnce || t.w.rng.IntN(4) > 0 {
		return
	}
	s := snapshot{checkpoints: map[flow.Partition]flow.Checkpoint{}}
	for p, c := range t.checkpoints {
		s.checkpoints[p] = c.Checkpoint
	}
	for _, p := range t.parts {
		s.parts = append(s.parts, stored{rows: slices.Clip(p.rows), dead: slices.Clip(p.dead), next: p.next})
	}
	if len(t.snapshots) == 8 {
		t.snapshots = slices.Delete(t.snapshots, 0, 1)
	}
	t.snapshots = append(t.snapshots, s)
}

// restorable says whether there is an earlier state with all of today's
// partitions: a restore to before a partition was known stops the flow, as it should.
func (t *table) restorable() bool {
	return slices.ContainsFunc(t.snapshots, func(s snapshot) bool { return len(s.checkpoints) == len(t.checkpoints) })
}

// restore goes back to an earlier state, data and positions together, as a
// failover to a replica does that was behind. Open transactions are lost.
func (t *table) restore() {
	t.snapshots = slices.DeleteFunc(t.snapshots, func(s snapshot) bool { return len(s.checkpoints) != len(t.checkpoints) })
	n := t.w.rng.IntN(len(t.snapshots))
	s := t.snapshots[n]
	t.snapshots = t.snapshots[:n+1]
	for len(t.open) > 0 {
		t.rollback(t.open[0])
	}
	t.w.stats.Restores++
	for _, p := range slices.SortedFunc(maps.Keys(s.checkpoints), func(a, b flow.Partition) int { return int(a.ID - b.ID) }) {
		t.w.say("the table goes back: %s from %d to %d, owner epoch from %d to %d", p,
			t.checkpoints[p].Offset, s.checkpoints[p].Offset, t.checkpoints[p].Owner, s.checkpoints[p].Owner)
		t.checkpoints[p] = &checkpoint{Checkpoint: s.checkpoints[p]}
	}
	for i, p := range t.parts {
		furthest := p.furthest
		*p = stored{}
		if i < len(s.parts) {
			*p = s.parts[i]
		}
		p.furthest, p.dirty = furthest, true
	}
}

func (x *tx) String() string { return describe(x.parts) }

func describe(parts []flow.Part) string {
	var b []byte
	for i := range parts {
		p := &parts[i]
		b = fmt.Appendf(b, "%d:%d→%d(%d)#%d ", p.ID, p.From, p.Next, p.End-p.First, p.Owner)
	}
	return string(b)
}
