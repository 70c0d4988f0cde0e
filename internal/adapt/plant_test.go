package adapt_test

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/penstockdev/penstock/internal/adapt"
)

// plant is what a flow runs in: a log, a broker, lanes and a database. It is
// simulated event by event, in seconds; the same seed gives the same run.
type plant struct {
	seed   uint64
	length float64
	// watched: latencies are kept.
	watched bool

	arrivals    func(*rand.Rand) arrivals
	recordBytes int

	rtt       float64 // of a fetch
	bandwidth float64 // bytes a second
	jitter    float64 // standard deviation of ln rtt

	lanes  int     // default 1
	decode float64 // a record
	buffer int     // bytes, all lanes together; default 32 MiB
	db     func() database
}

// arrivals returns when the next records are appended, and how many.
type arrivals func() (at float64, records int)

// database returns how long a batch of n records takes when w others are being written.
type database func(now float64, n, w int, rng *rand.Rand) float64

// How a flow is steered: by constants, or adaptively.
type static struct {
	records           int
	linger, lagLinger time.Duration
	fetch             int
}

var today = static{20_000, 5 * time.Millisecond, 100 * time.Millisecond, 4 << 20}

// outcome is what a run has shown.
type outcome struct {
	written   []point // one a batch
	latencies []weighed
	drained   float64 // when the last record was durable
	most      int     // bytes held by the lanes at most
	fetch     []int   // fetch size after each read
}

type point struct {
	at, took float64
	n        int
}

type weighed struct {
	at, latency float64
	n           int
}

// rate is how many records a second became durable, from the first commit after
// a time to the last.
func (o *outcome) rate(from float64) float64 {
	n, first := 0, -1.0
	for _, p := range o.written {
		switch {
		case p.at < from:
		case first < 0:
			first = p.at
		default:
			n += p.n
		}
	}
	return float64(n) / (o.drained - first)
}

// quantile of the time from append to commit, of what was durable from a time on.
func (o *outcome) quantile(q, from float64) float64 {
	var l []weighed
	total := 0
	for _, w := range o.latencies {
		if w.at >= from {
			l = append(l, w)
			total += w.n
		}
	}
	slices.SortFunc(l, func(x, y weighed) int {
		if x.latency < y.latency {
			return -1
		}
		return 1
	})
	above := (1 - q) * float64(total)
	for _, w := range l {
		if total -= w.n; float64(total) <= above {
			return w.latency
		}
	}
	return 0
}

// run lets the plant go, steered by s, or adaptively where s is nil.
func (p plant) run(s *static) *outcome {
	if p.lanes == 0 {
		p.lanes = 1
	}
	if p.buffer == 0 {
		p.buffer = 32 << 20
	}
	m := &machine{plant: p, rng: rand.New(rand.NewPCG(p.seed, 1)), out: &outcome{}, write: p.db(), static: s}
	if s != nil {
		m.fetch = s.fetch
	} else {
		m.reader = adapt.NewReader(adapt.FetchLimits{})
		m.fetch = m.reader.Bytes()
	}
	for range p.lanes {
		l := &simLane{m: m, free: 2}
		if s != nil {
			l.set = adapt.Settings{Records: s.records, Linger: s.linger, LagLinger: s.lagLinger}
		} else {
			l.ctl = adapt.NewLane(adapt.Limits{})
			l.set = l.ctl.Settings()
		}
		m.lanes = append(m.lanes, l)
	}
	next := p.arrivals(rand.New(rand.NewPCG(p.seed, 2)))
	var arrive func()
	at, n := next()
	arrive = func() {
		m.log = append(m.log, run{appended: m.now, n: n})
		m.unread += n
		m.fetched()
		if at, n = next(); at < p.length {
			m.at(at, arrive)
		}
	}
	m.at(at, arrive)
	m.request()
	m.read()
	for len(m.events) > 0 {
		e, _ := heap.Pop(&m.events).(event)
		if m.now = e.at; m.now > p.length {
			break
		}
		e.do()
	}
	return m.out
}

// machine is a running plant.
type machine struct {
	plant
	now    float64
	events events
	seq    int
	rng    *rand.Rand
	out    *outcome
	write  database
	static *static
	lanes  []*simLane
	active int // batches being written

	log    []run // what was appended and not fetched
	unread int

	// The client: one fetch is asked for or buffered at a time.
	waiting bool // at the broker, for records
	answer  []run
	fetch   int

	reader      *adapt.Reader
	reading     bool // waits for an answer
	since, full float64
}

type run struct {
	appended, arrived float64
	n                 int
}

func (m *machine) at(t float64, do func()) {
	m.seq++
	heap.Push(&m.events, event{t, m.seq, do})
}

func (m *machine) wobble() float64 {
	if m.jitter == 0 {
		return 1
	}
	return math.Exp(m.jitter * m.rng.NormFloat64())
}

// request sends a fetch, fetched answers it once there is something.
func (m *machine) request() {
	m.at(m.now+m.rtt/2, func() {
		m.waiting = true
		m.fetched()
	})
}

func (m *machine) fetched() {
	if !m.waiting || m.unread == 0 {
		return
	}
	m.waiting = false
	n := min(m.unread, max(1, m.fetch/m.recordBytes))
	m.unread -= n
	took := take(&m.log, n)
	m.at(m.now+m.rtt/2*m.wobble()+float64(n*m.recordBytes)/m.bandwidth, func() {
		m.answer = took
		m.deliver()
	})
}

// read waits until a lane has room, then for an answer.
func (m *machine) read() {
	if m.reading || !slices.ContainsFunc(m.lanes, func(l *simLane) bool { return l.held() < m.buffer/m.plant.lanes*2/3 }) {
		return
	}
	m.reading = true
	m.full = m.now - m.since
	m.since = m.now
	m.deliver()
}

func (m *machine) deliver() {
	if !m.reading || m.answer == nil {
		return
	}
	m.reading = false
	total := 0
	for i, r := range m.answer {
		total += r.n
		for k, l := range m.lanes {
			share := (r.n + (k+i)%len(m.lanes)) / len(m.lanes)
			if share > 0 {
				l.queue = append(l.queue, run{r.appended, m.now, share})
				l.records += share
			}
		}
	}
	m.answer = nil
	if m.reader != nil {
		m.fetch = m.reader.Observe(adapt.ReadSample{
			Read: duration(m.now - m.since), Full: duration(m.full),
			Records: total, Bytes: int64(total * m.recordBytes), Lag: int64(m.unread),
		})
	}
	m.out.fetch = append(m.out.fetch, m.fetch)
	m.since = m.now
	held := 0
	for _, l := range m.lanes {
		held += l.held()
	}
	m.out.most = max(m.out.most, held)
	m.request()
	for _, l := range m.lanes {
		l.prepare()
	}
	m.read()
}

// simLane follows the rules of flow's lane.
type simLane struct {
	m        *machine
	ctl      *adapt.Lane
	set      adapt.Settings
	queue    []run
	records  int
	inflight int
	free     int
	busy     bool // preparing
	ready    *simBatch
	writing  bool
	idle     float64 // since when the writer is
}

type simBatch struct {
	runs    []run
	n       int
	starved float64
	full    bool
}

func (l *simLane) held() int { return (l.records + l.inflight) * l.m.recordBytes }

func (l *simLane) prepare() {
	m := l.m
	if l.busy || l.ready != nil || l.free == 0 || l.records == 0 {
		return
	}
	full := l.held() >= m.buffer/m.plant.lanes*2/3
	if l.records < l.set.Records && l.records*m.recordBytes < 16<<20 && !full {
		if l.writing {
			return
		}
		patience := l.set.Linger
		if m.unread > l.set.Records {
			patience = l.set.LagLinger
		}
		if until := l.queue[0].arrived + patience.Seconds(); m.now < until-1e-9 {
			m.at(until, l.prepare)
			return
		}
	}
	b := &simBatch{n: min(l.records, l.set.Records, max(1, 16<<20/m.recordBytes))}
	if !l.writing {
		b.starved = max(0, l.queue[0].arrived-l.idle)
	}
	b.full = full && b.n < l.set.Records && b.n*m.recordBytes < 15<<20
	b.runs = take(&l.queue, b.n)
	l.records -= b.n
	l.inflight += b.n
	l.free--
	l.busy = true
	m.at(m.now+m.decode*float64(b.n), func() {
		l.busy = false
		l.ready = b
		l.writeNext()
	})
}

func (l *simLane) writeNext() {
	m := l.m
	if l.writing || l.ready == nil {
		return
	}
	b := l.ready
	l.ready = nil
	l.writing = true
	took := m.write(m.now, b.n, m.active, m.rng)
	m.active++
	m.at(m.now+took, func() {
		m.active--
		l.writing = false
		l.idle = m.now
		l.inflight -= b.n
		l.free++
		if l.ctl != nil {
			l.set = l.ctl.Observe(adapt.Sample{Records: b.n, Starved: duration(b.starved), Write: duration(took), Full: b.full})
		}
		m.out.written = append(m.out.written, point{m.now, took, b.n})
		for i := 0; i < len(b.runs) && m.watched; i++ {
			r := b.runs[i]
			m.out.latencies = append(m.out.latencies, weighed{m.now, m.now - r.appended, r.n})
		}
		m.out.drained = m.now
		l.writeNext()
		l.prepare()
		m.read()
	})
	l.prepare()
}

// take removes n records from the front.
func take(q *[]run, n int) (out []run) {
	i := 0
	for n > 0 {
		r := &(*q)[i]
		k := min(n, r.n)
		out = append(out, run{r.appended, r.arrived, k})
		r.n -= k
		n -= k
		if r.n == 0 {
			i++
		}
	}
	*q = (*q)[i:]
	return out
}

func duration(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }

type event struct {
	at  float64
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) } //nolint:errcheck,forcetypeassert // only events are pushed
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// Loads.

// backlog is there from the beginning.
func backlog(records int) func(*rand.Rand) arrivals {
	return func(*rand.Rand) arrivals {
		left := records
		return func() (float64, int) {
			n := left
			left = 0
			if n == 0 {
				return math.Inf(1), 0
			}
			return 0, n
		}
	}
}

// poisson appends groups of records at random, so many records a second.
func poisson(rate float64, group int) func(*rand.Rand) arrivals {
	return func(rng *rand.Rand) arrivals {
		at := 0.0
		return func() (float64, int) {
			at += rng.ExpFloat64() * float64(group) / rate
			return at, group
		}
	}
}

// then adds records at one time to a load.
func burst(base func(*rand.Rand) arrivals, at float64, records int) func(*rand.Rand) arrivals {
	return func(rng *rand.Rand) arrivals {
		next := base(rng)
		t, n := next()
		done := false
		return func() (float64, int) {
			if !done && t >= at {
				done = true
				return at, records
			}
			rt, rn := t, n
			t, n = next()
			return rt, rn
		}
	}
}

// Databases.

// scatter is a factor with a given standard deviation of its logarithm.
func scatter(noise float64, rng *rand.Rand) float64 {
	if rng == nil {
		return 1
	}
	return math.Exp(noise * rng.NormFloat64())
}

// linear takes a + b·n, with noise (a standard deviation of its logarithm).
func linear(a, b, noise float64) func() database {
	return changing(noise, func(float64) (float64, float64) { return a, b })
}

// changing is linear with costs that depend on time.
func changing(noise float64, costs func(now float64) (a, b float64)) func() database {
	return func() database {
		return func(now float64, n, _ int, rng *rand.Rand) float64 {
			a, b := costs(now)
			return (a + b*float64(n)) * scatter(noise, rng)
		}
	}
}

// shared has one processor for all lanes, and a commit that waits.
func shared(a, b, noise float64) func() database {
	return func() database {
		return func(_ float64, n, w int, rng *rand.Rand) float64 {
			return (a + b*float64(n)*float64(1+w)) * scatter(noise, rng)
		}
	}
}

// grouped flushes its log for all commits that wait, one flush after another.
func grouped(a, flush, b, noise float64) func() database {
	return func() database {
		start, end := 0.0, 0.0
		return func(now float64, n, _ int, rng *rand.Rand) float64 {
			done := now + (a+b*float64(n))*scatter(noise, rng)
			if done > start { // the next flush has begun by then
				start = max(done, end)
				end = start + flush*scatter(noise, rng)
			}
			return end - now
		}
	}
}

// convex becomes slower with the size of a transaction.
func convex(a, b, c, noise float64) func() database {
	return func() database {
		return func(_ float64, n, _ int, rng *rand.Rand) float64 {
			x := float64(n)
			return (a + b*x + c*x*x) * scatter(noise, rng)
		}
	}
}

// stalling stands still for so long every so often.
func stalling(db func() database, every, stall float64) func() database {
	return func() database {
		inner := db()
		next := every
		return func(now float64, n, w int, rng *rand.Rand) float64 {
			took := inner(now, n, w, rng)
			if now+took >= next {
				next += every
				took += stall
			}
			return took
		}
	}
}

// writing returns the mean time that a batch took, and the share of all time.
func (o *outcome) writing(length float64) (mean, share float64) {
	took := 0.0
	for _, p := range o.written {
		took += p.took
	}
	return took / float64(len(o.written)), took / length
}

// until ends a load.
func until(end float64, load func(*rand.Rand) arrivals) func(*rand.Rand) arrivals {
	return func(rng *rand.Rand) arrivals {
		next := load(rng)
		return func() (float64, int) {
			at, n := next()
			if at >= end {
				return math.Inf(1), 0
			}
			return at, n
		}
	}
}

// exact is the database without scatter: two runs do not write the same
// batches, so they cannot have the same luck.
func exact(db func() database) func() database {
	return func() database {
		inner := db()
		return func(now float64, n, w int, _ *rand.Rand) float64 {
			return inner(now, n, w, nil)
		}
	}
}
