package flowtest

import (
	"context"
	"slices"

	"github.com/penstockdev/penstock/flow"
)

// logGroup is a consumer group. Partitions move cooperatively: the old owner
// gives one up (Intake.Revoked returns) before the new one gets it. All fields
// are guarded by Log.mu.
type logGroup struct {
	members   []*LogSource // in the order of joining
	owner     map[flow.Partition]*LogSource
	target    map[flow.Partition]*LogSource
	pinned    map[flow.Partition]*LogSource // see Log.Move
	committed map[flow.Partition]flow.Position
}

func (l *Log) group(name string) *logGroup {
	g := l.groups[name]
	if g == nil {
		g = &logGroup{
			owner: map[flow.Partition]*LogSource{}, target: map[flow.Partition]*LogSource{},
			pinned: map[flow.Partition]*LogSource{}, committed: map[flow.Partition]flow.Position{},
		}
		l.groups[name] = g
	}
	return g
}

func (l *Log) rebalanceAll() {
	for _, g := range l.groups {
		l.rebalance(g)
	}
}

// rebalance decides who shall own what: round robin in the order of joining,
// but for what Move has pinned.
func (l *Log) rebalance(g *logGroup) {
	clear(g.target)
	if len(g.members) > 0 {
		ps := l.partitions(func(topic string) bool {
			return slices.ContainsFunc(g.members, func(m *LogSource) bool { return m.wants(topic) })
		})
		n := 0
		for _, p := range ps {
			if m := g.pinned[p]; m != nil && slices.Contains(g.members, m) {
				g.target[p] = m
				continue
			}
			for range g.members {
				m := g.members[n%len(g.members)]
				n++
				if m.wants(p.Topic) {
					g.target[p] = m
					break
				}
			}
		}
	}
	for _, m := range g.members {
		m.endStaleAssignment()
	}
}

// Move makes s the owner of a partition of its group until the next change of
// membership removes s; its owner is asked to give it up.
func (l *Log) Move(p flow.Partition, s *LogSource) {
	l.change(func() {
		g := l.group(s.groupName)
		g.pinned[p] = s
		l.rebalance(g)
	})
}

// Evict removes s from its group without telling it, as a broker does with a
// member whose heartbeats stay away. Its partitions go to the others at once,
// while s goes on delivering what it believes to own: a zombie. Notice tells it.
func (l *Log) Evict(s *LogSource) {
	l.change(func() {
		g := l.group(s.groupName)
		s.evicted = true
		l.leave(g, s)
	})
}

// Notice lets an evicted source learn what happened: its partitions are lost,
// and it joins its group again.
func (l *Log) Notice(s *LogSource) {
	l.change(func() {
		if s.evicted {
			s.noticed = true
			s.endStaleAssignment()
		}
	})
}

// leave takes s out of the group. The lock is held.
func (l *Log) leave(g *logGroup, s *LogSource) {
	g.members = slices.DeleteFunc(g.members, func(m *LogSource) bool { return m == s })
	for p, m := range g.owner {
		if m == s {
			delete(g.owner, p)
		}
	}
	for p, m := range g.pinned {
		if m == s {
			delete(g.pinned, p)
		}
	}
	l.rebalance(g)
}

// Committed returns the offset that a group has committed, -1 if none.
func (l *Log) Committed(group string, p flow.Partition) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos, ok := l.group(group).committed[p]; ok {
		return pos.Offset
	}
	return -1
}

// SetCommitted changes the offset that a group has committed; -1 deletes it.
func (l *Log) SetCommitted(group string, p flow.Partition, offset int64) {
	l.change(func() {
		g := l.group(group)
		if offset < 0 {
			delete(g.committed, p)
			return
		}
		g.committed[p] = flow.Position{Partition: p, Offset: offset, LeaderEpoch: -1}
	})
}

// session is the goroutine that takes part in the group for s: it tells the
// intake of partitions that come and go. It ends with ctx, having given back
// all that s holds.
func (s *LogSource) session(ctx context.Context) {
	l := s.log
	// What the intake does after the session's end, on leaving, must not
	// be cut short by it: the bound is that of Close.
	defer func() {
		l.mu.Lock()
		held := s.held(func(flow.Partition) bool { return true })
		lost := s.evicted
		l.mu.Unlock()
		if len(held) > 0 {
			s.giveUp(context.WithoutCancel(ctx), held, lost)
		}
		l.change(func() { l.leave(l.group(s.groupName), s) })
	}()
	l.change(func() {
		g := l.group(s.groupName)
		g.members = append(g.members, s)
		l.rebalance(g)
	})
	for ctx.Err() == nil {
		l.mu.Lock()
		g, changed := l.group(s.groupName), l.changed
		var gone, come []flow.Partition
		switch {
		case l.down || s.evicted && !s.noticed:
		case s.evicted:
			gone = s.held(func(flow.Partition) bool { return true })
		default:
			gone = s.held(func(p flow.Partition) bool { return g.target[p] != s })
			for p, m := range g.target {
				if m == s && g.owner[p] == nil && s.assigned[p] == nil {
					come = append(come, p)
				}
			}
		}
		noticed := s.noticed && !l.down
		l.mu.Unlock()

		switch {
		case noticed:
			if len(gone) > 0 {
				s.giveUp(ctx, gone, true)
			}
			l.change(func() {
				s.evicted, s.noticed = false, false
				g.members = append(g.members, s)
				l.rebalance(g)
			})
		case len(gone) > 0:
			s.giveUp(ctx, gone, false)
		case len(come) > 0:
			slices.SortFunc(come, comparePartitions)
			s.takeOver(ctx, come)
		default:
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// giveUp tells the intake that partitions go, and then lets them go.
func (s *LogSource) giveUp(ctx context.Context, ps []flow.Partition, lost bool) {
	s.gate <- struct{}{}
	s.in.Revoked(ctx, ps, lost)
	<-s.gate
	s.log.change(func() {
		g := s.log.group(s.groupName)
		for _, p := range ps {
			delete(s.assigned, p)
			if g.owner[p] == s {
				delete(g.owner, p)
			}
		}
	})
}

// takeOver asks the intake where to start the partitions, and starts them.
func (s *LogSource) takeOver(ctx context.Context, ps []flow.Partition) {
	l := s.log
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var infos []flow.PartitionInfo
	l.mu.Lock()
	g := l.group(s.groupName)
	for _, p := range ps {
		if g.target[p] != s || g.owner[p] != nil {
			continue
		}
		g.owner[p] = s
		info := s.info(p)
		infos = append(infos, info)
		s.assigned[p] = &fetching{topicID: info.TopicID, next: -1, epoch: -1}
	}
	s.assigning = cancel
	l.mu.Unlock()
	if len(infos) == 0 {
		return
	}

	s.gate <- struct{}{}
	positions, err := s.in.Assigned(ctx, infos)
	<-s.gate

	l.change(func() {
		s.assigning = nil
		if err != nil {
			// None of them was assigned. Those that s shall have still come again.
			for i := range infos {
				p := infos[i].Partition
				delete(s.assigned, p)
				if g.owner[p] == s {
					delete(g.owner, p)
				}
			}
			return
		}
		for _, pos := range positions {
			if f := s.assigned[pos.Partition]; f != nil && f.next < 0 && pos.Offset >= 0 {
				f.next, f.epoch = pos.Offset, pos.LeaderEpoch
				if pos.TopicID != "" {
					f.topicID = pos.TopicID
				}
			}
		}
	})
	if err != nil && ctx.Err() == nil {
		l.change(func() { s.failed = err })
	}
}

// endStaleAssignment ends the context of an Assigned that is under way for
// partitions which s shall not have any more. The lock is held.
func (s *LogSource) endStaleAssignment() {
	if s.assigning == nil {
		return
	}
	g := s.log.group(s.groupName)
	for p, f := range s.assigned {
		if f.next < 0 && (g.target[p] != s || s.noticed) {
			s.assigning()
			return
		}
	}
}

// held returns the assigned partitions that match, in order. The lock is held.
func (s *LogSource) held(match func(flow.Partition) bool) []flow.Partition {
	var ps []flow.Partition
	for p := range s.assigned {
		if match(p) {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, comparePartitions)
	return ps
}
