package flowtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func openDescribesTheLog(c *sourceCase) {
	n := c.make(3)
	counts := []int{5, 0, 12}[:n]
	for id, k := range counts {
		if k > 0 {
			c.produce(int32(id), k)
		}
	}
	r := c.open(SourceStart{})
	if r.log.ClusterID == "" || r.log.Name == "" {
		c.Errorf("the cluster id is %q, the name %q: positions need both", r.log.ClusterID, r.log.Name)
	}
	if len(r.log.Partitions) != n {
		c.Fatalf("Open tells of %d partitions, want %d", len(r.log.Partitions), n)
	}
	seen := map[flow.Partition]bool{}
	for _, info := range r.log.Partitions {
		if info.Topic != c.topic.Name || info.ID < 0 || int(info.ID) >= n || seen[info.Partition] {
			c.Fatalf("Open tells of %s", info.Partition)
		}
		seen[info.Partition] = true
		if want := int64(counts[info.ID]); info.End-info.Begin < want {
			c.Errorf("%s holds %d records, but lies between %d and %d", info.Partition, want, info.Begin, info.End)
		}
		if info.Start != info.Begin {
			c.Errorf("%s starts at %d, want its beginning %d", info.Partition, info.Start, info.Begin)
		}
		if info.Committed != -1 {
			c.Errorf("%s: %d is committed, want -1 for none", info.Partition, info.Committed)
		}
	}
	again, err := r.source.Open(c.ctx)
	must(c, err, "Open again")
	other := c.open(SourceStart{})
	for _, l := range []*flow.Log{again, other.log} {
		if l.ClusterID != r.log.ClusterID || l.Name != r.log.Name && l == again {
			c.Errorf("the log was %q in %q, and is %q in %q now", r.log.Name, r.log.ClusterID, l.Name, l.ClusterID)
		}
	}
}

func readsAllInOrder(c *sourceCase) {
	n := c.make(4)
	for id := range n {
		c.produce(int32(id), 500*(id+1))
	}
	r := c.start(SourceStart{})
	r.readAll()
	for id := range n {
		c.produce(int32(id), 50) // while it reads on
	}
	r.readAll()
	r.close()
}

func recordsAreWhole(c *sourceCase) {
	c.make(1)
	records := []flow.Record{
		{Value: []byte("plain")},
		{Value: []byte{}},
		{Value: []byte("\xff\x00\x80 bytes")},
		{Value: bytes.Repeat([]byte("long "), 10_000)},
	}
	if c.Keys {
		records = append(records, flow.Record{Key: []byte("k"), Value: []byte("v")}, flow.Record{Key: []byte{}, Value: []byte("empty key")})
	}
	if c.Tombstones {
		records = append(records, flow.Record{Key: []byte("gone")})
	}
	if c.Headers {
		records = append(records, flow.Record{Value: []byte("v"), Headers: []flow.Header{
			{Key: "b", Value: []byte("1")}, {Key: "a", Value: []byte("\xff\x00")}, {Key: "b", Value: []byte("2")}, {Key: "empty", Value: []byte{}},
		}})
	}
	for i := range records {
		if c.Timestamps {
			records[i].Timestamp = epoch + int64(i)*86_400_000_000
		}
		if !c.Keys {
			records[i].Key = nil
		}
	}
	c.produceThese(0, records...)
	r := c.start(SourceStart{})
	r.readAll()
}

func bigSourceRecord(c *sourceCase) {
	c.make(1)
	size := c.MaxRecord
	if size == 0 {
		size = 900_000
	}
	c.produce(0, 3)
	big := flow.Record{Value: bytes.Repeat([]byte{'x'}, size)}
	if c.Timestamps {
		big.Timestamp = epoch
	}
	c.produceThese(0, big)
	c.produce(0, 3)
	c.start(SourceStart{}).readAll()
}

// offsets returns the offset of every record of partition id, by reading them.
func (c *sourceCase) offsets(id int32) []int64 {
	c.Helper()
	r := c.start(SourceStart{})
	r.readAll()
	r.close()
	var out []int64
	for _, rec := range r.in.records(c.partition(id)) {
		out = append(out, rec.Offset)
	}
	return out
}

func startsWhereAssigned(c *sourceCase) {
	c.make(1)
	c.produce(0, 300)
	offsets := c.offsets(0)
	for _, from := range []int{0, 1, 137, 299} {
		r := c.open(SourceStart{})
		r.in.startAt = func(flow.PartitionInfo) int64 { return offsets[from] }
		r.subscribe()
		r.readUntil("read from the position", func() bool { return r.in.count() >= 300-from })
		c.compare(0, c.want[0][from:], r.in.records(c.partition(0)))
		r.close()
	}
}

func startsAtTheEnd(c *sourceCase) {
	c.make(1)
	c.produce(0, 20)
	r := c.open(SourceStart{})
	r.in.startAt = func(p flow.PartitionInfo) int64 { return p.End }
	r.subscribe()
	r.readUntil("assigned", func() bool { return len(r.in.ownedNow()) == 1 })
	c.want = map[int32][]flow.Record{}
	c.produce(0, 5)
	r.readAll()
}

func startsLatest(c *sourceCase) {
	c.make(1)
	c.produce(0, 20)
	r := c.open(SourceStart{Latest: true})
	if p := r.log.Partitions[0]; p.Start != p.End {
		c.Fatalf("latest is %d, want the end %d", p.Start, p.End)
	}
}

// leavesOutUnassigned: what comes back with offset -1 is not read.
func leavesOutUnassigned(c *sourceCase) {
	c.make(3)
	r := c.open(SourceStart{})
	r.in.startAt = func(p flow.PartitionInfo) int64 {
		if p.ID == 1 {
			return -1
		}
		return p.Start
	}
	r.subscribe()
	for n := range 5 { // a Read need not deliver every partition
		for id := range int32(3) {
			c.produce(id, 50)
		}
		r.readUntil("read the others", func() bool { return r.in.count() >= 100*(n+1) })
	}
	delete(c.want, 1)
	r.check()
}

func gapsMoveTheNext(c *sourceCase) {
	c.make(1)
	if c.topic.Gap == nil {
		c.Log("nothing to test: a log without gaps")
		return
	}
	c.produce(0, 10)
	c.topic.Gap(c, 0)
	c.produce(0, 10)
	c.topic.Gap(c, 0)
	r := c.start(SourceStart{})
	r.readAll()
	var end int64
	for _, p := range c.open(SourceStart{}).log.Partitions {
		end = p.End
	}
	r.readUntil("the position passes what is not a record", func() bool { return r.in.next(c.partition(0)) == end })
	r.check()
}

func readEndsWithContext(c *sourceCase) {
	c.make(2)
	c.produce(0, 5)
	r := c.start(SourceStart{})
	r.readAll()
	r.in.reads(true)
	defer r.in.reads(false)
	for _, wait := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(c.ctx, wait)
		err := within(c, soon, "Read whose context has ended", func() error { return r.source.Read(ctx) })
		cancel()
		if err != nil {
			c.Fatalf("Read returned %v when its context ended, want nil", err)
		}
	}
	// Even if there is something to read.
	c.produce(0, 5)
	before := r.in.count()
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if err := within(c, soon, "Read whose context has ended", func() error { return r.source.Read(ctx) }); err != nil {
		c.Fatalf("Read returned %v when its context had ended, want nil", err)
	}
	if n := r.in.count() - before; n > 0 {
		c.Fatalf("Read delivered %d records after its context had ended", n)
	}
}

// readGoesOn: Reads that end by their context lose nothing.
func readGoesOn(c *sourceCase) {
	c.make(2)
	r := c.start(SourceStart{})
	for i := range 20 {
		c.produce(0, 10)
		ctx, cancel := context.WithTimeout(c.ctx, time.Duration(i)*500*time.Microsecond)
		r.in.reads(true)
		must(c, r.source.Read(ctx), "Read")
		r.in.reads(false)
		cancel()
	}
	r.readAll()
}

func pauseAndResume(c *sourceCase) {
	c.make(2)
	p0, p1 := c.partition(0), c.partition(1)
	c.produce(0, 100)
	c.produce(1, 100)
	r := c.start(SourceStart{})
	r.readAll()
	for range 3 {
		r.pauser.Pause([]flow.Partition{p0})
		r.pauser.Pause([]flow.Partition{p0}) // twice is once
		before := len(r.in.records(p0))
		c.produce(0, 200)
		c.produce(1, 200)
		r.readUntil("read the other partition", func() bool { return len(r.in.records(p1)) == len(c.want[1]) })
		if n := len(r.in.records(p0)) - before; n > 0 {
			c.Fatalf("%d records of a paused partition were delivered", n)
		}
		r.pauser.Resume([]flow.Partition{p0})
		r.readAll()
	}
	r.pauser.Resume([]flow.Partition{p0, p1}) // what is not paused
	c.produce(0, 10)
	r.readAll()
}

// pauseAll: with everything paused a Read waits, and ends with its context.
func pauseAll(c *sourceCase) {
	c.make(2)
	c.produce(0, 100)
	r := c.start(SourceStart{})
	r.readAll()
	r.pauser.Pause([]flow.Partition{c.partition(0)})
	c.produce(0, 100)
	for range 3 {
		ctx, cancel := context.WithTimeout(c.ctx, 30*time.Millisecond)
		r.in.reads(true)
		err := within(c, soon, "Read with everything paused", func() error { return r.source.Read(ctx) })
		r.in.reads(false)
		cancel()
		must(c, err, "Read with everything paused")
	}
	if n := r.in.count(); n != 100 {
		c.Fatalf("%d records were delivered, want the 100 from before the pause", n)
	}
	r.pauser.Resume([]flow.Partition{c.partition(0)})
	r.readAll()
}

// seek sets partition 0 to the offset of record i, and expects the rest from there.
func (r *reader) seek(offsets []int64, i int) {
	r.c.Helper()
	p := r.c.partition(0)
	at := r.in.next(p) // the end, where i is beyond the last record
	if i < len(offsets) {
		at = offsets[i]
	}
	pos := flow.Position{Partition: p, TopicID: r.topicID(p), Offset: at, LeaderEpoch: -1}
	r.in.moved(p, at)
	must(r.c, r.seeker.Seek(r.c.ctx, []flow.Position{pos}), "Seek")
}

func (r *reader) topicID(p flow.Partition) string {
	for _, info := range r.log.Partitions {
		if info.Partition == p {
			return info.TopicID
		}
	}
	return ""
}

// restFrom reads partition 0 to its end and compares it from record i on.
func (r *reader) restFrom(i int) {
	r.c.Helper()
	p, want := r.c.partition(0), r.c.want[0][i:]
	r.readUntil("read from where Seek has set it", func() bool { return len(r.in.records(p)) >= len(want) })
	r.c.compare(0, want, r.in.records(p))
}

func seekBack(c *sourceCase) {
	c.make(2)
	c.produce(0, 1000)
	c.produce(1, 10)
	offsets := c.offsets(0)
	r := c.start(SourceStart{})
	r.readAll()
	for _, i := range []int{0, 999, 500, 1} {
		r.seek(offsets, i)
		r.restFrom(i)
	}
	if got := len(r.in.records(c.partition(1))); got != len(c.want[1]) {
		c.Fatalf("%d records of the partition that was not set were delivered, want %d", got, len(c.want[1]))
	}
}

// seekAtRandom seeks in the midst of reading, back and forward: nothing from
// before the Seek comes after it.
func seekAtRandom(c *sourceCase) {
	c.make(1)
	c.produce(0, 3000)
	offsets := c.offsets(0)
	r := c.start(SourceStart{})
	rng := rand.New(rand.NewPCG(1, 2))
	p := c.partition(0)
	r.readUntil("assigned", func() bool { return len(r.in.ownedNow()) > 0 })
	for range 25 {
		i := rng.IntN(len(offsets))
		r.seek(offsets, i)
		reads := rng.IntN(3)
		r.readUntil("read a little", func() bool { reads--; return reads < 0 || len(r.in.records(p)) == len(offsets)-i })
		got := r.in.records(p)
		c.compare(0, c.want[0][i:i+min(len(got), len(offsets)-i)], got)
	}
	r.seek(offsets, 7)
	r.restFrom(7)
}

// seekWhilePaused is what the engine does to a lane that is full and fenced.
func seekWhilePaused(c *sourceCase) {
	c.make(1)
	c.produce(0, 1000)
	offsets := c.offsets(0)
	r := c.start(SourceStart{})
	p := []flow.Partition{c.partition(0)}
	r.readUntil("read a little", func() bool { return r.in.count() > 0 })
	r.pauser.Pause(p)
	r.seek(offsets, 3)
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Millisecond)
	r.in.reads(true)
	must(c, r.source.Read(ctx), "Read")
	r.in.reads(false)
	cancel()
	if n := len(r.in.records(p[0])); n > 0 {
		c.Fatalf("Seek ended a pause: %d records were delivered", n)
	}
	r.pauser.Resume(p)
	r.restFrom(3)
}

func committedIsKept(c *sourceCase) {
	n := c.make(2)
	for id := range n {
		c.produce(int32(id), 100)
	}
	r := c.start(SourceStart{Group: "kept"})
	r.readAll()
	at := slices.MinFunc(r.in.records(c.partition(0))[40:], func(a, b flow.Record) int { return int(a.Offset - b.Offset) }).Offset
	commit := func(offset int64) error {
		return r.committer.Commit(c.ctx, []flow.Position{
			{Partition: c.partition(0), TopicID: r.topicID(c.partition(0)), Offset: offset, LeaderEpoch: -1},
			{Partition: flow.Partition{Topic: c.topic.Name, ID: 77}, Offset: 5, LeaderEpoch: -1}, // not ours: left out silently
		})
	}
	must(c, commit(at-1), "Commit")
	must(c, commit(at), "Commit again")
	must(c, r.committer.Commit(c.ctx, nil), "Commit of nothing")
	r.close()

	s := c.open(SourceStart{Group: "kept"})
	for _, info := range s.log.Partitions {
		want := int64(-1)
		if info.ID == 0 {
			want = at
		}
		if info.Committed != want {
			c.Errorf("%s: Open says that %d is committed, want %d", info.Partition, info.Committed, want)
		}
	}
	s.in.startAt = func(info flow.PartitionInfo) int64 {
		if info.Committed >= 0 {
			return info.Committed
		}
		return info.Start
	}
	s.subscribe()
	s.readUntil("read from what was committed", func() bool { return len(s.in.records(c.partition(0))) >= 60 })
	c.compare(0, c.want[0][40:], s.in.records(c.partition(0)))
}
