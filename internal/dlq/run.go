package dlq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// Result is what a redrive, a drop or a release has come to.
type Result struct {
	Job  string `json:"job"`
	Kind Kind   `json:"action"`
	// Letters are those that the job had when this process took it up.
	Letters int `json:"letters"`
	// Redriven have become rows; Dead have failed again, by class. With Left they are of this
	// process; otherwise of the job, as far as that can be known.
	Redriven int            `json:"redriven"`
	Dead     map[string]int `json:"dead_again,omitempty"`
	// Dropped, Released: letters that are gone, or open again.
	Dropped  int `json:"dropped,omitempty"`
	Released int `json:"released,omitempty"`
	// Left are still to be done: the same command goes on with them.
	Left int `json:"left"`
}

// DeadAgain is the sum of Dead.
func (r *Result) DeadAgain() (n int) {
	for _, k := range r.Dead {
		n += k
	}
	return n
}

// Redrive does what the plan says, and calls progress, if it is not nil, now and then. When ctx ends it stops in
// order, and what is left is in Result.Left.
func (q *Queue) Redrive(ctx context.Context, p *Plan, progress func(Progress)) (*Result, error) {
	if p.Letters == 0 {
		return &Result{Kind: p.Kind}, nil
	}
	if err := q.take(ctx, p); err != nil {
		return nil, err
	}
	failpoint.Hit("redrive.after_take")
	return q.run(ctx, p, redrive, progress)
}

// Progress is how far a redrive is.
type Progress struct {
	Letters, Done, Dead int
	Elapsed             time.Duration
	// Trouble is why nothing moves; nil where all is well.
	Trouble error
	// Yielded: another process has taken letters of the job over. This one goes on where that one does not.
	Yielded bool
}

// mode is what a run is for.
type mode int

const (
	redrive mode = iota
	settle       // positions are taken over, nothing is sent
)

// run runs the job's flow to its end and settles what has become of the letters.
func (q *Queue) run(ctx context.Context, p *Plan, m mode, progress func(Progress)) (*Result, error) {
	cfg, err := q.build()
	if err != nil {
		return nil, err
	}
	if err := cfg.Source.Close(ctx); err != nil {
		return nil, fmt.Errorf("closing the source of the flow: %w", err)
	}
	_, positions := cfg.Sink.(flow.Checkpointer)
	cluster := "dead-letters"
	if _, ok := cfg.Sink.(flow.GroupCheckpointer); ok {
		if cluster = p.cluster; p.mixed {
			return nil, errors.Join(errMixed, closeConfig(context.WithoutCancel(ctx), &cfg))
		}
	}
	src := newSource(q, p, q.flowName(p.Job), cluster)
	src.keeps, src.delivers = !positions, m == redrive
	if src.keeps {
		cfg.Sink = &notedSink{cfg.Sink, src.dead}
	}
	if cfg.DeadLetters != nil {
		cfg.DeadLetters = &attemptQueue{cfg.DeadLetters, src}
	}
	counts := &counter{changed: make(chan struct{}, 1), dead: map[string]int{}}
	cfg.Name, cfg.Source, cfg.Observer = src.name, src, counts
	for i := range cfg.Routes {
		cfg.Routes[i].Transforms = restore(cfg.Routes[i].Transforms)
	}
	if len(cfg.Routes) == 0 {
		cfg.Transforms = restore(cfg.Transforms)
	}
	cfg.WaitOnLostPosition = false
	fl, err := flow.New(cfg)
	if err != nil {
		return nil, err
	}
	last, moved := 0, time.Now()
	complete, err := q.await(ctx, fl, src, m, func(s *flow.Status) {
		if progress != nil {
			done, dead := counts.read()
			if done != last {
				last, moved = done, time.Now()
			}
			progress(Progress{
				Letters: p.Letters, Done: done, Dead: dead, Elapsed: time.Since(counts.began),
				Trouble: s.Err, Yielded: s.Fenced > 0 && time.Since(moved) > lookAgain,
			})
		}
	}, counts)
	if errors.Is(err, ErrEndedElsewhere) {
		return nil, fmt.Errorf("job %s: %w", p.Job, err)
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w; the same command goes on with it, and penstock dlq redrive --release gives it up", p.Job, err)
	}
	r := &Result{Job: p.Job, Kind: p.Kind, Letters: p.Letters}
	if !complete {
		counts.mu.Lock()
		defer counts.mu.Unlock()
		r.Redriven, r.Dead = counts.rows, counts.dead
		r.Left = max(0, p.Letters-counts.records-src.below(p))
		return r, nil
	}
	// What is done is done: an interrupt does not stop the last steps, which take a moment.
	return r, q.finish(context.WithoutCancel(ctx), src, m, counts, r)
}

// below is unknown for letters that were done before; the plan counts all that the job has.
func (s *source) below(p *Plan) (n int) {
	select {
	case <-s.settled:
		return p.doneBelow
	default:
		return 0
	}
}

// lookAgain is how often a process that another one has taken letters from looks whether there are any left.
const lookAgain = 2 * time.Second

// ErrEndedElsewhere says that another process has brought the job to its end.
var ErrEndedElsewhere = errors.New("another process has taken its letters over, and brought it to its end: " +
	"its output says what has become of them, and penstock dlq list what is left")

// await runs the flow until every letter is durable, or in mode settle until the positions are
// ours; complete says that it has come to that.
func (q *Queue) await(ctx context.Context, fl *flow.Flow, src *source, m mode, report func(*flow.Status), counts *counter) (complete bool, err error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	elsewhere := false
	counts.began = time.Now()
	wg.Go(func() {
		tick, again := time.NewTicker(100*time.Millisecond), time.NewTicker(lookAgain)
		defer tick.Stop()
		defer again.Stop()
		settled := src.settled
		for {
			select {
			case <-settled:
				settled = nil
			case <-counts.changed:
			case <-tick.C:
			case <-again.C:
				if fl.Status().Fenced > 0 && q.ended(running, src.plan.Job) {
					elsewhere = true
					stop()
					return
				}
			case <-running.Done():
				return
			}
			s := fl.Status()
			report(&s)
			if settled == nil && (m == settle || src.reached(&s)) {
				complete = true
				stop()
				return
			}
		}
	})
	err = fl.Run(running)
	stop()
	wg.Wait()
	s := fl.Status()
	report(&s)
	if elsewhere || err != nil && s.Fenced > 0 && q.ended(context.WithoutCancel(ctx), src.plan.Job) {
		return false, ErrEndedElsewhere
	}
	return complete, err
}

// ended says that the job has no letters any more.
func (q *Queue) ended(ctx context.Context, job string) bool {
	has := false
	err := q.ofJob(ctx, job, func(*flow.Letter) error {
		has = true
		return errEnough
	})
	return err == nil && !has
}

// reached says that every position is at its end.
func (s *source) reached(status *flow.Status) bool {
	at := map[flow.Partition]int64{}
	for i := range status.Partitions {
		at[status.Partitions[i].Partition] = status.Partitions[i].Next
	}
	for p, end := range s.plan.layout.ends {
		if at[p] < end {
			return false
		}
	}
	return true
}

// counter is what this process has made durable.
type counter struct {
	changed chan struct{}
	began   time.Time

	mu            sync.Mutex // guards what follows
	records, rows int
	dead          map[string]int
}

var _ flow.Observer = (*counter)(nil)

// BatchWritten implements flow.Observer.
func (c *counter) BatchWritten(s flow.BatchStats) {
	c.mu.Lock()
	c.records += s.Records
	c.rows += s.Rows
	for class, n := range s.Dead {
		c.dead[class] += n
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Retrying implements flow.Observer.
func (c *counter) Retrying(int, int, time.Duration, error) {}

// Rebalanced implements flow.Observer.
func (c *counter) Rebalanced(int, int) {}

func (c *counter) read() (done, dead int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records, c.records - c.rows
}

// again is why a letter has failed again.
type again struct {
	flow.DeadLetter // without the record
	places          []flow.Position
}

// failedAgain are the dead letters of the redrive's own flow.
func (q *Queue) failedAgain(ctx context.Context, name string) (map[deadPlace]again, error) {
	out := map[deadPlace]again{}
	err := q.scan(ctx, name, func(l *flow.Letter) error {
		at := deadPlace{flow.Partition{Topic: strings.Clone(l.Topic), ID: l.Partition.ID}, l.Record.Offset}
		a, ok := out[at]
		if !ok {
			a.Stage, a.Class = flow.Stage(strings.Clone(string(l.Stage))), strings.Clone(l.Class)
			a.Column, a.Message = strings.Clone(l.Column), strings.Clone(l.Message)
		}
		place := l.Place
		place.Topic, place.TopicID = strings.Clone(place.Topic), strings.Clone(place.TopicID)
		a.places = append(a.places, place)
		out[at] = a
		return nil
	})
	return out, err
}

// look looks at what other processes of the job have done.
func (q *Queue) look(ctx context.Context, s *source) error {
	if !s.keeps {
		s.plan.doneBelow = s.plan.layout.below(s.starts)
		return q.clearStale(ctx, s, s.starts)
	}
	failed, err := q.failedAgain(ctx, s.name)
	for at := range failed {
		s.dead.add(at.p, at.offset)
	}
	s.plan.doneBelow = len(failed)
	return err
}

// clearStale removes dead letters of the redrive's own flow at or above the positions: they are of
// transactions that were not committed. There are none where the sink keeps them itself.
func (q *Queue) clearStale(ctx context.Context, s *source, from map[flow.Partition]int64) error {
	if s.keeps {
		return nil
	}
	failed, err := q.failedAgain(ctx, s.name)
	if err != nil {
		return err
	}
	maps.DeleteFunc(failed, func(at deadPlace, _ again) bool {
		start, ok := from[at.p]
		return !ok || at.offset < start
	})
	s.newAttempt()
	return q.removeAgain(ctx, s, failed)
}

// removeAgain removes dead letters of the redrive's own flow.
func (q *Queue) removeAgain(ctx context.Context, s *source, letters map[deadPlace]again) error {
	var places []flow.Position
	for _, a := range letters {
		places = append(places, a.places...)
	}
	if len(places) == 0 {
		return nil
	}
	setup := flow.Setup{Flow: s.name}
	if err := q.log.Take(ctx, setup, s.plan.Job, places); err != nil {
		return fmt.Errorf("taking the dead letters of flow %s: %w", s.name, err)
	}
	if err := q.log.Remove(ctx, setup, s.plan.Job, places); err != nil {
		return fmt.Errorf("removing the dead letters of flow %s: %w", s.name, err)
	}
	return nil
}

// putBytes bounds what is put back at a time.
const putBytes = 16 << 20

// finish puts back what has failed again, and removes what is done. In mode settle the other
// letters are released.
func (q *Queue) finish(ctx context.Context, s *source, m mode, counts *counter, r *Result) error {
	failed, err := q.failedAgain(ctx, s.name)
	if err != nil {
		return err
	}
	r.Dead = map[string]int{}
	for _, a := range failed {
		r.Dead[a.Class]++
	}
	failpoint.Hit("redrive.before_put")
	if err := q.putBack(ctx, s, failed); err != nil {
		return err
	}
	failpoint.Hit("redrive.after_put")
	done := s.plan.places
	var rest []flow.Position
	if m == settle {
		if done, rest, err = q.divide(ctx, s, failed); err != nil {
			return err
		}
	}
	r.Redriven, r.Released = max(0, len(done)-r.DeadAgain()), len(rest)
	if s.keeps {
		counts.mu.Lock()
		r.Redriven = counts.rows
		counts.mu.Unlock()
	}
	// What says that a letter is done goes after the letter: the position, or the dead letter of the redrive.
	if !s.keeps {
		err = q.removeAgain(ctx, s, failed)
	}
	failpoint.Hit("redrive.before_remove")
	if err == nil {
		err = q.letGo(ctx, s.plan.Job, done, rest)
	}
	if err == nil && s.keeps {
		err = q.removeAgain(ctx, s, failed)
	}
	if err != nil {
		return err
	}
	failpoint.Hit("redrive.before_forget")
	if keeper, ok := q.cfg.Sink.(flow.Repositioner); ok && !s.keeps {
		if err := keeper.Forget(ctx, flow.Setup{Flow: s.name, ClusterID: s.log.ClusterID, Source: s.log.Name, Member: s.Member}); err != nil {
			return fmt.Errorf("the redrive is done, and its position could not be forgotten, which does no harm: %w", err)
		}
	}
	return nil
}

// letGo ends what the job has: it removes letters that are done, and releases the others.
func (q *Queue) letGo(ctx context.Context, job string, done, rest []flow.Position) error {
	if len(done) > 0 {
		if err := q.log.Remove(ctx, q.setup(), job, done); err != nil {
			return fmt.Errorf("removing the letters that were redriven: %w", err)
		}
	}
	if len(rest) > 0 {
		if err := q.log.Release(ctx, q.setup(), job, rest); err != nil {
			return fmt.Errorf("releasing the letters that were not redriven: %w", err)
		}
	}
	return nil
}

// divide tells letters of the job that are done from others.
func (q *Queue) divide(ctx context.Context, s *source, failed map[deadPlace]again) (done, rest []flow.Position, err error) {
	err = q.ofJob(ctx, s.plan.Job, func(l *flow.Letter) error {
		place := l.Place
		place.Topic, place.TopicID = s.plan.places[0].Topic, s.plan.places[0].TopicID
		_, isDone := failed[deadPlace{l.Partition, offsetOf(l)}]
		if isDone || !s.keeps && offsetOf(l) < s.starts[l.Partition] {
			done = append(done, place)
		} else {
			rest = append(rest, place)
		}
		return nil
	})
	return done, rest, err
}

// putBack keeps the letters that have failed again, under the identity that they had and with the new reason.
func (q *Queue) putBack(ctx context.Context, s *source, failed map[deadPlace]again) error {
	put := map[deadPlace]bool{}
	for len(put) < len(failed) {
		var letters []flow.Letter
		size := 0
		err := q.ofJob(ctx, s.plan.Job, func(l *flow.Letter) error {
			at := deadPlace{l.Partition, offsetOf(l)}
			a, ok := failed[at]
			if !ok || put[at] {
				return nil
			}
			c := cloneLetter(l)
			c.Stage, c.Class, c.Column, c.Message = a.Stage, a.Class, a.Column, a.Message
			c.Redrives, c.Job, c.Flow = l.Redrives+1, "", q.flow
			c.Record.Headers = countRedrive(c.Record.Headers, c.Redrives)
			letters = append(letters, c)
			at.p = c.Partition
			put[at] = true
			if size += c.Record.Size(); size >= putBytes {
				return errEnough
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			return nil // the others were put back, and removed, before this process began
		}
		if err := q.log.Put(ctx, q.setup(), letters); err != nil {
			return fmt.Errorf("putting back %d letters that have failed again: %w", len(letters), err)
		}
	}
	return nil
}
