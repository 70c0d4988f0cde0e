package sim

import (
	"fmt"

	"github.com/penstockdev/penstock/flow"
)

// ledger is everything that was ever appended to a partition.
type ledger struct {
	entries []entry
	// told is the group's committed offset.
	told int64
}

type entry struct {
	offset int64
	poison bool
	// compacted: the log has dropped it, so it need not be delivered any more.
	compacted bool
}

// check verifies the promises on what has changed.
func (w *world) check() {
	for _, c := range w.pending {
		if c.kind == read && c.proc.paused {
			w.violate("%s is paused and reads", c.proc)
		}
	}
	for id, p := range w.table.parts {
		if !p.dirty {
			continue
		}
		p.dirty = false
		var err error
		if w.plan.atLeastOnce {
			err = w.atLeastOnce(w.ledgers[id], p, int32(id)) //nolint:gosec // a handful
		} else {
			err = w.exactlyOnce(w.ledgers[id], p, int32(id)) //nolint:gosec // a handful
		}
		if err != nil {
			w.violate("partition %d: %w", id, err)
		}
	}
}

// exactlyOnce: the rows and dead letters are what the log has delivered below
// the position, in order, each once, and nothing else.
func (w *world) exactlyOnce(l *ledger, p *stored, id int32) error {
	rows, dead := p.rows, p.dead
	for _, e := range l.entries {
		if e.offset >= p.next {
			break
		}
		from := &rows
		if e.poison {
			if w.plan.queue {
				if !w.table.letters[row{id, e.offset}] && !e.compacted {
					return fmt.Errorf("the position is %d, and %d is not in the dead-letter queue", p.next, e.offset)
				}
				continue
			}
			from = &dead
		}
		switch {
		case len(*from) > 0 && (*from)[0] == e.offset:
			*from = (*from)[1:]
		case e.compacted:
		case len(*from) == 0:
			return fmt.Errorf("the position is %d, and %d is not durable", p.next, e.offset)
		default:
			return fmt.Errorf("%d is stored where %d comes next", (*from)[0], e.offset)
		}
	}
	switch {
	case len(rows) > 0:
		return fmt.Errorf("row %d is doubled, out of order or beyond the position %d", rows[0], p.next)
	case len(dead) > 0:
		return fmt.Errorf("dead letter %d is doubled, out of order or beyond the position %d", dead[0], p.next)
	}
	return nil
}

// atLeastOnce: what is durable is a prefix of what the log has delivered, first
// appearances are in order, and the group's offset is not beyond it.
func (w *world) atLeastOnce(l *ledger, p *stored, id int32) error {
	seen := make(map[int64]bool, len(p.rows)+len(p.dead))
	for _, o := range p.rows {
		seen[o] = true
	}
	for _, o := range p.dead {
		seen[o] = true
	}
	missing := int64(-1)
	for _, e := range l.entries {
		have := seen[e.offset]
		switch {
		case e.compacted:
		case e.poison && w.plan.queue: // it is put there after the rows of its batch are durable
			if !w.table.letters[row{id, e.offset}] && l.told > e.offset {
				return fmt.Errorf("the group was told %d, and %d is not in the dead-letter queue", l.told, e.offset)
			}
		case !have && missing < 0:
			missing = e.offset
			if l.told > missing {
				return fmt.Errorf("the group was told %d, and %d is not durable", l.told, missing)
			}
		case have && missing >= 0:
			return fmt.Errorf("%d is durable, and %d before it is not", e.offset, missing)
		}
	}
	return nil
}

// committed keeps what a member tells the group.
func (w *world) committed(p *process, pos flow.Position) {
	l, s := w.ledgers[pos.ID], w.table.part(pos.ID)
	if !w.plan.atLeastOnce && pos.Offset > s.furthest {
		w.violate("%s told the group %s, and the checkpoint has never been beyond %d", p, listPositions([]flow.Position{pos}), s.furthest)
	}
	w.log.SetCommitted(group, pos.Partition, pos.Offset)
	l.told = pos.Offset
	s.dirty = true
}

// caughtUp says whether everything in the log is durable, and known to be.
func (w *world) caughtUp() bool {
	for id, l := range w.ledgers {
		p := partition(id)
		_, end := w.log.Bounds(p.Topic, p.ID)
		at := l.told
		if !w.plan.atLeastOnce {
			at = w.table.part(p.ID).next
		}
		if at != end || w.group.owner[p] == nil {
			return false
		}
	}
	return true
}
