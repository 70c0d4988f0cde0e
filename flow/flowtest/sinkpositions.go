package flowtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

func startsAt(offset int64, calls *int) func(context.Context) ([]flow.Position, error) {
	var mu sync.Mutex
	return func(context.Context) ([]flow.Position, error) {
		mu.Lock()
		defer mu.Unlock()
		*calls++
		var out []flow.Position
		for id := range int32(sinkPartitions) {
			out = append(out, flow.Position{Partition: sinkPartition(id), TopicID: "topic-id", Offset: offset, LeaderEpoch: 5})
		}
		return out, nil
	}
}

func initOnce(c *sinkCase) {
	p := c.open(c.setup())
	calls := 0
	must(c, p.cp.Init(c.ctx, startsAt(42, &calls)), "Init")
	must(c, p.cp.Init(c.ctx, startsAt(77, &calls)), "Init again")
	if !c.SingleProcess {
		q := c.open(c.setup())
		must(c, q.cp.Init(c.ctx, startsAt(99, &calls)), "Init of a second process")
	}
	if calls != 1 {
		c.Errorf("starts was called %d times, want once: the flow has a checkpoint afterwards", calls)
	}
	for _, got := range p.stored(0, 1, 2, 3) {
		if got.Offset != 42 || got.TopicID != "topic-id" || got.LeaderEpoch != 5 {
			c.Errorf("the start of %s is stored as %s, want offset 42, topic id topic-id, leader epoch 5", got.Partition, checkpoints(got))
		}
	}
	topics, err := p.cp.Topics(c.ctx)
	must(c, err, "Topics")
	if len(topics) != 1 || topics[sinkTopic] != sinkPartitions {
		c.Errorf("Topics returns %v, want %s: %d", topics, sinkTopic, sinkPartitions)
	}
}

// initTogether: processes that start at the same time agree on one start.
func initTogether(c *sinkCase) {
	const processes = 4
	ps := make([]*process, processes)
	for i := range ps {
		ps[i] = c.open(c.setup())
	}
	var wg sync.WaitGroup
	errs := make([]error, processes)
	for i, p := range ps {
		calls := 0
		start := startsAt(int64(100+i), &calls)
		wg.Go(func() { errs[i] = p.cp.Init(c.ctx, start) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			c.Fatalf("Init of process %d of %d that start together: %v", i, processes, err)
		}
	}
	got := ps[0].stored(0, 1, 2, 3)
	for _, g := range got {
		if g.Offset < 100 || g.Offset >= 100+processes || g.Offset != got[0].Offset {
			c.Fatalf("processes that started together left a mixture of starts: %s", checkpoints(got...))
		}
	}
}

// initStartsFail: an error of starts leaves the flow without a checkpoint, to
// be resolved by the next Init.
func initStartsFail(c *sinkCase) {
	p := c.open(c.setup())
	cause := errors.New("the log is away")
	err := p.cp.Init(c.ctx, func(context.Context) ([]flow.Position, error) { return nil, flow.Transient(cause) })
	if !errors.Is(err, cause) || flow.ClassOf(err) != flow.ClassTransient {
		c.Fatalf("Init returned %v, want the error of starts, with its class", err)
	}
	calls := 0
	must(c, p.cp.Init(c.ctx, startsAt(7, &calls)), "Init after a failed one")
	if got := p.stored(0)[0].Offset; got != 7 {
		c.Fatalf("the start is %d, want 7", got)
	}
}

func fingerprintRefused(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 3)})
	must(c, p.w.Close(), "Close of the writer")
	c.closeSink(p.sink)
	for what, change := range map[string]func(*flow.Setup){
		"cluster": func(s *flow.Setup) { s.ClusterID = "another" },
		"source":  func(s *flow.Setup) { s.Source = "group other, topics other" },
	} {
		setup := c.setup()
		change(&setup)
		q := c.open(setup)
		calls := 0
		err := q.cp.Init(c.ctx, startsAt(0, &calls))
		if calls > 0 {
			c.Errorf("another %s: starts was called before the refusal", what)
		}
		wantClass(c, err, flow.ClassFatal)
		c.closeSink(q.sink)
	}
	q := c.start() // the true one goes on
	if q.next[0] != 3 {
		c.Fatalf("the position is %d after the refusals, want 3", q.next[0])
	}
}

func flowsAreApart(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 3)})
	if c.SingleProcess {
		must(c, p.w.Close(), "Close of the writer")
		c.closeSink(p.sink)
	}
	other := c.setup()
	other.Flow = "flowtest.other"
	q := c.startAs(other)
	if q.next[0] != 0 || q.owner[0] != 1 {
		c.Fatalf("another flow begins at %d with owner %d, want 0 and 1", q.next[0], q.owner[0])
	}
	q.write(piece{partition: 0, items: items(3, 2)})
	if !c.SingleProcess {
		p.write(piece{partition: 0, items: items(5, 2)})
		c.rows(items(0, 7))
	}
}

func claimIncrementsOwner(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 1, items: items(0, 4), gap: 1})
	for n := int64(2); n < 5; n++ {
		got := p.claim(3, 1)
		if got[0].Owner != n || got[1].Owner != n || got[0].Offset != 0 || got[1].Offset != 5 {
			c.Fatalf("claim %d returned %s, want owner %d, offsets 0 and 5", n, checkpoints(got...), n)
		}
		if got[1].TopicID != "topic-id" || got[1].LeaderEpoch != 3 {
			c.Fatalf("claim returned topic id %q and leader epoch %d, want topic-id and 3", got[1].TopicID, got[1].LeaderEpoch)
		}
	}
	read := p.stored(0, 1)
	if read[0].Owner != 1 || read[1].Owner != 4 {
		c.Fatalf("owners are %d and %d, want 1 (not claimed again) and 4", read[0].Owner, read[1].Owner)
	}
	if read := p.stored(1)[0]; read.Owner != 4 {
		c.Fatalf("Read takes over: the owner is %d, want 4", read.Owner)
	}
	p.write(piece{partition: 1, items: items(4, 1)})
}

func unknownPartition(c *sinkCase) {
	p := c.start()
	for what, call := range map[string]func([]flow.Partition) ([]flow.Checkpoint, error){
		"Claim": func(ps []flow.Partition) ([]flow.Checkpoint, error) { return p.cp.Claim(c.ctx, 0, ps) },
		"Read":  func(ps []flow.Partition) ([]flow.Checkpoint, error) { return p.cp.Read(c.ctx, ps) },
	} {
		ps := []flow.Partition{sinkPartition(9), sinkPartition(2), {Topic: "unknown", ID: 2}}
		got, err := call(ps)
		must(c, err, what)
		c.inOrder(what, ps, got)
		if got[0].Offset != -1 || got[0].Owner != 0 || got[2].Offset != -1 || got[1].Offset != 0 {
			c.Errorf("%s: %s, want offsets -1, 0, -1, and owner 0 where there is no row", what, checkpoints(got...))
		}
	}
	if got := p.stored(9)[0]; got.Offset != -1 {
		c.Errorf("asking for a partition without a row has made one: %s", checkpoints(got))
	}
}

func insertLeavesRows(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 3)})
	must(c, p.cp.Insert(c.ctx, nil), "Insert of nothing")
	must(c, p.cp.Insert(c.ctx, []flow.Position{
		{Partition: sinkPartition(8), TopicID: "topic-id", Offset: 11, LeaderEpoch: -1},
		{Partition: sinkPartition(0), TopicID: "other", Offset: 99, LeaderEpoch: -1},
		{Partition: flow.Partition{Topic: "later", ID: 0}, TopicID: "later-id", Offset: 0, LeaderEpoch: -1},
	}), "Insert")
	got := p.stored(0, 8)
	if got[0].Offset != 3 || got[0].TopicID != "topic-id" || got[0].Owner != 1 {
		c.Errorf("Insert changed a row that exists: %s", checkpoints(got[0]))
	}
	if got[1].Offset != 11 || got[1].Owner != 0 {
		c.Errorf("the inserted row is %s, want offset 11, owner 0", checkpoints(got[1]))
	}
	topics, err := p.cp.Topics(c.ctx)
	must(c, err, "Topics")
	if len(topics) != 2 || topics[sinkTopic] != sinkPartitions+1 || topics["later"] != 1 {
		c.Errorf("Topics returns %v", topics)
	}
	p.claim(8)
	p.write(piece{partition: 8, items: items(3, 1)}, piece{partition: 0, items: items(4, 1)})
	c.rows(items(0, 5))
}

func positionsSurvive(c *sinkCase) {
	p := c.start()
	for n := range 4 {
		p.write(piece{partition: 0, items: items(n*10, 10), gap: 5}, piece{partition: 3, gap: 1})
		must(c, p.w.Close(), "Close of the writer")
		c.closeSink(p.sink)
		p = c.start()
		if p.next[0] != int64(n+1)*15 || p.next[3] != int64(n+1) || p.owner[0] != int64(n+2) {
			c.Fatalf("opened again, positions are %d and %d, owner %d; want %d, %d, %d", p.next[0], p.next[3], p.owner[0], (n+1)*15, n+1, n+2)
		}
	}
	c.rows(items(0, 40))
}

// refused writes a batch that must be fenced without a trace.
func (p *process) refused(b *flow.Batch, rows []Item, wrong ...int32) {
	c := p.c
	c.Helper()
	err := p.w.Write(c.ctx, b)
	wantClass(c, err, flow.ClassFenced)
	var fenced *flow.FencedError
	if !errors.As(err, &fenced) {
		c.Fatalf("want a *flow.FencedError, have %v", err)
	}
	for _, named := range fenced.Partitions {
		ok := false
		for _, id := range wrong {
			ok = ok || named == sinkPartition(id)
		}
		if !ok {
			c.Errorf("the error names %s, which is as it was", named)
		}
	}
	c.rows(rows)
}

func staleOwnerFenced(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 5)})
	stale := p.owner[0]
	p.claim(0)
	fresh := p.owner[0]
	p.owner[0] = stale
	before := p.stored(0)[0]
	p.refused(p.batch(piece{partition: 0, items: items(50, 5)}), items(0, 5), 0)
	p.refused(p.batch(piece{partition: 0, gap: 3}), items(0, 5), 0) // positions only
	if after := p.stored(0)[0]; after != before {
		c.Errorf("a refused write changed the checkpoint from %s to %s", checkpoints(before), checkpoints(after))
	}
	p.owner[0] = fresh // the writer is not broken by it
	p.write(piece{partition: 0, items: items(5, 5)})
	c.rows(items(0, 10))
}

// otherProcessFenced: a second process takes over; the first, with a
// connection of its own, is refused.
func otherProcessFenced(c *sinkCase) {
	old := c.start()
	old.write(piece{partition: 0, items: items(0, 5)}, piece{partition: 1, items: items(5, 5)})
	late := old.batch(piece{partition: 0, items: items(70, 5)}, piece{partition: 1, items: items(80, 5)})
	heir := c.open(c.setup())
	must(c, heir.cp.Init(c.ctx, starts), "Init of the second process")
	heir.writer()
	if got := heir.claim(1); got[0].Offset != 5 {
		c.Fatalf("the heir starts at %d, want 5", got[0].Offset)
	}
	old.refused(late, items(0, 10), 1) // before the heir has written anything
	heir.write(piece{partition: 1, items: items(10, 5)})
	old.refused(late, items(0, 15), 1)
	old.write(piece{partition: 0, items: items(15, 5)}) // what it has kept, it can write
	heir.write(piece{partition: 1, items: items(20, 5)})
	c.rows(items(0, 25))
}

func wrongFromFenced(c *sinkCase) {
	p := c.start()
	p.write(piece{partition: 0, items: items(0, 5)})
	for _, from := range []int64{0, 4, 6, 500} {
		p.next[0] = from
		p.refused(p.batch(piece{partition: 0, items: items(90, 5)}), items(0, 5), 0)
	}
	p.next[0] = 5
	p.write(piece{partition: 0, items: items(5, 5)})
	c.rows(items(0, 10))
}

func missingRowFenced(c *sinkCase) {
	p := c.start()
	p.refused(p.batch(piece{partition: 0, items: items(0, 5)}, piece{partition: 9, items: items(5, 5)}), nil, 9)
	if got := p.stored(0, 9); got[0].Offset != 0 || got[1].Offset != -1 {
		c.Errorf("a refused write left positions %d and %d, want 0 and -1", got[0].Offset, got[1].Offset)
	}
}

// fencedBeforeDataError: a stale owner must not learn of bad data, else it
// dead-letters good records.
func fencedBeforeDataError(c *sinkCase) {
	if c.target.Poison == nil {
		c.Log("nothing to test: a target that takes everything has nothing to refuse")
		return
	}
	p := c.start()
	stale := p.owner[0]
	p.claim(0)
	p.owner[0] = stale
	bad := items(0, 3)
	bad[1] = c.target.Poison(bad[1])
	p.refused(p.batch(piece{partition: 0, items: bad}), nil, 0)
}

func allPartitionsOrNone(c *sinkCase) {
	p := c.start()
	for wrong := range int32(sinkPartitions) {
		p.next[wrong] += 1000
		var pieces []piece
		for id := range int32(sinkPartitions) {
			pieces = append(pieces, piece{partition: id, items: items(int(id)*10, 10)})
		}
		p.refused(p.batch(pieces...), nil, wrong)
		p.next[wrong] -= 1000
		for id, got := range p.stored(0, 1, 2, 3) {
			if got.Offset != 0 {
				c.Fatalf("partition %d was wrong, and partition %d has moved to %d", wrong, id, got.Offset)
			}
		}
	}
	p.write(piece{partition: 3, items: items(0, 2)}, piece{partition: 0, items: items(2, 2)}) // in no order
	c.rows(items(0, 4))
}

// repeatIsRefused: the same batch a second time is not written a second time.
func repeatIsRefused(c *sinkCase) {
	p := c.start()
	b := p.batch(piece{partition: 0, items: items(0, 5)})
	must(c, p.w.Write(c.ctx, b), "Write")
	p.refused(b, items(0, 5), 0)
}

// beforeCommitInTransaction runs a flow whose dead letters go to a queue that
// looks at the target while it is called.
func beforeCommitInTransaction(c *sinkCase) {
	log := NewLog()
	log.Create(sinkTopic, 1)
	for i, it := range items(0, 20) {
		r := it.Record()
		if i == 10 {
			r.Value = []byte("not JSON")
		}
		log.Append(sinkTopic, 0, r)
	}
	source := log.Source(LogOptions{Topics: []string{sinkTopic}, Group: "g"})
	all := items(0, 20)
	want := append(append([]Item(nil), all[:10]...), all[11:]...)
	queue := &watchingQueue{look: func() int { return len(c.target.Rows(c)) }}
	c.runFlow(source, queue, func() bool { return len(c.target.Rows(c)) == len(want) })
	c.rows(want)
	queue.mu.Lock()
	defer queue.mu.Unlock()
	if len(queue.seen) < 3 {
		c.Fatalf("the queue was asked %d times, want a try after each of two errors", len(queue.seen))
	}
	for try, rows := range queue.seen[:3] {
		if rows != 0 {
			c.Errorf("at try %d of the dead letters %d rows are durable: BeforeCommit must precede COMMIT, and its error must roll everything back", try+1, rows)
		}
	}
}

// watchingQueue fails twice, and notes what is durable when it is called.
type watchingQueue struct {
	look func() int
	mu   sync.Mutex
	seen []int
}

func (q *watchingQueue) Open(context.Context, flow.Setup) error { return nil }
func (q *watchingQueue) Close(context.Context) error            { return nil }

func (q *watchingQueue) Put(context.Context, []flow.DeadLetter) error {
	n := q.look()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen = append(q.seen, n)
	if len(q.seen) <= 2 {
		return flow.Transient(errors.New("the queue is away"))
	}
	return nil
}

// runFlow runs a flow into the target until done.
func (c *sinkCase) runFlow(source flow.Source, queue flow.DeadLetterQueue, done func() bool) {
	c.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	f, err := flow.New(flow.Config{
		Name: "flowtest.run", Source: source, Sink: c.target.Sink(c), DeadLetters: queue, Logger: quiet, Lanes: 1,
		Transforms: itemTransforms(c.Columns), Retry: quickRetry,
	})
	must(c, err, "flow.New")
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	var early error
	over := false
	eventually(c, patience/2, "the flow has written everything", func() bool {
		select {
		case early = <-ended:
			over = true
		default:
		}
		return over || done()
	})
	cancel()
	if !over {
		early = within(c, patience/2, "Run after its context has ended", func() error { return <-ended })
	}
	must(c, early, "Run")
}

// itemTransforms decode items.
func itemTransforms(columns bool) func(int) ([]flow.Transform, error) {
	return func(int) ([]flow.Transform, error) {
		if columns {
			return []flow.Transform{&itemDecoder{}}, nil
		}
		return []flow.Transform{checkingDecoder{}}, nil
	}
}

// checkpoints describes them: their own String is that of the partition.
func checkpoints(cs ...flow.Checkpoint) string {
	var b strings.Builder
	for i, c := range cs {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: offset %d, owner %d, topic id %q, leader epoch %d", c.Partition, c.Offset, c.Owner, c.TopicID, c.LeaderEpoch)
	}
	return b.String()
}
