package dlq

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstockdev/penstock/flow"
)

const (
	// chunkLetters and chunkBytes bound what is read ahead at a time.
	chunkLetters = 1000
	chunkBytes   = 1 << 20
	// rateSteps is how many times a second letters are delivered where their rate is bounded.
	rateSteps = 10
)

// source reads the letters that a job has taken, as partitions of a flow: see layout.
//
// Letters are read ahead by one goroutine, scan, which Read starts, and Close and Seek end.
type source struct {
	q    *Queue
	plan *Plan
	name string // of the flow, and of the group for a sink that keeps its offsets
	log  flow.Log
	// keeps: the sink keeps no positions, so letters are removed as they become durable.
	keeps bool
	// delivers: letters are read; else only the positions are taken over.
	delivers bool
	// dead are letters that have failed again, where the sink keeps no positions.
	dead *deadPlaces
	// attempt tells dead letters that were not committed from those that are put later.
	attempt atomic.Pointer[string]

	// settled is closed when the positions have been taken over: they are in starts, and final
	// unless this process moves them.
	settled chan struct{}
	settle  sync.Once
	starts  map[flow.Partition]int64
	topics  map[string]string

	in flow.Intake
	// next is what Read delivers next.
	next    map[flow.Partition]int64
	pending []item
	ended   bool // everything was delivered
	due     time.Time
	reading *scan

	mu       sync.Mutex
	inflight map[flow.Partition][]item // guarded by mu; without records; only if keeps
}

// item is a letter on its way.
type item struct {
	p      flow.Partition
	record flow.Record // its Offset is offsetOf
	place  flow.Position
	// done: only the position is to move.
	done bool
}

type scan struct {
	cancel context.CancelFunc
	chunks chan []item
	err    error // valid once chunks is closed
}

var (
	_ flow.Source      = (*source)(nil)
	_ flow.Committer   = (*source)(nil)
	_ flow.Seeker      = (*source)(nil)
	_ flow.GroupMember = (*source)(nil)
)

func newSource(q *Queue, p *Plan, name, cluster string) *source {
	s := &source{
		q: q, plan: p, name: name, settled: make(chan struct{}), inflight: map[flow.Partition][]item{},
		dead: &deadPlaces{places: map[deadPlace]struct{}{}},
		log:  flow.Log{ClusterID: cluster, Name: "dead letters of flow " + q.flow + " in " + q.Place(), Partitions: p.layout.partitions()},
	}
	s.newAttempt()
	return s
}

// Open implements flow.Source.
func (s *source) Open(context.Context) (*flow.Log, error) { return &s.log, nil }

// Member implements flow.GroupMember: the offsets are of a group that has no members, so
// the generation fences nobody; the owner of the partitions does.
func (s *source) Member([]flow.Partition) (flow.Member, error) {
	return flow.Member{Group: s.name, Generation: -1}, nil
}

// Subscribe implements flow.Source. When the positions are ours, what the predecessor has left
// behind is removed.
func (s *source) Subscribe(ctx context.Context, in flow.Intake) error {
	s.in = in
	var infos []flow.PartitionInfo
	for _, p := range s.log.Partitions {
		if p.End > 0 {
			infos = append(infos, p)
		}
	}
	positions, err := in.Assigned(ctx, infos)
	if err != nil {
		return err
	}
	s.starts, s.next, s.topics = map[flow.Partition]int64{}, map[flow.Partition]int64{}, map[string]string{}
	for _, p := range positions {
		if p.Offset < 0 {
			return nil // the flow stops
		}
		s.starts[p.Partition], s.next[p.Partition], s.topics[p.Topic] = p.Offset, p.Offset, p.Topic
	}
	if s.plan.resumed {
		if err := s.q.look(ctx, s); err != nil {
			return err
		}
	}
	s.settle.Do(func() { close(s.settled) })
	return nil
}

// Read implements flow.Source.
func (s *source) Read(ctx context.Context) error {
	for len(s.pending) == 0 {
		if s.ended || !s.delivers || s.reading == nil && s.atEnds() {
			<-ctx.Done()
			return nil
		}
		if s.reading == nil {
			s.startScan(ctx)
		}
		select {
		case chunk, ok := <-s.reading.chunks:
			if ok {
				s.pending = chunk
				continue
			}
			err := s.reading.err
			s.stopScan() // begun anew where it has ended, after an error
			if err != nil {
				return err
			}
			s.ended = true
			s.deliverEnds()
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	n := s.allowed(ctx)
	s.deliver(s.pending[:n])
	s.pending = s.pending[n:]
	return nil
}

// allowed waits until letters may be delivered, and says how many of the pending ones: none if ctx ends.
func (s *source) allowed(ctx context.Context) int {
	rate := s.plan.options.Rate
	if rate <= 0 {
		return len(s.pending)
	}
	if wait := time.Until(s.due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0
		}
	}
	n := min(len(s.pending), max(1, int(rate/rateSteps)))
	if now := time.Now(); s.due.Before(now) {
		s.due = now
	}
	s.due = s.due.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return n
}

// deliver hands over items, those of a partition together.
func (s *source) deliver(items []item) {
	for len(items) > 0 {
		p := items[0].p
		n := 1
		for n < len(items) && items[n].p == p {
			n++
		}
		f := flow.Fetch{Partition: p, Records: s.in.Buffer(n), LeaderEpoch: -1, End: s.plan.layout.ends[p]}
		for i := range items[:n] {
			it := &items[i]
			f.Next = it.record.Offset + 1
			if it.done {
				continue
			}
			f.Records = append(f.Records, it.record)
			if s.keeps {
				s.mu.Lock()
				s.inflight[p] = append(s.inflight[p], item{p: p, record: flow.Record{Offset: it.record.Offset}, place: it.place})
				s.mu.Unlock()
			}
		}
		s.next[p] = f.Next
		s.in.Deliver(f)
		items = items[n:]
	}
}

// atEnds says that nothing is left to read.
func (s *source) atEnds() bool {
	for p, end := range s.plan.layout.ends {
		if s.next[p] < end {
			return false
		}
	}
	return true
}

// deliverEnds moves the positions to the ends: what is below and was not delivered is done.
func (s *source) deliverEnds() {
	for p, end := range s.plan.layout.ends {
		if s.next[p] < end {
			s.next[p] = end
			s.in.Deliver(flow.Fetch{Partition: p, Next: end, LeaderEpoch: -1, End: end})
		}
	}
}

// startScan begins reading at next.
func (s *source) startScan(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the Read
	sc := &scan{cancel: cancel, chunks: make(chan []item, 2)}
	s.reading = sc
	from := maps.Clone(s.next)
	go func() {
		defer close(sc.chunks)
		for _, pass := range s.plan.layout.passes() {
			if sc.err = s.read(ctx, from, pass, sc.chunks); sc.err != nil {
				return
			}
		}
	}()
}

// stopScan ends it, and waits for that.
func (s *source) stopScan() {
	if s.reading == nil {
		return
	}
	s.reading.cancel()
	for range s.reading.chunks { // until it is closed
	}
	s.reading = nil
}

// read reads what is in one partition of the letter log, or in all of them.
func (s *source) read(ctx context.Context, from map[flow.Partition]int64, pass int32, chunks chan<- []item) error {
	var chunk []item
	size := 0
	send := func() error {
		slices.SortStableFunc(chunk, func(a, b item) int { return compare(a.p, b.p) })
		select {
		case chunks <- chunk:
			chunk, size = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := s.q.ofJob(ctx, s.plan.Job, func(l *flow.Letter) error {
		start, known := from[l.Partition]
		if !known || offsetOf(l) < start || pass >= 0 && l.Place.ID != pass {
			return nil
		}
		it, err := s.item(l)
		if err != nil {
			return err
		}
		chunk = append(chunk, it)
		if size += it.record.Size(); len(chunk) >= chunkLetters || size >= chunkBytes {
			return send()
		}
		return nil
	})
	if err == nil && len(chunk) > 0 {
		err = send()
	}
	return err
}

// item is the letter as a record of the redrive.
func (s *source) item(l *flow.Letter) (item, error) {
	p := flow.Partition{Topic: s.topics[l.Topic], ID: l.Partition.ID} // one string for all letters
	it := item{p: p, record: cloneRecord(l.Record), place: l.Place}
	it.place.Topic, it.place.TopicID = s.plan.places[0].Topic, s.plan.places[0].TopicID
	it.done = s.keeps && s.dead.has(p, offsetOf(l))
	if edit := s.plan.edit; edit != nil && !it.done {
		e := env(l)
		value, err := edit.Apply(&e)
		if err != nil {
			return it, flow.Fatal(err) // the plan has tried it
		}
		it.record.Value = slices.Clone(value)
	}
	it.record.Offset = offsetOf(l)
	it.record.Headers = append(countRedrive(it.record.Headers, l.Redrives+1), origin(l.Record.Offset))
	return it, nil
}

// Seek implements flow.Seeker. What was written from the new positions on was not committed.
func (s *source) Seek(ctx context.Context, positions []flow.Position) error {
	s.stopScan()
	s.pending, s.ended = nil, false
	from := map[flow.Partition]int64{}
	for _, p := range positions {
		s.next[p.Partition], from[p.Partition] = p.Offset, p.Offset
	}
	return s.q.clearStale(ctx, s, from)
}

// Commit implements flow.Committer. Where the sink keeps no positions, the letters themselves are the
// checkpoint: those whose rows are durable are removed.
func (s *source) Commit(ctx context.Context, positions []flow.Position) error {
	if !s.keeps {
		return nil
	}
	var places []flow.Position
	counts := make([]int, len(positions))
	s.mu.Lock()
	for i, p := range positions {
		for _, it := range s.inflight[p.Partition] {
			if it.record.Offset >= p.Offset {
				break
			}
			counts[i]++
			if !s.dead.has(it.p, it.record.Offset) {
				places = append(places, it.place)
			}
		}
	}
	s.mu.Unlock()
	if len(places) > 0 {
		if err := s.q.log.Remove(ctx, s.q.setup(), s.plan.Job, places); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range positions {
		s.inflight[p.Partition] = s.inflight[p.Partition][counts[i]:]
	}
	return nil
}

// Close implements flow.Source.
func (s *source) Close(context.Context) error {
	s.stopScan()
	return nil
}

var errMixed = errors.New("the letters were read from several clusters, and this sink writes in the transactions of one: choose those of one cluster with --topic or --where")
