package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/penstockdev/penstock/internal/adapt"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// readLoop reads from the source whenever a lane has room, until ctx ends.
func (f *Flow) readLoop(ctx context.Context) {
	attempt, unknown := 0, 0
	for ctx.Err() == nil {
		held := time.Now()
		if !f.awaitRoom(ctx) {
			return
		}
		began := time.Now()
		if f.reading.paused { // then nothing was held up by lanes
			f.reading.paused, held = false, began
		}
		reading, stop := context.WithCancel(ctx)
		if !f.applySeeks(reading, stop) {
			stop()
			continue
		}
		err := f.read(reading)
		f.pokeLanes()
		f.mu.Lock()
		f.wakeRead = nil
		f.mu.Unlock()
		interrupted := reading.Err() != nil
		stop()
		if interrupted && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			err = nil
		}
		if err == nil {
			attempt, unknown = 0, 0
			f.clearRetry(nil)
			f.sizeFetch(began.Sub(held), time.Since(began))
			continue
		}
		var lost *PositionLostError
		switch {
		case errors.As(err, &lost):
			f.positionLost(lost)
			continue
		case ClassOf(err) == ClassTransient:
			unknown = 0
		case ClassOf(err) == ClassUnknown && unknown < f.cfg.Retry.UnknownAttempts:
			unknown++
		case ctx.Err() != nil:
			return
		default:
			f.fail(fmt.Errorf("reading: %w", err))
			return
		}
		attempt++
		wait := f.cfg.Retry.wait(attempt, err)
		f.retrying(nil, attempt, wait, fmt.Errorf("reading: %w", err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// read calls the source once, and tells the observer what came of it.
func (f *Flow) read(ctx context.Context) error {
	r := &f.reading
	records, bytes, began := r.records, r.bytes, time.Now()
	err := f.cfg.Source.Read(ctx)
	if o, ok := f.cfg.Observer.(ReadObserver); ok && r.records > records {
		o.ReadDone(int(r.records-records), r.bytes-bytes, time.Since(began))
	}
	return err
}

// sizeFetch tells the source how much to ask for from now on, after a Read that
// took so long, and was held up by full lanes before.
func (f *Flow) sizeFetch(heldUp, took time.Duration) {
	r := &f.reading
	if r.records > 0 { // else the Read was interrupted, and says nothing
		r.largest = max(r.bytes, r.largest-r.largest/16)
	}
	if r.sizer != nil && r.records > 0 {
		most := r.sizer.FetchSize()
		size := most
		if r.control != nil {
			most *= 4
			size = r.control.Observe(adapt.ReadSample{Read: took, Full: heldUp, Records: int(r.records), Bytes: r.bytes, Lag: f.unread()})
		}
		r.fits = fetchThatFits(r.fits, min(r.size, r.fits), most, r.bytes, f.cfg.Buffer)
		if size = min(size, r.fits); size != r.size {
			r.size = size
			r.sizer.SetFetchSize(size)
		}
	}
	r.records, r.bytes = 0, 0
}

// unread is how many offsets the log is known to hold beyond what was delivered.
func (f *Flow) unread() (n int64) {
	for _, l := range f.lanes {
		l.mu.Lock()
		for _, p := range l.parts {
			if !p.gone {
				n += max(0, p.end-p.expect)
			}
		}
		l.mu.Unlock()
	}
	return n
}

// awaitRoom waits until some lane takes more, and the flow is not paused; or there is
// something to seek. Partitions of lanes that do not are
// paused, if the source can.
func (f *Flow) awaitRoom(ctx context.Context) bool {
	pauser, _ := f.cfg.Source.(Pauser)
	for {
		f.mu.Lock()
		assignments := f.assignments
		f.mu.Unlock()
		room, full, paused := 0, 0, false
		total, least := int64(0), int64(math.MaxInt64)
		for _, l := range f.lanes {
			l.mu.Lock()
			held := l.buffered()
			l.mu.Unlock()
			total, least = total+held, min(least, held)
			if held < f.roomBelow {
				room++
			}
			if held >= f.pauseAbove {
				full++
			}
		}
		// What was fetched of a partition that is paused is thrown away and fetched
		// again. So a full lane stops the reader, and is paused only for one that would
		// otherwise have nothing to do soon.
		hungry := least < f.roomBelow/4
		var pause, resume []Partition
		for _, l := range f.lanes {
			l.mu.Lock()
			held := l.buffered()
			over, low := hungry && held >= f.pauseAbove, held <= f.roomBelow/2
			for _, p := range l.parts {
				// A partition that is gone but not revoked yet stays paused.
				gone := p.gone || !p.fencedAt.IsZero()
				switch {
				case (!p.paused || p.unsettled) && (over || gone):
					p.paused = true
					pause = append(pause, p.Partition)
				case p.unsettled, p.paused && low && !gone:
					p.paused = false
					resume = append(resume, p.Partition)
				}
				p.unsettled = false
				paused = paused || p.paused && !gone
			}
			l.mu.Unlock()
		}
		f.mu.Lock()
		seeks, halted := len(f.seeks) > 0, f.paused
		f.anyPaused = paused || f.assignments != assignments
		f.mu.Unlock()
		if pauser != nil {
			if len(pause) > 0 {
				pauser.Pause(pause)
			}
			if len(resume) > 0 {
				pauser.Resume(resume)
			}
		}
		// What the next Read delivers is to fit, too; but a lane with nothing to do
		// does not wait for one that is stuck.
		fits := least == 0 || total+f.reading.largest <= f.cfg.Buffer
		if !halted && room > 0 && fits && (full == 0 || pauser != nil && hungry) || seeks {
			return true
		}
		f.reading.paused = f.reading.paused || halted
		f.standing.Store(true)
		f.pokeLanes() // to wait for more would be in vain
		select {
		case <-f.room:
		case <-ctx.Done():
			return false
		}
		f.standing.Store(false)
	}
}

func (f *Flow) pokeLanes() {
	for _, l := range f.lanes {
		l.poke()
	}
}

// roomChanged makes the reader look at the lanes again. While partitions are
// paused it interrupts a Read: what it waits for may be in one of them.
func (f *Flow) roomChanged() {
	f.standing.Store(false) // the reader decides anew, before a lane takes it for full
	select {
	case f.room <- struct{}{}:
	default:
	}
	f.mu.Lock()
	if f.anyPaused && f.wakeRead != nil {
		f.wakeRead()
	}
	f.mu.Unlock()
}

// seek is a position that the source must be set to, and the number that the
// partition gave it.
type seek struct {
	p   *partition
	pos Position
	n   int
}

// requestSeek asks the reader to set the source back.
func (f *Flow) requestSeek(seeks []seek) {
	if len(seeks) == 0 {
		return
	}
	f.mu.Lock()
	f.seeks = append(f.seeks, seeks...)
	if f.wakeRead != nil {
		f.wakeRead()
	}
	f.mu.Unlock()
	f.roomChanged()
}

// applySeeks carries out what requestSeek asked for, and arms the interruption
// of the Read that follows. It returns false if the read must not take place.
func (f *Flow) applySeeks(ctx context.Context, stop context.CancelFunc) bool {
	f.mu.Lock()
	seeks := f.seeks
	f.seeks = nil
	f.wakeRead = stop
	paused, halted := f.anyPaused, f.paused
	f.mu.Unlock()
	if len(seeks) == 0 {
		if halted {
			return false
		}
		if !paused {
			return true
		}
		select {
		case <-f.room: // changed since the lanes were looked at
			return false
		default:
			return true
		}
	}
	seeker, ok := f.cfg.Source.(Seeker)
	if !ok {
		f.fail(errors.New("the checkpoint was moved, and the source cannot be set back: start the flow again"))
		return false
	}
	var valid []seek
	var positions []Position
	for _, k := range seeks {
		k.p.lane.mu.Lock()
		if !k.p.gone && k.p.seek == k.n { // else revoked, or overtaken by another seek
			valid, positions = append(valid, k), append(positions, k.pos)
		}
		k.p.lane.mu.Unlock()
	}
	if len(valid) == 0 {
		return !halted
	}
	if err := f.retry(ctx, "setting the source back", func() error { return seeker.Seek(ctx, positions) }); err != nil {
		f.mu.Lock()
		f.seeks = append(valid, f.seeks...)
		f.mu.Unlock()
		if ctx.Err() == nil {
			f.fail(err)
		}
		return false
	}
	for _, k := range valid {
		k.p.lane.mu.Lock()
		if k.p.seek == k.n {
			k.p.seeking = false
		}
		k.p.lane.mu.Unlock()
	}
	return !halted
}

// lookEvery is how often the ends of the log are asked for while nothing is read: else nobody
// would see the lag grow of a flow that is paused, or whose target is away. Not a
// whole number of seconds, to keep clear of what else happens each ten.
var lookEvery = 10*time.Second + 111*time.Millisecond

// lookAtEnds asks the source how far the log reaches by now. If it does not answer, the ends stay as
// they were last seen.
func (f *Flow) lookAtEnds(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery/2)
	defer cancel()
	log, err := f.cfg.Source.Open(ctx)
	if err != nil {
		f.log.Debug("asking for the ends of the log while nothing is read", slog.Any("error", err))
		return
	}
	for i := range log.Partitions {
		info := &log.Partitions[i]
		f.mu.Lock()
		p := f.parts[info.Partition]
		f.mu.Unlock()
		if p == nil {
			continue
		}
		p.lane.mu.Lock()
		if p.topicID == info.TopicID {
			p.seen(info.End, f.clock.now())
		}
		p.lane.mu.Unlock()
	}
}

// committer tells the source what is durable, and asks for the ends of the log. With a Checkpointer that is for
// lag tools only: it is done seldom, and an error is logged and nothing more.
// Without, it is the checkpoint.
type committer struct {
	f     *Flow
	wake  chan struct{}
	every time.Duration

	// busy is held while the source commits, because calls must not overlap. A
	// channel, so that waiting for it ends with a context.
	busy chan struct{}
	// said is when a failure was last logged; whoever holds busy uses it.
	said time.Time
}

// How often positions are told to the source.
const (
	commitEvery         = 100 * time.Millisecond
	commitEveryForTools = time.Second
)

func newCommitter(f *Flow) *committer {
	c := &committer{f: f, wake: make(chan struct{}, 1), busy: make(chan struct{}, 1), every: commitEvery}
	if f.checkpoints != nil {
		c.every = commitEveryForTools
	}
	return c
}

func (c *committer) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) run(ctx context.Context) {
	timer := time.NewTimer(c.every)
	defer timer.Stop()
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	looked, failed := time.Now(), 0
	for {
		select {
		case <-c.wake:
		case <-look.C:
		case <-ctx.Done():
			return
		}
		pause := c.every
		if err := c.commitAll(ctx); err != nil {
			failed++
			pause = max(pause, min(knockEvery, c.f.cfg.Retry.wait(failed, err)))
			c.poke() // there may be no next batch to tell them with
		} else {
			failed = 0
		}
		if now := time.Now(); now.Sub(looked) >= lookEvery {
			looked = now
			look.Reset(lookEvery)
			if c.f.standing.Load() {
				c.f.lookAtEnds(ctx)
			}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *committer) commitAll(ctx context.Context) error {
	c.f.mu.Lock()
	all := make([]*partition, 0, len(c.f.parts))
	for _, p := range c.f.parts {
		all = append(all, p)
	}
	c.f.mu.Unlock()
	return c.commit(ctx, all)
}

// commit tells the source the positions of ps that it does not know yet. It logs the error.
func (c *committer) commit(ctx context.Context, ps []*partition) error {
	source, ok := c.f.cfg.Source.(Committer)
	if _, inGroup := c.f.checkpoints.(GroupCheckpointer); !ok || inGroup {
		return nil
	}
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var positions []Position
	var moved []*partition
	for _, p := range ps {
		p.lane.mu.Lock()
		if p.committed > p.told {
			positions = append(positions, Position{Partition: p.Partition, TopicID: p.topicID, Offset: p.committed, LeaderEpoch: p.epoch})
			moved = append(moved, p)
		}
		p.lane.mu.Unlock()
	}
	if len(positions) == 0 {
		return nil
	}
	failpoint.Hit("flow.before_source_commit")
	if err := source.Commit(ctx, positions); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // the flow stops: commitAll tells them once more
		}
		level := slog.LevelWarn
		if c.f.checkpoints != nil {
			level = slog.LevelInfo
		}
		if now := time.Now(); now.Sub(c.said) >= sayAgain {
			c.said = now
			c.f.log.Log(ctx, level, "telling the source its positions failed; they will be told again", slog.Any("error", err))
		}
		return err
	}
	c.said = time.Time{}
	for i, p := range moved {
		p.lane.mu.Lock()
		p.told = max(p.told, positions[i].Offset)
		p.lane.mu.Unlock()
	}
	return nil
}
