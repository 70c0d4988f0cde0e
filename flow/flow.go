package flow

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstockdev/penstock/internal/adapt"
	"github.com/penstockdev/penstock/internal/slab"
)

// Flow is a running, or not yet running, flow.
//
// Its goroutines: the caller of Run reads from the source; each lane has two;
// the committer tells the source what is durable. The source calls Assigned and
// Revoked from a goroutine of its own. Run waits for all of them.
type Flow struct {
	cfg         Config
	log         *slog.Logger
	checkpoints Checkpointer // nil: the source keeps the positions
	// keepsDeadLetters: a record that cannot be processed has somewhere to go.
	keepsDeadLetters bool

	// Set by start, before anything else runs.
	origin *Log
	lanes  []*lane
	// A lane with less than roomBelow bytes takes more; one with pauseAbove has
	// its partitions paused while others go on.
	roomBelow, pauseAbove int64
	committer             *committer

	buffers slab.Pool[Record]

	room chan struct{} // wakes the reader
	// standing: the reader waits for room, or is paused, so no lane gets more.
	standing atomic.Bool
	taps     atomic.Pointer[[]*tapped] // nil: none. Replaced under mu, never changed
	// reading belongs to the reader.
	reading struct {
		records, bytes int64 // that Deliver has taken since the last Read
		largest        int64 // bytes that a Read may well deliver, seen from the last ones
		paused         bool  // by Pause, since the last Read
		// sizer is nil where what the source fetches cannot be set; control where it
		// is set only to fit the buffer; size is what it was set to, and fits what fits.
		sizer      FetchSizer
		control    *adapt.Reader
		size, fits int
	}

	mu       sync.Mutex // guards what follows; before any lane.mu
	parts    map[Partition]*partition
	seeks    []seek
	wakeRead context.CancelFunc // interrupts Read; nil while the reader does not read
	// anyPaused: Read cannot deliver everything, so a change must interrupt it.
	anyPaused bool
	paused    bool // by Pause
	// assignments counts calls of Assigned.
	assignments int
	state       State
	failure     error // why the flow stops
	cancel      context.CancelFunc
	retries     map[*lane]*retryState // what is tried again; nil: the reader, or the start
	waiting     map[Partition]error   // partitions whose position is lost
	deadSaid    time.Time             // when dead letters were last logged

	clock clock

	records, rows, dead, batches, retried, bytes, fences atomic.Int64
	lastCommit                                           atomic.Int64 // Unix microseconds
}

// New checks the configuration. It connects to nothing.
func New(cfg Config) (*Flow, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	f := &Flow{
		cfg: cfg, log: cfg.Logger.With(slog.String("flow", cfg.Name)),
		buffers: slab.Pool[Record]{Max: maxFreeRecords}, room: make(chan struct{}, 1),
		parts: map[Partition]*partition{}, retries: map[*lane]*retryState{}, waiting: map[Partition]error{}, state: StateStarting,
	}
	f.checkpoints, _ = cfg.Sink.(Checkpointer)
	store, ok := cfg.Sink.(DeadLetterStore)
	f.keepsDeadLetters = cfg.DeadLetters != nil || ok && store.StoresDeadLetters()
	return f, nil
}

// Run runs the flow until ctx ends or an error stops it. When ctx ends, what
// the lanes hold is written within Config.ShutdownGrace; then Run returns nil.
// What is not written then is read again at the next start. In every case
// source and sink are closed when Run returns. Call it once.
func (f *Flow) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.cancel = cancel
	f.mu.Unlock()

	// Lanes outlive ctx by the grace.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()

	err := f.start(ctx)
	if err == nil {
		f.mu.Lock()
		f.state = StateRunning
		f.mu.Unlock()
		f.move(ctx, writing, stopWriting)
	} else if ctx.Err() == nil {
		f.fail(err)
	}
	f.close(context.WithoutCancel(ctx))

	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = StateStopped
	if f.failure != nil {
		return fmt.Errorf("flow %s stopped: %w", f.cfg.Name, f.failure)
	}
	return nil
}

// start connects both ends and makes the lanes.
func (f *Flow) start(ctx context.Context) error {
	err := f.retry(ctx, "connecting to the source", func() (err error) {
		f.origin, err = f.cfg.Source.Open(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	f.cfg.Lanes = f.laneCount(len(f.origin.Partitions))
	setup := Setup{Flow: f.cfg.Name, ClusterID: f.origin.ClusterID, Source: f.origin.Name, Lanes: f.cfg.Lanes}
	if m, ok := f.cfg.Source.(GroupMember); ok {
		setup.Member = m.Member
	}
	transforms := make([][][]Transform, f.cfg.Lanes)
	for n := range transforms {
		if transforms[n], err = f.cfg.transforms(n); err != nil {
			return err
		}
	}
	setup.Fields = fields(transforms[0][0])
	if len(f.cfg.Routes) > 0 {
		setup.Fields, setup.Routes = nil, make([][]Field, len(f.cfg.Routes))
		for r := range setup.Routes {
			setup.Routes[r] = fields(transforms[0][r])
		}
	}
	for i := range f.origin.Partitions { // before anything is stored or made
		if _, err := f.cfg.routeOf(f.origin.Partitions[i].Topic); err != nil {
			return err
		}
	}
	err = f.retry(ctx, "opening the sink", func() error { return f.cfg.Sink.Open(ctx, setup) })
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	if limiter, ok := f.cfg.Sink.(LaneLimiter); ok && limiter.MaxLanes() < f.cfg.Lanes {
		f.log.Debug("the sink allows fewer lanes", slog.Int("lanes", limiter.MaxLanes()), slog.Int("wanted", f.cfg.Lanes))
		f.cfg.Lanes = max(1, limiter.MaxLanes())
	}
	if f.cfg.DeadLetters != nil {
		err = f.retry(ctx, "opening the dead-letter queue", func() error { return f.cfg.DeadLetters.Open(ctx, setup) })
		if err != nil {
			return fmt.Errorf("dead letters: %w", err)
		}
	}
	if f.checkpoints != nil {
		if err := f.initCheckpoint(ctx); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	share := f.cfg.Buffer / int64(f.cfg.Lanes)
	f.roomBelow, f.pauseAbove = max(1, share*2/3), max(1, share)
	f.committer = newCommitter(f)
	if sizer, ok := f.cfg.Source.(FetchSizer); ok {
		r, size := &f.reading, sizer.FetchSize()
		r.sizer, r.size, r.fits = sizer, size, size
		if f.cfg.Batch.Adaptive {
			r.fits = 4 * size
			r.control = adapt.NewReader(adapt.FetchLimits{Min: size / 4, First: size, Max: r.fits})
		}
	}
	f.mu.Lock()
	for n := range f.cfg.Lanes {
		w, err := f.cfg.Sink.Writer(n)
		if err != nil {
			f.mu.Unlock()
			return fmt.Errorf("sink: %w", err)
		}
		f.lanes = append(f.lanes, newLane(f, n, w, transforms[n]))
	}
	f.mu.Unlock()
	return f.retry(ctx, "subscribing", func() error { return f.cfg.Source.Subscribe(ctx, intake{f}) })
}

// transforms makes those of one lane, by route.
func (c *Config) transforms(lane int) ([][]Transform, error) {
	if len(c.Routes) == 0 {
		if c.Transforms == nil {
			return [][]Transform{nil}, nil
		}
		ts, err := c.Transforms(lane)
		return [][]Transform{ts}, err
	}
	out := make([][]Transform, len(c.Routes))
	for i, r := range c.Routes {
		if r.Transforms == nil {
			continue
		}
		var err error
		if out[i], err = r.Transforms(lane); err != nil {
			return nil, fmt.Errorf("route %s: %w", r.Name, err)
		}
	}
	return out, nil
}

// fields are the columns that the last Schemer makes.
func fields(ts []Transform) (out []Field) {
	for _, t := range ts {
		if s, ok := t.(Schemer); ok {
			out = s.Fields()
		}
	}
	return out
}

func (f *Flow) laneCount(partitions int) int {
	n := f.cfg.Lanes
	if n == 0 {
		n = min(max(1, partitions), runtime.GOMAXPROCS(0))
	}
	return n
}

// initCheckpoint makes sure that a new flow has its start stored before
// anything is read: a crash cannot move it then. Partitions that have appeared since are added.
func (f *Flow) initCheckpoint(ctx context.Context) error {
	return f.retry(ctx, "preparing the checkpoint", func() error {
		err := f.checkpoints.Init(ctx, func(context.Context) ([]Position, error) {
			positions := make([]Position, len(f.origin.Partitions))
			for i := range f.origin.Partitions {
				p := &f.origin.Partitions[i]
				positions[i] = Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Start, LeaderEpoch: -1}
			}
			return positions, nil
		})
		if err != nil {
			return err
		}
		return f.addPartitions(ctx, f.origin)
	})
}

// addPartitions stores the beginning of all partitions that are newer than
// those that the checkpoint knows: all at once, because one that is missing
// below others means that somebody removed its row.
func (f *Flow) addPartitions(ctx context.Context, log *Log) error {
	known, err := f.checkpoints.Topics(ctx)
	if err != nil {
		return err
	}
	var fresh []Position
	for _, info := range log.Partitions {
		if n := known[info.Topic]; n > 0 && info.ID >= n || n == 0 && log.OpenEnded {
			fresh = append(fresh, Position{Partition: info.Partition, TopicID: info.TopicID, Offset: info.Begin, LeaderEpoch: -1})
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	f.log.Info("partitions have appeared: they are read from their beginning", slog.String("partitions", summary(fresh)))
	return f.checkpoints.Insert(ctx, fresh)
}

// move reads until ctx ends, then lets the lanes finish within the grace.
func (f *Flow) move(ctx, writing context.Context, stopWriting context.CancelFunc) {
	var wg sync.WaitGroup
	for _, l := range f.lanes {
		wg.Go(func() { l.run(writing) })
	}
	var cwg sync.WaitGroup
	cctx, stopCommitter := context.WithCancel(writing)
	cwg.Go(func() { f.committer.run(cctx) })

	f.readLoop(ctx)

	f.mu.Lock()
	failed := f.failure != nil
	if !failed {
		f.state = StateStopping
	}
	f.mu.Unlock()
	if failed {
		// The lanes finish nothing: what they hold may be what failed. A write
		// under way is broken off, which leaves all of it or nothing.
		stopWriting()
	}
	for _, l := range f.lanes {
		l.drain()
	}
	grace := time.AfterFunc(f.cfg.ShutdownGrace, func() {
		f.log.Warn("the grace has passed: what is not written yet will be read again", slog.Duration("grace", f.cfg.ShutdownGrace))
		stopWriting()
	})
	wg.Wait()
	grace.Stop()
	stopCommitter()
	cwg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = f.committer.commitAll(last) // it was logged, and what was not told is read again
}

// close ends everything that start made. Errors are logged: at this point
// nothing can be lost any more.
func (f *Flow) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// The source first: its callbacks use the sink.
	if err := f.cfg.Source.Close(ctx); err != nil {
		f.log.Warn("closing the source", slog.Any("error", err))
	}
	for _, l := range f.lanes {
		if err := l.writer.Close(); err != nil {
			f.log.Warn("closing a writer", slog.Int("lane", l.n), slog.Any("error", err))
		}
	}
	if f.cfg.DeadLetters != nil {
		if err := f.cfg.DeadLetters.Close(ctx); err != nil {
			f.log.Warn("closing the dead-letter queue", slog.Any("error", err))
		}
	}
	if err := f.cfg.Sink.Close(ctx); err != nil {
		f.log.Warn("closing the sink", slog.Any("error", err))
	}
}

// retry repeats fn until it succeeds, ctx ends, or its error is fatal or has
// no class for too long.
func (f *Flow) retry(ctx context.Context, what string, fn func() error) error {
	unknown := 0
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil {
			f.clearRetry(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch ClassOf(err) {
		case ClassTransient:
			unknown = 0
		case ClassUnknown:
			if unknown++; unknown > f.cfg.Retry.UnknownAttempts {
				return fmt.Errorf("%s: gave up after %d attempts: %w", what, unknown, err)
			}
		case ClassData, ClassFenced, ClassFatal:
			return fmt.Errorf("%s: %w", what, err)
		}
		wait := f.cfg.Retry.wait(attempt, err)
		f.retrying(nil, attempt, wait, fmt.Errorf("%s: %w", what, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// retryState is what is known of attempts that fail.
type retryState struct {
	err      error
	attempts int
	since    time.Time
	// said is when it was last logged: not every attempt is news.
	said time.Time
	text string
}

// sayAgain is how often the same failure is logged.
const sayAgain = 10 * time.Second

// retrying logs, counts and shows a wait before another attempt of a lane, or
// with nil of the reader or the start.
func (f *Flow) retrying(l *lane, attempt int, wait time.Duration, err error) {
	f.retried.Add(1)
	n, log := -1, f.log
	if l != nil {
		n, log = l.n, f.log.With(slog.Int("lane", l.n))
	}
	now, text := time.Now(), err.Error()
	f.mu.Lock()
	r := f.retries[l]
	if r == nil {
		r = &retryState{since: now}
		f.retries[l] = r
	}
	r.err = err
	r.attempts++
	say := r.text != text || now.Sub(r.said) >= sayAgain
	if say {
		r.said, r.text = now, text
	}
	f.mu.Unlock()
	if say {
		log.Warn("will try again", slog.Int("attempt", attempt), slog.Duration("wait", wait.Round(time.Millisecond)), slog.Any("error", err))
	}
	if f.cfg.Observer != nil {
		f.cfg.Observer.Retrying(n, attempt, wait, err)
	}
}

// clearRetry follows an attempt that succeeded.
func (f *Flow) clearRetry(l *lane) {
	f.mu.Lock()
	r := f.retries[l]
	delete(f.retries, l)
	f.mu.Unlock()
	if r != nil {
		f.log.Info("works again", slog.Int("attempts", r.attempts), slog.Duration("after", time.Since(r.since).Round(time.Millisecond)), slog.String("was", r.text))
	}
}

// fail stops the flow; the first reason counts.
func (f *Flow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.failure = err
	}
	f.cancel()
}

// fenced counts and logs a refused write.
func (f *Flow) fenced(l *lane, b *laneBatch, err *FencedError) {
	f.fences.Add(1)
	f.log.Warn("write fenced: nothing was written, the lane reads the checkpoint again",
		slog.Int("lane", l.n), slog.Int("records", b.Len()), slog.Any("error", err))
}

// sayDead logs dead letters, the first of a batch for all of them, and not
// more often than each 10 s.
func (f *Flow) sayDead(dead []DeadLetter) {
	now := time.Now()
	f.mu.Lock()
	say := now.Sub(f.deadSaid) >= sayAgain
	if say {
		f.deadSaid = now
	}
	f.mu.Unlock()
	if !say {
		return
	}
	d := &dead[0]
	f.log.Warn("records cannot be processed and become dead letters", slog.Int("of_this_batch", len(dead)), slog.Int64("so_far", f.dead.Load()+int64(len(dead))),
		slog.Group("first", slog.String("topic", d.Topic), slog.Int("partition", int(d.ID)), slog.Int64("offset", d.Record.Offset),
			slog.String("stage", string(d.Stage)), slog.String("class", d.Class), slog.String("column", d.Column), slog.String("message", d.Message)))
}

func (f *Flow) count(s *BatchStats) {
	f.batches.Add(1)
	f.records.Add(int64(s.Records))
	f.rows.Add(int64(s.Rows))
	f.dead.Add(int64(s.Records - s.Rows))
	f.bytes.Add(s.Bytes)
	f.lastCommit.Store(f.clock.now().UnixMicro())
	if f.cfg.Observer != nil {
		f.cfg.Observer.BatchWritten(*s)
	}
}

// putDeadLetters is the hook behind Batch.BeforeCommit.
func (f *Flow) putDeadLetters(ctx context.Context, b *Batch) error {
	dead := b.deadLetters()
	if len(dead) == 0 {
		return nil
	}
	if err := f.cfg.DeadLetters.Put(ctx, dead); err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	return nil
}

// Status is a snapshot. It may be called at any time.
func (f *Flow) Status() Status {
	s := Status{
		Flow: f.cfg.Name, Records: f.records.Load(), Rows: f.rows.Load(), Dead: f.dead.Load(), Batches: f.batches.Load(),
		Retries: f.retried.Load(), Bytes: f.bytes.Load(), Fenced: f.fences.Load(),
	}
	if t := f.lastCommit.Load(); t != 0 {
		s.LastCommit = time.UnixMicro(t)
	}
	now := f.clock.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	s.State = f.state
	for _, r := range f.retries {
		if s.State == StateRunning {
			s.State = StateRetrying
		}
		if s.State == StateRetrying || s.State == StateStarting {
			s.Err = r.err
		}
	}
	for _, err := range f.waiting {
		if s.State == StateRunning || s.State == StateRetrying {
			s.State = StateWaiting
		}
		s.Err = err
	}
	if f.failure != nil {
		s.Err = f.failure
	}
	if f.paused && (s.State == StateRunning || s.State == StateRetrying || s.State == StateWaiting) {
		s.State = StatePaused
	}
	s.Lanes = len(f.lanes)
	s.LaneStates = make([]LaneStatus, len(f.lanes))
	for i, l := range f.lanes {
		ls := &s.LaneStates[i]
		if r := f.retries[l]; r != nil {
			ls.Attempt, ls.Err = r.attempts, r.err
		}
		l.mu.Lock()
		ls.Lane, ls.Partitions, ls.Buffered, ls.Records = l.n, len(l.parts), l.buffered(), l.records+l.cutRecords
		ls.Writing, ls.WriteBegan = !l.writeBegan.IsZero(), l.writeBegan
		s.Buffered += ls.Buffered
		for _, p := range l.parts {
			ps := PartitionStatus{
				Partition: p.Partition, Lane: l.n, Next: p.committed, End: max(p.end, p.committed), Paused: p.paused, Updated: p.updated,
			}
			switch {
			case ps.End <= ps.Next:
			case p.newest > 0:
				ps.Behind = max(0, now.Sub(time.UnixMicro(p.newest)))
			case p.updated.IsZero() && !p.waiting.IsZero():
				ps.Behind = now.Sub(p.waiting)
			}
			s.Partitions = append(s.Partitions, ps)
		}
		l.mu.Unlock()
	}
	return s
}
