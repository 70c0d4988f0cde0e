package flowtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// SourceHarness says how to test a source.
type SourceHarness struct {
	Features SourceFeatures
	// New makes a fresh topic with that many partitions, 1 if the features say
	// SinglePartition. It frees what it made through t.Cleanup.
	New func(t testing.TB, partitions int) *Topic
}

// SourceFeatures are what a source can do. The zero value is a source that
// delivers values, in order per partition, from where it is told to start.
type SourceFeatures struct {
	// SinglePartition: a topic has one partition.
	SinglePartition bool
	// Group: sources of one group share the partitions, and leave and take over.
	Group bool
	// Commit: the source is a flow.Committer, and tells what was committed by
	// PartitionInfo.Committed.
	Commit bool
	// Pause: the source is a flow.Pauser. Seek: it is a flow.Seeker.
	Pause, Seek bool
	// Keys, Headers, Timestamps, Tombstones: the records carry them.
	Keys, Headers, Timestamps, Tombstones bool
	// Latest: SourceStart.Latest is understood.
	Latest bool
	// MaxRecord is the size of the largest value; 0: 900,000 bytes.
	MaxRecord int
}

// SourceStart is what a test asks of a source.
type SourceStart struct {
	// Group is empty where the test does not care.
	Group string
	// Latest starts at the end of the log, otherwise at its beginning.
	Latest bool
}

// Topic is what a source reads, as its test sees it.
type Topic struct {
	// Name is flow.Partition.Topic of its partitions.
	Name string
	// Source makes a source of this topic. Every call is another process.
	Source func(t testing.TB, s SourceStart) flow.Source
	// Produce appends records to a partition, in order, and returns when they
	// can be read. Offset and Part of the records mean nothing.
	Produce func(t testing.TB, partition int32, records ...flow.Record)
	// Gap takes up offsets without a record for the reader (an aborted
	// transaction, compaction). Nil: the log has no gaps.
	Gap func(t testing.TB, partition int32)
	// Break makes the log unreachable, dropping connections; Mend brings it
	// back. Nil: not tested.
	Break, Mend func(t testing.TB)
}

// RunSource runs the suite on a source.
func RunSource(t *testing.T, h SourceHarness) {
	t.Helper()
	run(t, SourceCases(h))
}

// SourceCases are the cases that a source with these features must pass.
func SourceCases(h SourceHarness) []Case {
	f := h.Features
	var cases []Case
	for _, e := range []struct {
		name string
		run  func(*sourceCase)
		when bool
	}{
		{"OpenDescribesTheLog", openDescribesTheLog, true},
		{"ReadsAllInOrder", readsAllInOrder, true},
		{"RecordsAreWhole", recordsAreWhole, true},
		{"BigRecord", bigSourceRecord, true},
		{"StartsWhereAssigned", startsWhereAssigned, true},
		{"StartsAtTheEnd", startsAtTheEnd, true},
		{"StartsLatest", startsLatest, f.Latest},
		{"LeavesOutUnassigned", leavesOutUnassigned, !f.SinglePartition},
		{"GapsMoveTheNext", gapsMoveTheNext, true},
		{"ReadEndsWithContext", readEndsWithContext, true},
		{"ReadGoesOn", readGoesOn, true},
		{"PauseAndResume", pauseAndResume, f.Pause && !f.SinglePartition},
		{"PauseAll", pauseAll, f.Pause},
		{"SeekBack", seekBack, f.Seek},
		{"SeekAtRandom", seekAtRandom, f.Seek},
		{"SeekWhilePaused", seekWhilePaused, f.Seek && f.Pause},
		{"CommittedIsKept", committedIsKept, f.Commit},
		{"GroupShares", groupShares, f.Group && !f.SinglePartition},
		{"GroupTakesOver", groupTakesOver, f.Group && !f.SinglePartition},
		{"CloseTwice", closeSourceTwice, true},
		{"CloseBeforeOpen", closeSourceBeforeOpen, true},
		{"CloseAfterBlockedRead", closeAfterBlockedRead, true},
		{"CloseEndsAssigned", closeEndsAssigned, true},
		{"NothingAfterClose", nothingAfterClose, true},
		{"AwayAndBack", sourceAwayAndBack, true},
		{"LeavesNoGoroutines", leavesNoGoroutines, true},
	} {
		if e.when {
			cases = append(cases, Case{e.name, func(t testing.TB) { e.run(newSourceCase(t, h)) }})
		}
	}
	return cases
}

// sourceCase is one case on a topic of its own, which is made by topic.
type sourceCase struct {
	testing.TB
	SourceFeatures
	ctx     context.Context
	harness SourceHarness
	topic   *Topic
	want    map[int32][]flow.Record // what was produced
}

func newSourceCase(t testing.TB, h SourceHarness) *sourceCase {
	return &sourceCase{TB: t, SourceFeatures: h.Features, ctx: caseContext(t), harness: h, want: map[int32][]flow.Record{}}
}

// make makes the topic and says how many partitions it has.
func (c *sourceCase) make(partitions int) int {
	c.Helper()
	if c.SinglePartition {
		partitions = 1
	}
	c.topic = c.harness.New(c, partitions)
	return partitions
}

func (c *sourceCase) partition(id int32) flow.Partition {
	return flow.Partition{Topic: c.topic.Name, ID: id}
}

// produce appends n records to a partition, and remembers them.
func (c *sourceCase) produce(id int32, n int) {
	c.Helper()
	var records []flow.Record
	first := len(c.want[id])
	for i := first; i < first+n; i++ {
		r := flow.Record{Value: fmt.Appendf(nil, "value %d of partition %d", i, id)}
		if c.Keys {
			r.Key = fmt.Appendf(nil, "key %d", i)
		}
		if c.Timestamps {
			r.Timestamp = epoch + int64(i)*1000 // whole milliseconds: Kafka has no finer ones
		}
		if c.Headers {
			r.Headers = []flow.Header{{Key: "n", Value: fmt.Append(nil, i)}}
		}
		records = append(records, r)
	}
	c.produceThese(id, records...)
}

func (c *sourceCase) produceThese(id int32, records ...flow.Record) {
	c.Helper()
	c.topic.Produce(c, id, records...)
	c.want[id] = append(c.want[id], records...)
}

// reader is a source with an intake that checks what it does.
type reader struct {
	c      *sourceCase
	source flow.Source
	log    *flow.Log
	in     *checkingIntake
	// nil where the features do not name them
	pauser    flow.Pauser
	seeker    flow.Seeker
	committer flow.Committer
}

// open makes and opens a source.
func (c *sourceCase) open(s SourceStart) *reader {
	c.Helper()
	src := c.topic.Source(c, s)
	c.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_ = src.Close(ctx)
	})
	r := &reader{c: c, source: src, in: newCheckingIntake()}
	var pauses, seeks, commits bool
	r.pauser, pauses = src.(flow.Pauser)
	r.seeker, seeks = src.(flow.Seeker)
	r.committer, commits = src.(flow.Committer)
	if pauses != c.Pause || seeks != c.Seek || commits != c.Commit {
		c.Fatalf("the source is a Pauser: %t, a Seeker: %t, a Committer: %t; its features say %t, %t, %t",
			pauses, seeks, commits, c.Pause, c.Seek, c.Commit)
	}
	var err error
	r.log, err = src.Open(c.ctx)
	must(c, err, "Open")
	return r
}

func (r *reader) subscribe() {
	r.c.Helper()
	must(r.c, r.source.Subscribe(r.c.ctx, r.in), "Subscribe")
}

// start opens and subscribes, starting as configured.
func (c *sourceCase) start(s SourceStart) *reader {
	c.Helper()
	r := c.open(s)
	r.subscribe()
	return r
}

// readUntil reads until cond, asked after every Read, holds.
func (r *reader) readUntil(what string, cond func() bool) {
	r.c.Helper()
	ctx, cancel := context.WithTimeout(r.c.ctx, patience/2)
	defer cancel()
	if err := r.read(ctx, cond); err != nil {
		r.c.Fatalf("%s: %v", what, err)
	}
}

// read is readUntil for any goroutine.
func (r *reader) read(ctx context.Context, cond func() bool) error {
	for !cond() {
		if err := r.in.broken(); err != nil {
			return err
		}
		if ctx.Err() != nil && !cond() { // it may be that ctx has ended
			return fmt.Errorf("that has not come to pass; delivered so far: %s", r.in)
		}
		// A condition may come to hold by an assignment, which ends no Read.
		slice, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		r.in.reads(true)
		err := r.source.Read(slice)
		r.in.reads(false)
		cancel()
		if err != nil && !flow.IsTransient(err) {
			return fmt.Errorf("Read: %w", err)
		}
	}
	return r.in.broken()
}

// readAll reads until every partition is as it was produced, and nothing more.
func (r *reader) readAll() {
	r.c.Helper()
	r.readUntil("read all that was produced", func() bool { return r.in.count() >= r.c.produced() })
	r.check()
}

func (c *sourceCase) produced() (n int) {
	for _, records := range c.want {
		n += len(records)
	}
	return n
}

// check compares what was delivered with what was produced.
func (r *reader) check() {
	r.c.Helper()
	must(r.c, r.in.broken(), "the contract")
	for id, want := range r.c.want {
		r.c.compare(id, want, r.in.records(r.c.partition(id)))
	}
}

// compare compares two sequences of records of a partition.
func (c *sourceCase) compare(id int32, want, got []flow.Record) {
	c.Helper()
	for i := range want {
		if i >= len(got) {
			c.Fatalf("partition %d: %d records were delivered, want %d", id, len(got), len(want))
		}
		w := want[i]
		if !c.Timestamps {
			w.Timestamp = got[i].Timestamp
		}
		if diff := DiffRecord(&w, &got[i]); diff != "" {
			c.Fatalf("partition %d, record %d of %d (offset %d): %s", id, i, len(want), got[i].Offset, diff)
		}
	}
	if len(got) > len(want) {
		c.Fatalf("partition %d: %d records were delivered, want %d", id, len(got), len(want))
	}
}

func (r *reader) close() {
	r.c.Helper()
	if err := within(r.c, soon, "Close", func() error { return r.source.Close(r.c.ctx) }); err != nil {
		r.c.Errorf("Close: %v", err)
	}
	must(r.c, r.in.broken(), "the contract")
}
