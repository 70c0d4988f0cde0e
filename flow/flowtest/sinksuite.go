package flowtest

import (
	"context"
	"slices"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// SinkHarness says how to test a sink.
type SinkHarness struct {
	Features SinkFeatures
	// New makes a fresh, empty target of columns key, seq and payload (Item).
	// It frees what it made through t.Cleanup.
	New func(t testing.TB) *Target
}

// SinkFeatures are what a sink can do. The zero value is the least: a sink of
// raw records that is written at least once and says of bad data only that it
// is bad.
type SinkFeatures struct {
	// ExactlyOnce: the sink is a flow.Checkpointer.
	ExactlyOnce bool
	// SingleProcess: only one sink at a time can use a target (SQLite).
	SingleProcess bool
	// Columns: the sink writes Batch.Columns; otherwise the raw records.
	Columns bool
	// Upsert: a row replaces the one of the same key, and moves not to the end.
	Upsert bool
	// Tombstones: a record without value deletes the row of its key.
	Tombstones bool
	// StoresDeadLetters: the sink is a flow.DeadLetterStore that stores them.
	StoresDeadLetters bool
	// LocatesBadRows: data errors name the row, or the writer rejects it itself.
	LocatesBadRows bool
	// Unordered: Target.Rows cannot return the order of insertion.
	Unordered bool
	// Partial: the target has no transactions: what precedes a failure may
	// have been written (at least once per record).
	Partial bool
	// MaxRecord is the size of the largest payload that the target takes; 0: 5 MB.
	MaxRecord int
}

// Target is where a sink writes to, as its test sees it.
type Target struct {
	// Sink makes a sink on the target. Every call is another process. With
	// Upsert the key is the column key.
	Sink func(t testing.TB) flow.Sink
	// Rows reads back what is durable, in the order of insertion. It is called
	// while sinks are open, and inside of a transaction of theirs.
	Rows func(t testing.TB) []Item
	// Dead reads back the stored dead letters; nil without StoresDeadLetters.
	Dead func(t testing.TB) []DeadRow
	// Poison changes an item so that the target, not the decoder, refuses it (a
	// constraint). Nil: the target takes everything.
	Poison func(Item) Item
	// Break makes the target unreachable, dropping connections; Mend brings it
	// back. Nil: not tested.
	Break, Mend func(t testing.TB)
}

// RunSink runs the suite on a sink.
func RunSink(t *testing.T, h SinkHarness) {
	t.Helper()
	run(t, SinkCases(h))
}

// SinkCases are the cases that a sink with these features must pass.
func SinkCases(h SinkHarness) []Case {
	type entry struct {
		name string
		run  func(*sinkCase)
		when bool
	}
	f := h.Features
	var cases []Case
	for _, e := range []entry{
		{"OpensOnAnEmptyTarget", opensOnAnEmptyTarget, true},
		{"WritesInOrder", writesInOrder, true},
		{"EmptyBatch", emptyBatch, true},
		{"ManyPartitions", manyPartitions, true},
		{"BadRow", badRow, true},
		{"RejectedRows", rejectedRows, true},
		{"DeadLettersAreWhole", deadLettersAreWhole, f.StoresDeadLetters},
		{"DeadLettersRollBack", deadLettersRollBack, f.StoresDeadLetters && f.ExactlyOnce},
		{"UpsertLastWins", upsertLastWins, f.Upsert},
		{"TombstoneDeletes", tombstoneDeletes, f.Tombstones},
		{"BigBatch", bigBatch, true},
		{"BigRecord", bigRecord, true},
		{"OddText", oddText, true},
		{"CancelledBeforeWrite", cancelledBeforeWrite, true},
		{"CancelledDuringWrite", cancelledDuringWrite, !f.Partial},
		{"CloseTwice", closeTwice, true},
		{"CloseBeforeOpen", closeBeforeOpen, true},
		{"CloseAfterBlockedWrite", closeAfterBlockedWrite, true},
		{"AwayAndBack", awayAndBack, true},
		{"OpenWhileAway", openWhileAway, true},
		{"InitOnce", initOnce, f.ExactlyOnce},
		{"InitTogether", initTogether, f.ExactlyOnce && !f.SingleProcess},
		{"InitStartsFail", initStartsFail, f.ExactlyOnce},
		{"FingerprintRefused", fingerprintRefused, f.ExactlyOnce},
		{"FlowsAreApart", flowsAreApart, f.ExactlyOnce},
		{"ClaimIncrementsOwner", claimIncrementsOwner, f.ExactlyOnce},
		{"UnknownPartition", unknownPartition, f.ExactlyOnce},
		{"InsertLeavesRows", insertLeavesRows, f.ExactlyOnce},
		{"PositionsSurvive", positionsSurvive, f.ExactlyOnce},
		{"StaleOwnerFenced", staleOwnerFenced, f.ExactlyOnce},
		{"OtherProcessFenced", otherProcessFenced, f.ExactlyOnce && !f.SingleProcess},
		{"WrongFromFenced", wrongFromFenced, f.ExactlyOnce},
		{"MissingRowFenced", missingRowFenced, f.ExactlyOnce},
		{"FencedBeforeDataError", fencedBeforeDataError, f.ExactlyOnce},
		{"AllPartitionsOrNone", allPartitionsOrNone, f.ExactlyOnce},
		{"RepeatIsRefused", repeatIsRefused, f.ExactlyOnce},
		{"BeforeCommitInTransaction", beforeCommitInTransaction, f.ExactlyOnce},
	} {
		if e.when {
			cases = append(cases, Case{e.name, func(t testing.TB) { e.run(newSinkCase(t, h)) }})
		}
	}
	return cases
}

const sinkTopic = "flowtest.topic"

func sinkPartition(id int32) flow.Partition { return flow.Partition{Topic: sinkTopic, ID: id} }

// sinkPartitions is how many partitions have a checkpoint from the start.
const sinkPartitions = 4

// sinkCase is one case on a fresh target.
type sinkCase struct {
	testing.TB
	SinkFeatures
	ctx    context.Context
	target *Target
}

func newSinkCase(t testing.TB, h SinkHarness) *sinkCase {
	t.Helper()
	return &sinkCase{TB: t, SinkFeatures: h.Features, ctx: caseContext(t), target: h.New(t)}
}

func (c *sinkCase) setup() flow.Setup {
	s := flow.Setup{Flow: "flowtest", ClusterID: "cluster", Source: "group g, topics " + sinkTopic, Lanes: 1}
	if c.Columns {
		s.Fields = ItemFields()
	}
	return s
}

// process is one open sink with one writer, and its checkpoints as it knows them.
type process struct {
	c      *sinkCase
	setup  flow.Setup
	sink   flow.Sink
	cp     flow.Checkpointer // nil without ExactlyOnce
	w      flow.Writer
	next   map[int32]int64
	owner  map[int32]int64
	decode itemDecoder
}

// open opens a sink without registering the flow.
func (c *sinkCase) open(setup flow.Setup) *process {
	c.Helper()
	sink := c.target.Sink(c)
	c.Cleanup(func() { _ = sink.Close(context.Background()) })
	must(c, sink.Open(c.ctx, setup), "Open")
	p := &process{c: c, setup: setup, sink: sink, next: map[int32]int64{}, owner: map[int32]int64{}}
	cp, ok := sink.(flow.Checkpointer)
	if ok != c.ExactlyOnce {
		c.Fatalf("the sink is a Checkpointer: %t; its features say ExactlyOnce: %t", ok, c.ExactlyOnce)
	}
	p.cp = cp
	store, ok := sink.(flow.DeadLetterStore)
	if stores := ok && store.StoresDeadLetters(); stores != c.StoresDeadLetters {
		c.Fatalf("the sink stores dead letters: %t; its features say %t", stores, c.StoresDeadLetters)
	}
	return p
}

func starts(context.Context) ([]flow.Position, error) {
	var out []flow.Position
	for id := range int32(sinkPartitions) {
		out = append(out, flow.Position{Partition: sinkPartition(id), TopicID: "topic-id", Offset: 0, LeaderEpoch: -1})
	}
	return out, nil
}

// start opens a sink, registers the flow and claims all partitions.
func (c *sinkCase) start() *process {
	c.Helper()
	return c.startAs(c.setup())
}

func (c *sinkCase) startAs(setup flow.Setup) *process {
	c.Helper()
	p := c.open(setup)
	if p.cp != nil {
		must(c, p.cp.Init(c.ctx, starts), "Init")
		p.claim(0, 1, 2, 3)
	}
	p.writer()
	return p
}

// writer makes the process's writer anew.
func (p *process) writer() {
	p.c.Helper()
	w, err := p.sink.Writer(0)
	must(p.c, err, "Writer(0)")
	p.c.Cleanup(func() { _ = w.Close() })
	p.w = w
}

// claim takes partitions over and keeps what comes back.
func (p *process) claim(ids ...int32) []flow.Checkpoint {
	p.c.Helper()
	var ps []flow.Partition
	for _, id := range ids {
		ps = append(ps, sinkPartition(id))
	}
	got, err := p.cp.Claim(p.c.ctx, 0, ps)
	must(p.c, err, "Claim")
	p.c.inOrder("Claim", ps, got)
	for i, id := range ids {
		p.next[id], p.owner[id] = got[i].Offset, got[i].Owner
	}
	return got
}

func (c *sinkCase) inOrder(what string, ps []flow.Partition, got []flow.Checkpoint) {
	c.Helper()
	if len(got) != len(ps) {
		c.Fatalf("%s of %d partitions returned %d checkpoints", what, len(ps), len(got))
	}
	for i := range ps {
		if got[i].Partition != ps[i] {
			c.Fatalf("%s: checkpoint %d is of %s, not of %s as asked", what, i, got[i].Partition, ps[i])
		}
	}
}

// stored reads the checkpoints without taking over.
func (p *process) stored(ids ...int32) []flow.Checkpoint {
	p.c.Helper()
	var ps []flow.Partition
	for _, id := range ids {
		ps = append(ps, sinkPartition(id))
	}
	got, err := p.cp.Read(p.c.ctx, ps)
	must(p.c, err, "Read")
	p.c.inOrder("Read", ps, got)
	return got
}

// piece is what a batch shall hold of one partition.
type piece struct {
	partition int32
	items     []Item
	gap       int64 // offsets without a record after them
	tombstone []int // which of the items are sent without value
}

// batch makes a batch that continues at the process's positions.
func (p *process) batch(pieces ...piece) *flow.Batch {
	p.c.Helper()
	var records []flow.Record
	var parts []flow.Part
	for k, pc := range pieces {
		from := p.next[pc.partition]
		part := flow.Part{
			Partition: sinkPartition(pc.partition), TopicID: "topic-id", From: from, LeaderEpoch: 3,
			Next: from + int64(len(pc.items)) + pc.gap, Owner: p.owner[pc.partition], First: len(records),
		}
		for i, it := range pc.items {
			r := it.Record()
			r.Offset, r.Part = from+int64(i), int32(k)
			if slices.Contains(pc.tombstone, i) {
				r.Value = nil
			}
			records = append(records, r)
		}
		part.End = len(records)
		parts = append(parts, part)
	}
	b := flow.NewBatch(records, parts)
	if p.c.Columns {
		must(p.c, p.decode.Process(p.c.ctx, b), "decode")
	}
	return b
}

// write writes a batch that must succeed, and moves the process's positions.
func (p *process) write(pieces ...piece) {
	p.c.Helper()
	b := p.batch(pieces...)
	must(p.c, p.w.Write(p.c.ctx, b), "Write")
	p.wrote(b)
}

func (p *process) wrote(b *flow.Batch) {
	for _, part := range b.Parts {
		p.next[part.ID] = part.Next
	}
}

// rows compares what is durable with what should be.
func (c *sinkCase) rows(want ...[]Item) {
	c.Helper()
	all := slices.Concat(want...)
	got := c.target.Rows(c)
	if c.Unordered {
		bySeq := func(a, b Item) int { return int(a.Seq - b.Seq) }
		all, got = slices.SortedFunc(slices.Values(all), bySeq), slices.SortedFunc(slices.Values(got), bySeq)
	}
	if len(got) != len(all) {
		c.Fatalf("%d rows are durable, want %d; the last of them is %s", len(got), len(all), lastOf(got))
	}
	for i := range all {
		if got[i] != all[i] {
			c.Fatalf("row %d is %s, want %s", i, describe(got[i]), describe(all[i]))
		}
	}
}
