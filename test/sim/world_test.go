package sim

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

const (
	topic = "t"
	group = "g"
	name  = "f"
)

// world is everything outside of the engines: log, group, table and time. Its
// lock is held by the scheduler but for the time in which it waits for the
// engines to act; they take it to leave calls in pending, and little else.
type world struct {
	mu sync.Mutex // guards all fields, and those of everything in the world

	seed   uint64
	rng    *rand.Rand
	plan   plan
	bug    bug
	faults bool // whether calls may fail: not while the world comes to rest

	log     *flowtest.Log
	inner   *flowtest.LogSource // describes the log
	table   *table
	group   coordinator
	ledgers []*ledger // by partition
	procs   []*process
	began   time.Time

	pending []*call
	retries int // waits before another attempt since the world was last quiet

	trace     io.Writer   // nil: nobody reads along
	hash      hash.Hash64 // of the trace
	recent    []string
	line      []byte
	steps     int
	violation error
	stats     stats
}

// stats says what schedules were made of: a run in which nothing was fenced
// proves nothing.
type stats struct {
	Steps, Batches, Records, Fenced, Restores, Kills, Zombies, LostAnswers, Rewinds, Dead, Pauses int
	Virtual                                                                                       time.Duration
}

func (s *stats) add(o stats) {
	s.Steps += o.Steps
	s.Batches += o.Batches
	s.Records += o.Records
	s.Fenced += o.Fenced
	s.Restores += o.Restores
	s.Kills += o.Kills
	s.Zombies += o.Zombies
	s.LostAnswers += o.LostAnswers
	s.Rewinds += o.Rewinds
	s.Dead += o.Dead
	s.Pauses += o.Pauses
	s.Virtual += o.Virtual
}

// plan is what a seed fixes for a whole schedule.
type plan struct {
	atLeastOnce bool // the source keeps the positions
	queue       bool // dead letters go to a queue outside the sink
	vague       bool // data errors name no row
	partitions  int
	processes   int // at most
	steps       int
	faulty      int // a call in so many fails
	maxRecords  int // of one fetch
	config      flow.Config
}

func newPlan(rng *rand.Rand) plan {
	return plan{
		atLeastOnce: rng.IntN(4) == 0,
		queue:       rng.IntN(3) == 0,
		vague:       rng.IntN(2) == 0,
		partitions:  1 + rng.IntN(5),
		processes:   1 + rng.IntN(4),
		steps:       100 + rng.IntN(400),
		faulty:      5 << rng.IntN(5),
		maxRecords:  1 + rng.IntN(30),
		config: flow.Config{
			Name:  name,
			Lanes: 1 + rng.IntN(3),
			// The odd nanoseconds keep the engine's timers from ending at the same
			// instant, where their order would be left to the runtime.
			Batch:         flow.BatchLimits{Records: 1 + rng.IntN(25), Wait: 5*time.Millisecond + 7, Adaptive: rng.IntN(4) == 0},
			Buffer:        int64(200 + rng.IntN(6000)),
			Retry:         flow.Retry{Initial: retryWait, Max: retryWait},
			ShutdownGrace: time.Duration(1+rng.IntN(10_000))*time.Millisecond + 3,
		},
	}
}

func (p *plan) String() string {
	return fmt.Sprintf("at least once: %t, dead-letter queue: %t, vague: %t, partitions: %d, processes: %d, steps: %d, one of %d calls fails, "+
		"records a fetch: %d, lanes: %d, batch: %d, adaptive: %t, buffer: %d, grace: %s", p.atLeastOnce, p.queue, p.vague, p.partitions, p.processes, p.steps, p.faulty,
		p.maxRecords, p.config.Lanes, p.config.Batch.Records, p.config.Batch.Adaptive, p.config.Buffer, p.config.ShutdownGrace)
}

// retryWait is so short that it passes within a step: how long an attempt
// waits is for the scheduler to say. See process.Retrying.
const retryWait = time.Nanosecond

func newWorld(seed uint64, b bug, trace io.Writer) *world {
	rng := rand.New(rand.NewPCG(seed, 0x51_3)) //nolint:gosec // a schedule, not a secret
	w := &world{
		seed: seed, rng: rng, plan: newPlan(rng), bug: b, faults: true, log: flowtest.NewLog(),
		hash: fnv.New64a(), trace: trace, began: time.Now(),
	}
	if b.only != 0 {
		w.plan.atLeastOnce = b.only == atLeastOnce
	}
	w.log.Create(topic, w.plan.partitions)
	w.inner = w.log.Source(flowtest.LogOptions{Topics: []string{topic}, Group: group})
	w.table = newTable(w)
	w.group.owner = map[flow.Partition]*process{}
	for range w.plan.partitions {
		w.ledgers = append(w.ledgers, &ledger{})
	}
	return w
}

// kind is what an engine asks for. Calls of one instant are taken in this order.
type kind uint8

const (
	openSource kind = iota
	subscribe
	read
	seek
	commitGroup
	closeSource
	openSink
	initFlow
	topics
	insert
	claim
	positions
	resolve
	swap
	data
	putDead
	rollback
	commit
	answer
)

func (k kind) String() string {
	return [...]string{
		"open source", "subscribe", "read", "seek", "commit to group", "close source", "open sink", "init", "topics", "insert", "claim",
		"positions", "resolve", "swap", "data", "put dead letters", "rollback", "commit", "answer",
	}[k]
}

// call is something that an engine asks of the world and waits for.
type call struct {
	proc *process
	kind kind
	lane int
	what string
	ctx  context.Context
	// ready says whether it could be done now; nil: always.
	ready func() bool
	// do does it, and fail what follows if it is not done; both may be nil.
	do   func() error
	fail func(lost bool)

	err  error
	done chan struct{}
}

var errKilled = flow.Fatal(errors.New("the process was killed"))

// call parks the caller until the scheduler has released it.
func (w *world) call(c *call) error {
	c.done = make(chan struct{})
	w.mu.Lock()
	dead := c.proc.dead
	if !dead {
		w.pending = append(w.pending, c)
	}
	w.mu.Unlock()
	if dead {
		return errKilled
	}
	<-c.done
	return c.err
}

// release lets the caller go on.
func (w *world) release(c *call, err error) {
	w.pending = slices.DeleteFunc(w.pending, func(o *call) bool { return o == c })
	c.err = err
	close(c.done)
}

// settle waits until nothing moves any more. What needs no decision is done here.
func (w *world) settle() {
	for {
		w.mu.Unlock()
		synctest.Wait()
		w.mu.Lock()
		switch {
		case w.retries > 0:
			w.retries = 0
			w.pass(10 * retryWait)
		case w.interrupt():
		case w.group.settle(w):
		case w.exits():
		case w.commits():
		default:
			for _, p := range w.procs {
				p.commits = allHeld
			}
			w.sortPending()
			return
		}
	}
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.mu.Unlock()
	time.Sleep(d) //nolint:forbidigo // virtual: it lets the bubble's clock move
	w.mu.Lock()
}

// interrupt ends calls of the reader and of the committer whose context has
// ended: the engine only wants to look at something else, or somebody else of it
// makes the same call. When it does that may depend on the order of its
// goroutines, but not what comes of it.
func (w *world) interrupt() bool {
	for _, c := range w.pending {
		if (c.kind == read || c.kind == seek || c.kind == commitGroup) && c.ctx.Err() != nil {
			if c.fail != nil {
				c.fail(false)
			}
			err := c.ctx.Err()
			if c.kind == read {
				err = nil
			}
			w.release(c, err)
			return true
		}
	}
	return false
}

// commits carries out commits to the group, as the scheduler has decided.
func (w *world) commits() bool {
	for _, c := range w.pending {
		if c.kind != commitGroup || c.proc.commits == allHeld {
			continue
		}
		var err error
		if c.proc.commits != allFail {
			err = c.do()
		}
		if c.proc.commits != allDone {
			err = errReset
		}
		w.release(c, err)
		return true
	}
	return false
}

// fate is what becomes of commits to the group.
type fate uint8

const (
	allHeld fate = iota
	allDone
	allFail
	allLost // it is done, and the answer is lost
)

func (f fate) String() string { return [...]string{"held", "done", "failed", "lost"}[f] }

func (w *world) sortPending() {
	slices.SortFunc(w.pending, func(a, b *call) int {
		switch {
		case a.proc != b.proc:
			return a.proc.id - b.proc.id
		case a.kind != b.kind:
			return int(a.kind) - int(b.kind)
		case a.lane != b.lane:
			return a.lane - b.lane
		}
		return strings.Compare(a.what, b.what)
	})
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	w.line = fmt.Appendf(w.line[:0], "%4d %12s  ", w.steps, time.Since(w.began))
	w.line = fmt.Appendf(w.line, format, args...)
	w.line = append(w.line, '\n')
	w.hash.Write(w.line)
	if len(w.recent) == 60 {
		w.recent = append(w.recent[:0], w.recent[1:]...)
	}
	w.recent = append(w.recent, string(w.line))
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%s", w.line)
	}
}

// violate notes the first promise that was broken; the schedule ends there.
func (w *world) violate(format string, args ...any) {
	if w.violation == nil {
		w.violation = fmt.Errorf(format, args...)
		w.say("BROKEN: %v", w.violation)
	}
}

// process is one flow, as a process of the group.
type process struct {
	w      *world
	id     int
	source *source
	flow   *flow.Flow
	cancel context.CancelFunc
	exited chan error

	frozen bool // the scheduler leaves it alone
	paused bool // by an operator
	dead   bool // killed, or ended
	gone   bool // Run has returned
	// asked: it was told to stop.
	asked   bool
	commits fate
	unknown int // errors without a class that it has met: a few would stop it
}

var _ flow.Observer = (*process)(nil)

// BatchWritten implements flow.Observer.
func (p *process) BatchWritten(s flow.BatchStats) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.stats.Batches++
	p.w.stats.Records += s.Records
}

// Retrying implements flow.Observer. The engine is about to wait for a random
// part of retryWait, and this waits for the rest: together always the same.
func (p *process) Retrying(_, _ int, wait time.Duration, _ error) {
	p.w.mu.Lock()
	dead := p.dead // how it winds up is of no interest
	if !dead {
		p.w.retries++
	}
	p.w.mu.Unlock()
	if !dead && wait < retryWait {
		time.Sleep(retryWait - wait) //nolint:forbidigo // virtual
	}
}

// Rebalanced implements flow.Observer.
func (p *process) Rebalanced(int, int) {}

func (p *process) String() string { return fmt.Sprintf("p%d", p.id) }

// spawn starts another process.
func (w *world) spawn() {
	p := &process{w: w, id: len(w.procs), exited: make(chan error, 1)}
	w.procs = append(w.procs, p)
	w.say("%s starts", p)
	p.source = newSource(p)
	cfg := w.plan.config
	cfg.Source, cfg.Observer, cfg.Logger = p.source, p, slog.New(slog.DiscardHandler)
	if w.trace != nil {
		cfg.Logger = slog.New(slog.NewTextHandler(w.trace, &slog.HandlerOptions{Level: slog.LevelDebug})).With("process", p.id)
	}
	plain := &sink{p: p}
	cfg.Sink = plain
	if !w.plan.atLeastOnce {
		cfg.Sink = &checkpointSink{plain}
	}
	if w.plan.queue {
		cfg.DeadLetters = &queue{p: p}
	}
	f, err := flow.New(cfg)
	if err != nil {
		w.violate("a flow was refused: %v", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.flow, p.cancel = f, cancel
	go func() { p.exited <- f.Run(ctx) }()
}

// stop asks a process to end.
func (w *world) stop(p *process) {
	w.say("%s is asked to stop", p)
	p.asked, p.frozen = true, false
	p.cancel()
}

// pause is what an operator does.
func (w *world) pause(p *process) {
	w.say("%s is paused", p)
	w.stats.Pauses++
	p.paused = true
	w.mu.Unlock() // what the engine does at once takes the lock
	p.flow.Pause()
	w.mu.Lock()
}

func (w *world) resume(p *process) {
	w.say("%s is resumed", p)
	p.paused = false
	w.mu.Unlock()
	p.flow.Resume()
	w.mu.Lock()
}

// kill ends a process at once: nothing that it does from now on has any effect.
// What it has sent may still arrive: its transactions stay open until the
// table notices, and a COMMIT on its way may be carried out.
func (w *world) kill(p *process) {
	w.say("%s is killed", p)
	w.stats.Kills++
	w.bury(p)
	p.cancel()
}

func (w *world) bury(p *process) {
	p.dead = true
	var mine []*call
	for _, c := range w.pending {
		if c.proc == p {
			mine = append(mine, c)
		}
	}
	for _, c := range mine {
		w.release(c, errKilled)
	}
	w.table.orphan(p, mine)
	p.source.end()
	w.group.leave(p)
}

// exits notices flows that have ended. Only those that were killed may fail.
func (w *world) exits() bool {
	for _, p := range w.procs {
		if p.gone {
			continue
		}
		select {
		case err := <-p.exited:
			p.gone = true
			if !p.dead {
				w.say("%s has ended: %v", p, err)
				switch {
				case err != nil:
					w.violate("%s gave up: %v", p, err)
				case !p.asked:
					w.violate("%s ended, and nobody asked it to", p)
				}
				w.bury(p)
			}
			return true
		default:
		}
	}
	return false
}

// alive returns the processes that run.
func (w *world) alive() []*process {
	var ps []*process
	for _, p := range w.procs {
		if !p.dead {
			ps = append(ps, p)
		}
	}
	return ps
}

func partition(id int) flow.Partition {
	return flow.Partition{Topic: topic, ID: int32(id)} //nolint:gosec // a handful
}
