package flow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstockdev/penstock/internal/adapt"
)

// partition is one partition that this process owns, from Assigned to Revoked.
// Its lane's mutex guards everything below lane.
type partition struct {
	Partition
	topicID string
	owner   int64
	lane    *lane
	route   int

	// expect is the next offset that the source should deliver, cut the
	// position after the last batch that was cut, committed the one that is
	// durable: committed <= cut <= expect.
	expect, cut, committed int64
	// told is the position that the source was last told of.
	told int64
	// epoch is the leader epoch of the record before committed.
	epoch int32
	end   int64
	queue []chunk
	// inflight counts batches that were cut and are not finished.
	inflight int
	// gone: revoked, or lost for good. Nothing is taken any more; what was cut
	// may still be written. With lost, it may not: somebody else owns it.
	gone, lost bool
	// seeking: a Seek is pending; what is delivered until then is stale. seek
	// numbers them: only the newest ends it.
	seeking bool
	seek    int
	// fenced is what the checkpoint was found to be when it had another owner,
	// fencedAt when; zero while it is ours. The source is expected to revoke the
	// partition soon. claims counts how often it was claimed back instead.
	fenced   Checkpoint
	fencedAt time.Time
	claims   int
	// paused is as the source was last told; unsettled says that it was not told
	// since the assignment, and that a Pause of the partition's last life may be under way.
	paused, unsettled bool
	// newest is the timestamp of the last durable record; updated is when committed
	// was last moved by a batch; waiting since when there has been something to write, before that.
	newest           int64
	updated, waiting time.Time
}

// chunk is a Fetch, or what is left of it, that waits in a lane. buf is the
// whole buffer, to be used again.
type chunk struct {
	records, buf []Record
	next         int64
	epoch        int32
	bytes        int64
	arrived      time.Time
}

// lane owns partitions and moves their records through two goroutines:
// prepare cuts batches and runs the transforms, write writes them. Two batches
// go round between them, so that one is prepared while the other commits.
//
// Lock order: Flow.mu before lane.mu. Neither is held while a source, a
// transform or a sink is called.
type lane struct {
	f          *Flow
	n          int
	writer     Writer
	transforms [][]Transform // by route

	// control steers limits; nil where they are fixed. Used by write alone.
	control *adapt.Lane

	wake chan struct{} // tells prepare that something changed
	out  chan *laneBatch
	free chan *laneBatch

	mu       sync.Mutex // guards what follows
	limits   limits
	parts    []*partition
	turn     int // where the next cut begins, for fairness between partitions
	records  int
	bytes    int64 // in the queues
	inflight int64 // in batches that were cut
	// cutRecords are in batches that were cut; writeBegan is zero while none is being written.
	cutRecords int
	writeBegan time.Time
	// unfinished counts batches that were cut and are not finished. With none the
	// writer is idle: that nothing else decides it keeps batches from depending on
	// which goroutine runs first.
	unfinished int
	draining   bool
	// gen is bumped when the lane drops what it holds; a batch of an earlier
	// generation is not written.
	gen int
	// finished is closed and replaced whenever a batch is finished.
	finished chan struct{}
	// idleSince is when the last batch was finished.
	idleSince time.Time
}

type laneBatch struct {
	Batch
	parts []*partition
	bytes int64
	gen   int
	// columns are kept for the batch's next use, by route.
	columns []*Columns
	// decode is how long the transforms took.
	decode time.Duration
	// taps are those that are shown the batch.
	taps *[]*tapped
	// starved is how long the idle writer had nothing queued before the batch's
	// first record came. short says that the batch was cut because the lane had no room.
	starved time.Duration
	short   bool
	// records is how many were cut, and write how long it took to write them, if
	// that was done at the first attempt.
	records int
	write   time.Duration
}

func newLane(f *Flow, n int, w Writer, ts [][]Transform) *lane {
	l := &lane{
		f: f, n: n, writer: w, transforms: ts,
		wake: make(chan struct{}, 1), out: make(chan *laneBatch), free: make(chan *laneBatch, 2),
		finished: make(chan struct{}), limits: f.cfg.Batch.limits(),
	}
	if c := &f.cfg.Batch; c.Adaptive {
		l.control = adapt.NewLane(adapt.Limits{FirstRecords: c.Records, MaxRecords: 10 * c.Records, MaxLinger: c.Wait, MaxLagLinger: lagPatience * c.Wait})
		l.follow(l.control.Settings())
	}
	for range cap(l.free) {
		l.free <- &laneBatch{columns: make([]*Columns, len(ts))}
	}
	return l
}

// follow takes over what the controller has chosen. Bytes stay bounded as configured.
func (l *lane) follow(s adapt.Settings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits.records, l.limits.linger, l.limits.lagLinger = s.Records, s.Linger, s.LagLinger
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// seen notes an end of the log. The lane's lock is held.
func (p *partition) seen(end int64, now time.Time) {
	p.end = max(p.end, end)
	if p.end > p.committed && p.updated.IsZero() && p.waiting.IsZero() {
		p.waiting = now
	}
}

// deliver queues what the source read of p. The caller is the reader, who wakes
// the lanes when its Read has ended: else the first partition's records would
// make a batch of their own.
func (l *lane) deliver(p *partition, f Fetch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.seen(f.End, l.f.clock.now())
	if p.gone || p.seeking || f.Next <= p.expect {
		l.f.recycle(f.Records)
		return
	}
	recs := f.Records
	for len(recs) > 0 && recs[0].Offset < p.expect {
		recs = recs[1:]
	}
	c := chunk{records: recs, buf: f.Records, next: f.Next, epoch: f.LeaderEpoch, arrived: time.Now()}
	for i := range recs {
		c.bytes += int64(recs[i].Size())
	}
	p.expect = f.Next
	p.queue = append(p.queue, c)
	l.records += len(recs)
	l.bytes += c.bytes
	l.f.reading.records += int64(len(recs))
	l.f.reading.bytes += c.bytes
}

// drop empties p's queue. The caller holds l.mu.
func (l *lane) drop(p *partition) {
	for _, c := range p.queue {
		l.records -= len(c.records)
		l.bytes -= c.bytes
		l.f.recycle(c.buf)
	}
	clear(p.queue)
	p.queue = p.queue[:0]
}

// buffered is what counts against the flow's buffer. The caller holds l.mu.
func (l *lane) buffered() int64 { return l.bytes + l.inflight }

// run starts the lane's goroutines and returns when they have ended: after
// drain, when everything is written; or when ctx ends.
func (l *lane) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(l.out)
		l.prepare(ctx)
	})
	wg.Go(func() { l.write(ctx) })
	wg.Wait()
}

// drain makes the lane write what it holds and end.
func (l *lane) drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	l.poke()
}

// prepare cuts batches, transforms them and hands them to write.
func (l *lane) prepare(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var b *laneBatch
		select {
		case b = <-l.free:
		case <-ctx.Done():
			return
		}
		for !l.cutWhenReady(ctx, b, timer) {
			if ctx.Err() != nil || l.drained() {
				return
			}
		}
		b.taps = l.f.taps.Load()
		l.f.show(b.taps, func(t Tap) { t.Read(l.n, &b.Batch) })
		start := time.Now()
		for _, t := range l.transforms[b.Route] {
			if err := t.Process(ctx, &b.Batch); err != nil {
				l.finish(b)
				if ctx.Err() == nil {
					l.f.fail(fmt.Errorf("transform: %w", err))
				}
				return
			}
		}
		b.decode = time.Since(start)
		l.f.show(b.taps, func(t Tap) { t.Decoded(l.n, &b.Batch) })
		select {
		case l.out <- b:
		case <-ctx.Done():
			l.finish(b)
			return
		}
	}
}

// stops says that the flow stops, and what is not written now will be read again.
func (l *lane) stops() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining
}

func (l *lane) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining && !l.hasQueue()
}

// hasQueue reports whether anything, positions without records included, waits
// to be cut. The caller holds l.mu.
func (l *lane) hasQueue() bool {
	for _, p := range l.parts {
		if len(p.queue) > 0 {
			return true
		}
	}
	return false
}

// cutWhenReady fills b and returns true; or waits for a change and returns false.
func (l *lane) cutWhenReady(ctx context.Context, b *laneBatch, timer *time.Timer) bool {
	l.mu.Lock()
	var again time.Duration
	if l.hasQueue() {
		var ready bool
		s := l.state(time.Now())
		if ready, again = l.limits.ready(s); ready {
			l.cut(b)
			b.short = !l.limits.full(s) && s.full
			l.mu.Unlock()
			return true
		}
	} else if l.draining {
		l.mu.Unlock()
		return false
	}
	l.mu.Unlock()
	if again == 0 {
		again = time.Hour
	}
	timer.Reset(again)
	select {
	case <-l.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// state describes the queue for the decision. The caller holds l.mu.
func (l *lane) state(now time.Time) batchState {
	s := batchState{
		records: l.records, bytes: l.bytes, writerIdle: l.unfinished == 0, draining: l.draining,
		full: l.buffered() >= l.f.roomBelow || l.f.standing.Load(),
	}
	var lag int64
	for _, p := range l.parts {
		if len(p.queue) > 0 {
			s.waited = max(s.waited, now.Sub(p.queue[0].arrived))
		}
		if !p.gone {
			lag += max(0, p.end-p.expect)
		}
	}
	s.lagging = lag > int64(l.limits.records)
	if s.lagging && l.unfinished == 0 && !l.idleSince.IsZero() {
		// What came while a batch was written is not to be cut the moment that is
		// done: there is more, and a fuller batch costs less.
		s.waited = min(s.waited, now.Sub(l.idleSince))
	}
	return s
}

// cut moves records of one route from the queues into b, the same number from
// each partition as far as they last. The caller holds l.mu.
func (l *lane) cut(b *laneBatch) {
	b.Route = l.nextRoute()
	b.Columns = b.columns[b.Route]
	b.Records, b.Parts, b.parts, b.bytes, b.gen = slices.Grow(b.Records[:0], min(l.records, l.limits.records)), b.Parts[:0], b.parts[:0], 0, l.gen
	b.starved = 0
	if l.unfinished == 0 && !l.idleSince.IsZero() {
		b.starved = max(0, l.first().queue[0].arrived.Sub(l.idleSince))
	}
	n := 0
	for _, p := range l.parts {
		if len(p.queue) > 0 && p.route == b.Route {
			n++
		}
	}
	l.turn++
	for k := range l.parts {
		p := l.parts[(k+l.turn)%len(l.parts)]
		if len(p.queue) == 0 || p.route != b.Route {
			continue
		}
		quota := (l.limits.records - len(b.Records) + n - 1) / n
		quotaBytes := (l.limits.bytes - b.bytes + int64(n) - 1) / int64(n)
		n--
		l.take(b, p, quota, quotaBytes)
	}
	l.records -= len(b.Records)
	l.bytes -= b.bytes
	l.inflight += b.bytes
	l.cutRecords += len(b.Records)
	l.unfinished++
	b.reset()
	b.cluster = l.f.origin.ClusterID
	b.beforeCommit = l.f.putDeadLetters
	if l.f.cfg.DeadLetters == nil {
		b.beforeCommit = nil
	}
}

// nextRoute is the route of the record that has waited longest, so that none
// starves. The caller holds l.mu.
func (l *lane) nextRoute() int {
	if len(l.transforms) == 1 {
		return 0
	}
	return l.first().route
}

// first is the partition whose queue begins with what has waited longest. The
// caller holds l.mu, and something is queued.
func (l *lane) first() (first *partition) {
	for _, p := range l.parts {
		if len(p.queue) > 0 && (first == nil || p.queue[0].arrived.Before(first.queue[0].arrived)) {
			first = p
		}
	}
	return first
}

// take moves up to quota records, and positions, of p into b. At least one
// record is taken, however large, if b is empty.
func (l *lane) take(b *laneBatch, p *partition, quota int, quotaBytes int64) {
	part := Part{
		Partition: p.Partition, TopicID: p.topicID, From: p.cut, Next: p.cut,
		LeaderEpoch: p.epoch, Owner: p.owner, First: len(b.Records),
	}
	index := int32(len(b.Parts)) //nolint:gosec // bounded by the number of partitions
	taken, used := 0, 0
	var bytes int64
	for used < len(p.queue) {
		c := &p.queue[used]
		i := 0
		for i < len(c.records) && taken < quota {
			size := int64(c.records[i].Size())
			if bytes+size > quotaBytes && len(b.Records)+taken > 0 {
				break
			}
			bytes += size
			taken++
			i++
		}
		at := len(b.Records)
		b.Records = append(b.Records, c.records[:i]...)
		for r := at; r < len(b.Records); r++ {
			b.Records[r].Part = index
		}
		part.LeaderEpoch = c.epoch
		if i < len(c.records) {
			if i > 0 {
				part.Next = c.records[i-1].Offset + 1
			}
			c.records = c.records[i:]
			for r := at; r < len(b.Records); r++ {
				c.bytes -= int64(b.Records[r].Size())
			}
			break
		}
		part.Next = c.next
		l.f.recycle(c.buf)
		used++
	}
	rest := copy(p.queue, p.queue[used:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	if part.Next == part.From {
		return // the quota left nothing for this partition
	}
	part.End = len(b.Records)
	p.cut = part.Next
	p.inflight++
	b.bytes += bytes
	b.Parts = append(b.Parts, part)
	b.parts = append(b.parts, p)
}

// finish gives the batch back after it was written or dropped.
func (l *lane) finish(b *laneBatch) {
	l.mu.Lock()
	for _, p := range b.parts {
		p.inflight--
	}
	l.inflight -= b.bytes
	l.cutRecords -= len(b.Records)
	l.unfinished--
	l.idleSince = time.Now()
	close(l.finished)
	l.finished = make(chan struct{})
	l.mu.Unlock()
	// The records' views keep fetch buffers alive; they must not outlive the batch.
	clear(b.Records)
	clear(b.parts)
	b.taps = nil
	if b.Columns != nil {
		b.Columns.release()
		b.columns[b.Route], b.Columns = b.Columns, nil
	}
	l.f.roomChanged()
	l.free <- b
	l.poke()
}
