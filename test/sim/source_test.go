package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// source reads the log as a member of the group. The world changes its state;
// its goroutines only carry out what they are told.
type source struct {
	p  *process
	in flow.Intake

	assigned map[flow.Partition]*reading
	// todo is what a Read that has begun to deliver has still to deliver:
	// until then nothing is assigned or revoked.
	todo []flow.Partition

	joined, leaving bool
	// evicted: the group has given its partitions to others, and it does not know.
	evicted bool
	orders  chan *order // to the session; closed at its end
	ended   bool        // orders is closed
	order   *order      // under way; nil if none
	left    chan struct{}
	// givenUp are partitions whose Revoked has returned in time: nothing of them
	// may be written until they come back.
	givenUp map[flow.Partition]bool
	// stale is where reading stood when a partition was revoked, for a bug.
	stale map[flow.Partition]int64
}

// reading is a partition that the source believes to own.
type reading struct {
	next   int64 // -1: not told yet where to start
	paused bool
}

// revokeBound is how long Revoked may wait for what is being written.
const revokeBound = 10 * time.Second

// order is a call of Assigned or of Revoked.
type order struct {
	ctx       context.Context
	cancel    context.CancelFunc
	infos     []flow.PartitionInfo // of Assigned
	ps        []flow.Partition
	lost      bool
	began     time.Time
	positions []flow.Position
	err       error
	done      bool
}

var (
	_ flow.Source    = (*source)(nil)
	_ flow.Committer = (*source)(nil)
	_ flow.Pauser    = (*source)(nil)
	_ flow.Seeker    = (*source)(nil)
)

func newSource(p *process) *source {
	return &source{
		p: p, assigned: map[flow.Partition]*reading{}, stale: map[flow.Partition]int64{}, givenUp: map[flow.Partition]bool{},
		orders: make(chan *order, 1), left: make(chan struct{}),
	}
}

// Open implements flow.Source.
func (s *source) Open(ctx context.Context) (out *flow.Log, err error) {
	err = s.p.w.call(&call{proc: s.p, kind: openSource, ctx: ctx, do: func() error {
		out, err = s.p.w.inner.Open(context.WithoutCancel(ctx))
		return err
	}})
	return out, err
}

// Subscribe implements flow.Source.
func (s *source) Subscribe(ctx context.Context, in flow.Intake) error {
	return s.p.w.call(&call{proc: s.p, kind: subscribe, ctx: ctx, do: func() error {
		s.in, s.joined = in, true
		go s.session()
		return nil
	}})
}

// session calls Assigned and Revoked.
func (s *source) session() {
	defer close(s.left)
	for o := range s.orders {
		var positions []flow.Position
		var err error
		if o.infos != nil {
			positions, err = s.in.Assigned(o.ctx, o.infos)
		} else {
			s.in.Revoked(o.ctx, o.ps, o.lost)
		}
		s.p.w.mu.Lock()
		o.positions, o.err, o.done = positions, err, true
		s.p.w.mu.Unlock()
	}
}

// tell gives the session an order. It must be idle.
func (s *source) tell(o *order) {
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.began = time.Now()
	s.order = o
	s.orders <- o
}

// idle says whether partitions may be assigned and revoked now.
func (s *source) idle() bool {
	return s.joined && !s.leaving && !s.ended && s.order == nil && len(s.todo) == 0
}

// end ends the session.
func (s *source) end() {
	if s.order != nil {
		s.order.cancel()
	}
	if !s.ended {
		s.ended = true
		close(s.orders)
	}
}

// held returns what the source believes to own, in order.
func (s *source) held() []flow.Partition {
	var ps []flow.Partition
	for id := range s.p.w.ledgers {
		if s.assigned[partition(id)] != nil {
			ps = append(ps, partition(id))
		}
	}
	return ps
}

// deliverable returns what a Read could deliver now.
func (s *source) deliverable() []flow.Partition {
	return slices.DeleteFunc(s.held(), func(p flow.Partition) bool {
		r := s.assigned[p]
		_, end := s.p.w.log.Bounds(p.Topic, p.ID)
		return r.next < 0 || r.paused || r.next >= end
	})
}

// Read implements flow.Source. Every Deliver is a step of its own.
func (s *source) Read(ctx context.Context) error {
	w := s.p.w
	for more := true; more; {
		var f flow.Fetch
		err := w.call(&call{
			proc: s.p, kind: read, ctx: ctx,
			ready: func() bool { return len(s.todo) > 0 || s.order == nil && len(s.deliverable()) > 0 },
			do: func() error {
				if len(s.todo) == 0 {
					ps := s.deliverable()
					w.rng.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
					s.todo = ps[:1+w.rng.IntN(len(ps))]
				}
				f = s.fetch(s.todo[0])
				s.todo = s.todo[1:]
				more = len(s.todo) > 0
				return nil
			},
			fail: func(bool) { s.todo = nil },
		})
		if err != nil || f.Topic == "" {
			return err
		}
		f.Records = append(s.in.Buffer(len(f.Records)), f.Records...)
		s.in.Deliver(f)
	}
	return nil
}

// fetch takes from one partition.
func (s *source) fetch(p flow.Partition) flow.Fetch {
	w, r := s.p.w, s.assigned[p]
	if at, ok := s.stale[p]; ok && w.bug.staleFetch {
		r.next = max(r.next, at)
		delete(s.stale, p)
	}
	records := w.log.Records(p.Topic, p.ID)
	_, end := w.log.Bounds(p.Topic, p.ID)
	i, _ := slices.BinarySearchFunc(records, r.next, func(r flow.Record, o int64) int { return int(r.Offset - o) })
	records = records[i:]
	f := flow.Fetch{Partition: p, LeaderEpoch: -1, End: end, Next: end}
	if n := 1 + w.rng.IntN(w.plan.maxRecords); n < len(records) {
		records = records[:n]
		f.Next = records[n-1].Offset + 1
	}
	f.Records = records
	w.say("%s fetches %d from %d: %d records, next %d", s.p, p.ID, r.next, len(records), f.Next)
	r.next = f.Next
	return f
}

// Seek implements flow.Seeker.
func (s *source) Seek(ctx context.Context, ps []flow.Position) error {
	return s.p.w.call(&call{proc: s.p, kind: seek, what: listPositions(ps), ctx: ctx, do: func() error {
		for _, pos := range ps {
			if r := s.assigned[pos.Partition]; r != nil && r.next >= 0 && !s.p.w.bug.seekIgnored {
				r.next = pos.Offset
			}
		}
		s.p.w.stats.Rewinds++
		return nil
	}})
}

// Commit implements flow.Committer.
func (s *source) Commit(ctx context.Context, ps []flow.Position) error {
	// What is sent in one generation of the group does not count in another.
	sent := make([]*reading, len(ps))
	s.p.w.mu.Lock()
	for i, pos := range ps {
		sent[i] = s.assigned[pos.Partition]
	}
	s.p.w.mu.Unlock()
	return s.p.w.call(&call{proc: s.p, kind: commitGroup, what: listPositions(ps), ctx: ctx, do: func() error {
		for i, pos := range ps {
			r := s.assigned[pos.Partition]
			if s.p.w.group.owner[pos.Partition] != s.p || r == nil || r != sent[i] {
				continue
			}
			if s.p.w.bug.commitAhead {
				pos.Offset = max(pos.Offset, r.next)
			}
			s.p.w.committed(s.p, pos)
		}
		return nil
	}})
}

// Pause implements flow.Pauser.
func (s *source) Pause(ps []flow.Partition) { s.setPaused(ps, true) }

// Resume implements flow.Pauser.
func (s *source) Resume(ps []flow.Partition) { s.setPaused(ps, false) }

func (s *source) setPaused(ps []flow.Partition, paused bool) {
	s.p.w.mu.Lock()
	defer s.p.w.mu.Unlock()
	for _, p := range ps {
		if r := s.assigned[p]; r != nil {
			r.paused = paused
		}
	}
}

// Close implements flow.Source: it leaves the group, giving back what it holds.
func (s *source) Close(ctx context.Context) error {
	err := s.p.w.call(&call{proc: s.p, kind: closeSource, ctx: ctx, do: func() error {
		if !s.joined {
			close(s.left)
		}
		s.leaving = true
		if s.order != nil {
			s.order.cancel()
		}
		return nil
	}})
	if err != nil {
		return err
	}
	select {
	case <-s.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func listPositions(ps []flow.Position) string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = fmt.Sprintf("%d@%d", p.ID, p.Offset)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// coordinator is the group's: who owns what, as the broker sees it.
type coordinator struct {
	owner map[flow.Partition]*process
}

// free returns the partitions without an owner.
func (g *coordinator) free(w *world) []flow.Partition {
	var ps []flow.Partition
	for id := range w.ledgers {
		if g.owner[partition(id)] == nil {
			ps = append(ps, partition(id))
		}
	}
	return ps
}

// leave takes all partitions from p, at once.
func (g *coordinator) leave(p *process) {
	for name, o := range g.owner {
		if o == p {
			delete(g.owner, name)
		}
	}
}

// assign makes p the owner of partitions.
func (g *coordinator) assign(w *world, p *process, ps []flow.Partition) {
	log, err := w.inner.Open(context.Background())
	if err != nil {
		w.violate("the log cannot be described: %v", err)
		return
	}
	o := &order{ps: ps}
	for _, info := range log.Partitions {
		if slices.Contains(ps, info.Partition) {
			o.infos = append(o.infos, info)
			g.owner[info.Partition] = p
			p.source.assigned[info.Partition] = &reading{next: -1}
			delete(p.source.givenUp, info.Partition)
		}
	}
	w.say("%s is assigned %s", p, list(ps))
	p.source.tell(o)
}

// revoke asks p to give partitions up.
func (g *coordinator) revoke(w *world, p *process, ps []flow.Partition, lost bool) {
	w.say("%s: %s are revoked, lost: %t", p, list(ps), lost)
	p.source.tell(&order{ps: ps, lost: lost})
}

// settle carries on with what needs no decision: orders that have been carried
// out, and members that leave.
func (g *coordinator) settle(w *world) bool {
	for _, p := range w.procs {
		s := p.source
		switch {
		case s.order != nil && s.order.done:
			o := s.order
			s.order = nil
			o.cancel()
			if o.infos != nil {
				g.hasAssigned(w, p, o)
			} else {
				g.hasRevoked(w, p, o)
			}
		case s.joined && s.leaving && !s.ended && s.order == nil:
			if held := s.held(); len(held) > 0 {
				g.revoke(w, p, held, s.evicted)
				break
			}
			s.end()
			g.leave(p)
		default:
			continue
		}
		return true
	}
	return false
}

func (g *coordinator) hasAssigned(w *world, p *process, o *order) {
	live := !p.dead && !p.source.leaving
	w.say("%s has taken over %s: %v", p, listPositions(o.positions), o.err)
	if o.err != nil {
		if live && o.ctx.Err() == nil {
			w.violate("%s: Assigned failed in the life of the assignment: %v", p, o.err)
		}
		for _, name := range o.ps {
			delete(p.source.assigned, name)
			if g.owner[name] == p {
				delete(g.owner, name)
			}
		}
		return
	}
	for _, pos := range o.positions {
		if r := p.source.assigned[pos.Partition]; r != nil {
			r.next = pos.Offset
		}
	}
}

func (g *coordinator) hasRevoked(w *world, p *process, o *order) {
	w.say("%s has given up %s", p, list(o.ps))
	for _, name := range o.ps {
		if r := p.source.assigned[name]; r != nil && r.next >= 0 {
			p.source.stale[name] = r.next
		}
		delete(p.source.assigned, name)
		p.source.givenUp[name] = !o.lost && time.Since(o.began) < revokeBound
		if g.owner[name] == p {
			delete(g.owner, name)
		}
	}
	if o.lost {
		p.source.evicted = false
	}
}
