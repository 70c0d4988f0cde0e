package sim

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// outcome is what a schedule has come to.
type outcome struct {
	violation error
	hash      uint64
	recent    []string
	stats     stats
}

// run runs the schedule of a seed, in a bubble.
func run(seed uint64, b bug, trace io.Writer) outcome {
	w := newWorld(seed, b, trace)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say("%s", w.plan.String())
	for range 1 + w.rng.IntN(w.plan.processes) {
		w.spawn()
	}
	for range w.plan.steps {
		if w.step(w.chaos()) {
			break
		}
	}
	if w.violation == nil {
		w.rest()
	}
	w.end()
	w.stats.Steps, w.stats.Virtual = w.steps, time.Since(w.began)
	return outcome{w.violation, w.hash.Sum64(), w.recent, w.stats}
}

// event is something that can happen next.
type event struct {
	weight int
	do     func()
}

// step lets one of the events happen, and says whether a promise was broken.
func (w *world) step(events []event) bool {
	total := 0
	for _, e := range events {
		total += e.weight
	}
	n := w.rng.IntN(total)
	fmt.Fprintf(w.hash, "%d of %d\n", n, total)
	w.steps++
	for _, e := range events {
		if n -= e.weight; n < 0 {
			e.do()
			break
		}
	}
	w.settle()
	w.check()
	return w.violation != nil
}

// chaos lists everything that can happen now.
func (w *world) chaos() []event {
	w.settle()
	var events []event
	may := func(weight int, do func()) { events = append(events, event{weight, do}) }
	waits := true
	for _, c := range w.pending {
		switch {
		case c.kind == commitGroup:
			// No time passes meanwhile: the patience of those who commit differs.
			waits = false
			may(60, func() { w.performCommits(c.proc) })
		case c.proc.frozen:
		case c.ctx.Err() != nil || c.ready == nil || c.ready():
			may(60, func() { w.perform(c) })
		default:
			may(1, func() { w.refuse(c, "timed out") })
		}
	}
	if waits {
		may(20, w.tick)
	}
	may(12, w.produce)
	may(1, w.compact)
	for _, x := range w.table.open {
		if x.abandoned {
			may(10, func() { w.notice(x) })
		}
	}
	if !w.plan.atLeastOnce && w.table.restorable() {
		weight := 2
		if slices.ContainsFunc(w.pending, func(c *call) bool { return c.kind == seek }) {
			weight = 10 // while the engine already goes back
		}
		may(weight, w.table.restore)
	}
	if len(w.ledgers) < 8 {
		may(1, w.grow)
	}
	alive := w.alive()
	if len(alive) < w.plan.processes {
		may(10, w.spawn)
	}
	for _, p := range alive {
		w.mayHappen(p, may)
	}
	return events
}

// mayHappen lists what can happen to a process.
func (w *world) mayHappen(p *process, may func(int, func())) {
	s := p.source
	may(1, func() { w.kill(p) })
	if !p.asked {
		may(1, func() { w.stop(p) })
	}
	if p.frozen {
		may(8, func() {
			w.say("%s wakes up", p)
			p.frozen = false
		})
	} else {
		may(3, func() {
			w.say("%s freezes", p)
			p.frozen = true
		})
	}
	if p.paused {
		may(4, func() { w.resume(p) })
	} else {
		may(1, func() { w.pause(p) })
	}
	if s.joined && !s.evicted && !s.leaving {
		weight := 1
		if p.frozen {
			weight = 12
		}
		may(weight, func() {
			w.say("%s is evicted", p)
			w.stats.Zombies++
			s.evicted = true
			w.group.leave(p)
		})
	}
	if s.order != nil && s.order.infos != nil && s.order.ctx.Err() == nil {
		may(4, func() {
			w.say("the assignment of %s ends before it was taken over", p)
			s.order.cancel()
		})
	}
	if p.frozen || !s.idle() {
		return
	}
	held := s.held()
	switch free := w.group.free(w); {
	case s.evicted:
		may(6, func() { w.tellEvicted(p) })
	default:
		if len(held) > 0 {
			may(4, func() { w.group.revoke(w, p, w.some(held), false) })
		}
		if len(free) > 0 {
			may(40, func() { w.group.assign(w, p, w.some(free)) })
		}
	}
}

// tellEvicted lets a zombie learn what it is, and join again.
func (w *world) tellEvicted(p *process) {
	if held := p.source.held(); len(held) > 0 {
		w.group.revoke(w, p, held, true)
		return
	}
	p.source.evicted = false
}

// some draws some of the partitions, in order.
func (w *world) some(ps []flow.Partition) []flow.Partition {
	ps = slices.Clone(ps)
	w.rng.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	ps = ps[:1+w.rng.IntN(len(ps))]
	slices.SortFunc(ps, func(a, b flow.Partition) int { return int(a.ID - b.ID) })
	return ps
}

var (
	errReset   = flow.Transient(errors.New("the connection was reset"))
	errUnknown = errors.New("something without a class")
)

// unknownErrors is how many errors without a class a process meets: fewer than stop a flow.
const unknownErrors = 5

// perform carries out a call, unless it fails.
func (w *world) perform(c *call) {
	switch {
	case c.ctx.Err() != nil && (c.ready != nil && !c.ready() || w.rng.IntN(2) == 0):
		w.cut(c, c.ctx.Err())
	case w.faults && w.rng.IntN(w.plan.faulty) == 0:
		switch n := w.rng.IntN(8); {
		case n == 0 && c.proc.unknown < unknownErrors && c.kind != commit && c.kind != answer:
			c.proc.unknown++
			w.cut(c, errUnknown)
		case n <= 3 && (c.kind == claim || c.kind == insert || c.kind == initFlow || c.kind == putDead):
			// It happens, and the answer is lost.
			err := c.do()
			w.say("%s %s %d %s: done (%v), and the answer is lost", c.proc, c.kind, c.lane, c.what, err)
			w.stats.LostAnswers++
			if c.fail != nil {
				c.fail(true)
			}
			w.release(c, errReset)
		default:
			w.cut(c, errReset)
		}
	default:
		var err error
		if c.do != nil {
			err = c.do()
		}
		w.say("%s %s %d %s: %v", c.proc, c.kind, c.lane, c.what, err)
		w.release(c, err)
	}
}

// performCommits carries out, or fails, all that p has to tell the group. Of two
// goroutines of an engine that both want to commit, either may have come first,
// and with it what it commits; what comes of both is the same.
func (w *world) performCommits(p *process) {
	p.commits = allDone
	if w.faults && w.rng.IntN(w.plan.faulty) == 0 {
		p.commits = []fate{allFail, allLost}[w.rng.IntN(2)]
	}
	w.say("what %s tells the group: %s", p, p.commits)
}

// refuse fails a call that cannot be carried out now.
func (w *world) refuse(c *call, why string) {
	w.cut(c, flow.Transient(errors.New(why)))
}

// cut fails a call. Of a COMMIT nobody knows whether it arrives.
func (w *world) cut(c *call, err error) {
	lost := c.kind == commit && w.rng.IntN(2) == 0
	if lost || c.kind == answer {
		w.stats.LostAnswers++
	}
	w.say("%s %s %d %s: fails, answer lost: %t: %v", c.proc, c.kind, c.lane, c.what, lost, err)
	if c.fail != nil {
		c.fail(lost)
	}
	w.release(c, err)
}

// notice ends a transaction whose client is gone. A COMMIT that was on its way may arrive.
func (w *world) notice(x *tx) {
	if x.committing && w.rng.IntN(2) == 0 {
		w.say("the table commits what %s has left: %s", x.proc, x)
		_ = w.table.commit(x)
		return
	}
	w.say("the table rolls back what %s has left: %s", x.proc, x)
	w.table.rollback(x)
}

func (w *world) tick() {
	d := []time.Duration{
		time.Millisecond, 2 * time.Millisecond, 6 * time.Millisecond, 6 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond,
		200 * time.Millisecond, time.Second, 11 * time.Second, 31 * time.Second,
	}[w.rng.IntN(10)]
	w.say("%s pass", d)
	w.pass(d)
}

func (w *world) produce() {
	id := w.rng.IntN(len(w.ledgers))
	p, l := partition(id), w.ledgers[id]
	n := w.rng.IntN(20)
	_, from := w.log.Bounds(p.Topic, p.ID)
	for range n {
		switch w.rng.IntN(40) {
		case 0, 1, 2:
			w.log.Skip(p.Topic, p.ID, int64(1+w.rng.IntN(4)))
		}
		_, end := w.log.Bounds(p.Topic, p.ID)
		r := flow.Record{Value: []byte(value(row{p.ID, end}))}
		poison := w.rng.IntN(40) == 0
		if poison {
			r.Headers = []flow.Header{{Key: "poison"}}
		}
		w.log.Append(p.Topic, p.ID, r)
		l.entries = append(l.entries, entry{offset: end, poison: poison})
	}
	if w.rng.IntN(4) == 0 {
		w.log.Skip(p.Topic, p.ID, 1) // the marker that ends a producer's transaction
	}
	_, to := w.log.Bounds(p.Topic, p.ID)
	w.say("%d records are appended to %d, %d to %d", n, id, from, to)
}

// compact removes records from the log; what was not read yet need not be.
func (w *world) compact() {
	id := w.rng.IntN(len(w.ledgers))
	gone := map[int64]bool{}
	l := w.ledgers[id]
	for i := range l.entries {
		if !l.entries[i].compacted && w.rng.IntN(6) == 0 {
			l.entries[i].compacted = true
			gone[l.entries[i].offset] = true
		}
	}
	w.say("%d is compacted: %d records", id, len(gone))
	w.log.Compact(topic, int32(id), func(r *flow.Record) bool { return gone[r.Offset] }) //nolint:gosec // a handful
}

func (w *world) grow() {
	w.ledgers = append(w.ledgers, &ledger{})
	w.say("the topic has %d partitions", len(w.ledgers))
	w.log.Create(topic, len(w.ledgers))
}

// How long the world may take to come to rest.
const (
	restSteps = 100_000
	restTime  = 2 * time.Hour
)

// rest ends all faults, and waits until everything is durable. Then the
// processes are stopped, and must end.
func (w *world) rest() {
	w.say("all faults end")
	w.faults = false
	for _, p := range w.procs {
		p.frozen = false
	}
	began := time.Now()
	overdue := func(what string) bool {
		if w.steps > restSteps || time.Since(began) > restTime {
			w.violate("%s: not after %s without faults", what, time.Since(began))
		}
		return w.violation != nil
	}
	for quiet := 0; !w.pausedHaveWritten(); {
		if quiet = w.restStep(quiet, true); overdue("paused flows have written what they held") {
			return
		}
	}
	for _, p := range w.alive() {
		if p.paused && w.step([]event{{1, func() { w.resume(p) }}}) {
			return
		}
	}
	for restores := w.rng.IntN(3); ; restores-- {
		for quiet := 0; !w.caughtUp() || !w.lagless(); {
			if quiet = w.restStep(quiet, true); overdue("everything is durable") {
				return
			}
		}
		if restores <= 0 || w.plan.atLeastOnce || !w.table.restorable() {
			break
		}
		// Found without a record to write, too.
		if w.step([]event{{1, w.table.restore}}) {
			return
		}
	}
	for _, p := range w.alive() {
		if !p.asked {
			w.stop(p)
		}
	}
	for quiet := 0; len(w.alive()) > 0; {
		if quiet = w.restStep(quiet, false); overdue("the processes end") {
			return
		}
	}
}

// pausedHaveWritten says whether flows that are paused hold nothing any more.
func (w *world) pausedHaveWritten() bool {
	for _, p := range w.alive() {
		if p.paused && p.flow.Status().Buffered > 0 {
			return false
		}
	}
	return true
}

// lagless says whether the flows know that there is no lag.
func (w *world) lagless() bool {
	for _, p := range w.alive() {
		if s := p.flow.Status(); s.Lag() != 0 || s.Buffered != 0 {
			return false
		}
	}
	return true
}

// restStep is a step without faults. quiet is how often in a row nothing could
// be done but wait.
func (w *world) restStep(quiet int, running bool) int {
	w.settle()
	var events []event
	may := func(do func()) { events = append(events, event{1, do}) }
	for _, c := range w.pending {
		switch {
		case c.kind == commitGroup:
			may(func() { w.performCommits(c.proc) })
		case c.ctx.Err() != nil || c.ready == nil || c.ready():
			may(func() { w.perform(c) })
		}
	}
	for _, x := range w.table.open {
		if x.abandoned {
			may(func() { w.notice(x) })
		}
	}
	if running && !slices.ContainsFunc(w.alive(), func(p *process) bool { return !p.asked }) {
		may(w.spawn)
	}
	free := w.group.free(w)
	for _, p := range w.alive() {
		switch s := p.source; {
		case !s.idle():
		case s.evicted:
			may(func() { w.tellEvicted(p) })
		case running && len(free) > 0:
			may(func() { w.group.assign(w, p, w.some(free)) })
		}
	}
	if len(events) > 0 {
		w.step(events)
		return 0
	}
	waits := []time.Duration{time.Millisecond, 6 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}
	d := waits[min(quiet, len(waits)-1)]
	w.step([]event{{1, func() {
		w.say("%s pass", d)
		w.pass(d)
	}}})
	return quiet + 1
}

// end ends the processes that are left, so that the bubble can end.
func (w *world) end() {
	for _, p := range w.alive() {
		w.kill(p)
	}
	for range 100 {
		w.settle()
		if !slices.ContainsFunc(w.procs, func(p *process) bool { return !p.gone }) {
			break
		}
		w.pass(time.Second)
	}
}
