package flowtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// LogOptions configure a source on a Log.
type LogOptions struct {
	// Topics are read, and those that begin with Prefix, if it is not empty.
	Topics []string
	Prefix string
	// Group is the consumer group; sources of one group share the partitions.
	// Empty: a group of its own, which keeps nothing when the source is closed.
	Group string
	// Start is earliest (the default), latest or group (what the group has
	// committed, else earliest).
	Start string
	// MaxRecords is how many records one Read delivers of a partition; default 500.
	MaxRecords int
	// MaxPartitions is how many partitions one Read delivers; default all.
	MaxPartitions int
}

// LogSource is a source on a Log. It can pause, seek and commit. Assigned and
// Revoked come from a goroutine of its own, never during Deliver, and what is
// still assigned at Close is revoked there, as group clients do.
type LogSource struct {
	log       *Log
	opts      LogOptions
	groupName string

	// gate keeps Deliver apart from Assigned and Revoked; held, not locked, so
	// that a Read that waits for it can end with its context.
	gate chan struct{}
	// troubled says that the last Read returned an error. Used by Read alone.
	troubled bool
	in       flow.Intake // set by Subscribe, before the session starts

	life   sync.Mutex // guards the two below
	cancel context.CancelFunc
	ended  chan struct{} // closed when the session has ended

	closeOnce sync.Once
	closed    chan struct{}

	// guarded by Log.mu
	assigned         map[flow.Partition]*fetching
	assigning        context.CancelFunc // of the Assigned under way, nil if none
	evicted, noticed bool
	failed           error // of Assigned; Read returns it
	turn             int   // the partition that the next Read begins with
}

// fetching is an assigned partition. next is -1 until it may be read.
type fetching struct {
	topicID string
	next    int64
	epoch   int32
	paused  bool
}

var (
	_ flow.Source    = (*LogSource)(nil)
	_ flow.Committer = (*LogSource)(nil)
	_ flow.Pauser    = (*LogSource)(nil)
	_ flow.Seeker    = (*LogSource)(nil)
)

// Source makes a source on the log.
func (l *Log) Source(o LogOptions) *LogSource {
	if o.MaxRecords == 0 {
		o.MaxRecords = 500
	}
	s := &LogSource{
		log: l, opts: o, groupName: o.Group,
		gate: make(chan struct{}, 1), closed: make(chan struct{}),
		assigned: map[flow.Partition]*fetching{},
	}
	if s.groupName == "" {
		l.mu.Lock()
		l.private++
		s.groupName = fmt.Sprintf("private-%d", l.private)
		l.mu.Unlock()
	}
	return s
}

func (s *LogSource) wants(topic string) bool {
	return slices.Contains(s.opts.Topics, topic) || s.opts.Prefix != "" && strings.HasPrefix(topic, s.opts.Prefix)
}

// info describes a partition that exists. The log's lock is held.
func (s *LogSource) info(p flow.Partition) flow.PartitionInfo {
	t, lp := s.log.part(p)
	info := flow.PartitionInfo{
		Partition: p, TopicID: t.id, Begin: lp.begin, End: lp.end,
		Start: lp.begin, Committed: -1, LeaderEpoch: -1,
	}
	if s.opts.Start == "latest" {
		info.Start = lp.end
	}
	if c, ok := s.log.group(s.groupName).committed[p]; ok {
		info.Committed = c.Offset
		if s.opts.Start == "group" {
			info.Start, info.LeaderEpoch = c.Offset, c.LeaderEpoch
		}
	}
	return info
}

// Open describes the log.
func (s *LogSource) Open(ctx context.Context) (*flow.Log, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errDown
	}
	for _, topic := range s.opts.Topics {
		if l.topics[topic] == nil {
			return nil, flow.Fatal(fmt.Errorf("topic %s does not exist", topic))
		}
	}
	out := &flow.Log{ClusterID: l.cluster, OpenEnded: s.opts.Prefix != "", Name: "topics " + strings.Join(s.opts.Topics, ", ")}
	if s.opts.Prefix != "" {
		out.Name += " and " + s.opts.Prefix + "*"
	}
	for _, p := range l.partitions(s.wants) {
		out.Partitions = append(out.Partitions, s.info(p))
	}
	return out, nil
}

// Subscribe joins the group.
func (s *LogSource) Subscribe(ctx context.Context, in flow.Intake) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	s.log.mu.Lock()
	down := s.log.down
	s.log.mu.Unlock()
	if down {
		return errDown
	}
	s.life.Lock()
	defer s.life.Unlock()
	if s.cancel != nil {
		return flow.Fatal(fmt.Errorf("the source is subscribed already"))
	}
	s.in = in
	// The session outlives the call: it ends with Close.
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	s.cancel, s.ended = cancel, done
	go func() {
		defer close(done)
		s.session(sctx)
	}()
	return nil
}

func (s *LogSource) usable(ctx context.Context) error {
	select {
	case <-s.closed:
		return errClosed
	default:
		return ctx.Err()
	}
}

// Read delivers what the assigned partitions hold.
func (s *LogSource) Read(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return nil
		}
		select {
		case s.gate <- struct{}{}:
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return errClosed
		}
		fetches, changed, err := s.poll()
		for i := range fetches {
			f := &fetches[i]
			f.Records = append(s.in.Buffer(len(f.Records)), f.Records...)
			s.in.Deliver(*f)
		}
		<-s.gate
		over := s.troubled && err == nil
		s.troubled = err != nil
		if len(fetches) > 0 || err != nil || over {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return errClosed
		}
	}
}

// poll takes what can be delivered now. If it is nothing, the channel tells
// when to look again. The records still belong to the log.
func (s *LogSource) poll() (fetches []flow.Fetch, changed chan struct{}, err error) {
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case s.in == nil:
		return nil, nil, flow.Fatal(fmt.Errorf("the source is not subscribed"))
	case s.failed != nil:
		return nil, nil, s.failed
	case len(l.inject) > 0:
		err, l.inject = l.inject[0], l.inject[1:]
		return nil, nil, err
	case l.down:
		return nil, l.changed, nil
	}
	ps := s.held(func(p flow.Partition) bool { f := s.assigned[p]; return f.next >= 0 && !f.paused })
	for i := range ps {
		p := ps[(i+s.turn)%len(ps)]
		if s.opts.MaxPartitions > 0 && len(fetches) == s.opts.MaxPartitions {
			break
		}
		f, err := s.fetch(p)
		if err != nil {
			if len(fetches) > 0 {
				break // deliver those first; the next Read returns the error
			}
			return nil, nil, err
		}
		if f != nil {
			fetches = append(fetches, *f)
		}
	}
	s.turn++
	return fetches, l.changed, nil
}

// fetch takes from one partition; nil if it has nothing to give.
func (s *LogSource) fetch(p flow.Partition) (*flow.Fetch, error) {
	st := s.assigned[p]
	t, lp := s.log.part(p)
	switch {
	case lp == nil:
		return nil, nil // deleted: nothing to read until it is there again
	case t.id != st.topicID || st.next < lp.begin || st.next > lp.end:
		return nil, &flow.PositionLostError{
			Position: flow.Position{Partition: p, TopicID: st.topicID, Offset: st.next, LeaderEpoch: st.epoch},
			Begin:    lp.begin, End: lp.end, TopicIDNow: t.id,
		}
	case st.next == lp.end:
		return nil, nil
	}
	i := lp.index(st.next)
	n := min(len(lp.records)-i, s.opts.MaxRecords)
	f := &flow.Fetch{
		Partition: p, TopicID: t.id, Records: lp.records[i : i+n : i+n],
		Next: lp.end, LeaderEpoch: -1, End: lp.end,
	}
	if n > 0 {
		f.LeaderEpoch = lp.epochs[i+n-1]
		if i+n < len(lp.records) {
			f.Next = lp.records[i+n-1].Offset + 1
		}
	}
	st.next, st.epoch = f.Next, f.LeaderEpoch
	return f, nil
}

// Commit keeps positions in the group.
func (s *LogSource) Commit(ctx context.Context, positions []flow.Position) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errDown
	}
	g := l.group(s.groupName)
	for _, p := range positions {
		if g.owner[p.Partition] == s {
			g.committed[p.Partition] = p
		}
	}
	return nil
}

// Pause stops delivering partitions. It is forgotten when they are revoked.
func (s *LogSource) Pause(ps []flow.Partition) { s.setPaused(ps, true) }

// Resume goes on delivering them.
func (s *LogSource) Resume(ps []flow.Partition) { s.setPaused(ps, false) }

func (s *LogSource) setPaused(ps []flow.Partition, paused bool) {
	s.log.change(func() {
		for _, p := range ps {
			if f := s.assigned[p]; f != nil {
				f.paused = paused
			}
		}
	})
}

// Seek sets assigned partitions to other positions.
func (s *LogSource) Seek(ctx context.Context, positions []flow.Position) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	s.log.change(func() {
		for _, p := range positions {
			if f := s.assigned[p.Partition]; f != nil && f.next >= 0 {
				f.next, f.epoch = p.Offset, p.LeaderEpoch
			}
		}
	})
	return nil
}

// Close leaves the group, giving back what is assigned.
func (s *LogSource) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { close(s.closed) })
	s.life.Lock()
	cancel, done := s.cancel, s.ended
	s.life.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
