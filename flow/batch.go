package flow

import (
	"context"
	"iter"
	"slices"
)

// Part is what a batch holds of one partition.
type Part struct {
	Partition
	TopicID string
	// From is the checkpoint before this batch: the next offset as this lane
	// last read it from, or wrote it to, the checkpoint. It is not the first
	// record's offset: logs have gaps.
	From int64
	// Next is the checkpoint after this batch.
	Next int64
	// LeaderEpoch is that of the last record, -1 if not known.
	LeaderEpoch int32
	// Owner is the owner epoch under which the lane holds the partition: the
	// number that Checkpointer.Claim returned. 0 without a Checkpointer.
	Owner int64
	// First and End delimit the part's records in Batch.Records. They are equal
	// where only the position moves (control or aborted records).
	First, End int
}

// Batch is records of one or more partitions, written as one unit. The records
// of a partition are contiguous and in order.
//
// A batch belongs to its lane. Transforms and writers hold it until they
// return, and never keep a reference into it.
type Batch struct {
	// Records are all records, the rejected ones included. A writer iterates
	// with Next, never over Records itself: the batch may be the view of a part
	// of another one.
	Records []Record
	// Parts are in the order of Records.
	Parts []Part
	// Columns are nil unless a transform decodes. Index them like Records.
	Columns *Columns
	// Route is the index in Config.Routes of the route that all records of the
	// batch take; 0 without routes.
	Route int

	// lo and hi delimit the rows that this batch, or this view of one, covers.
	lo, hi int
	// rej is shared between a batch and its views: a row that is rejected in
	// one is rejected in all.
	rej *rejects
	// beforeCommit is set by the engine when dead letters go elsewhere than the sink.
	beforeCommit func(context.Context, *Batch) error
	cluster      string
}

type rejects struct {
	list []Reject
	dead []uint64 // bitmap of rejected rows; empty while there are none
}

// NewBatch makes a batch of the records for tests and for programs that call a
// Writer themselves. Parts must cover the records, in order.
func NewBatch(records []Record, parts []Part) *Batch {
	b := &Batch{Records: records, Parts: parts}
	b.reset()
	return b
}

// reset makes the batch cover all of Records with nothing rejected.
func (b *Batch) reset() {
	b.lo, b.hi = 0, len(b.Records)
	if b.rej == nil {
		b.rej = &rejects{}
	}
	clear(b.rej.list)
	b.rej.list = b.rej.list[:0]
	b.rej.dead = b.rej.dead[:0]
}

// Next returns the first row at or after i that is to be written, or -1:
//
//	for i := b.Next(0); i >= 0; i = b.Next(i + 1) { ... }
func (b *Batch) Next(i int) int {
	if i < b.lo {
		i = b.lo
	}
	dead := b.rej.dead
	if len(dead) == 0 {
		if i < b.hi {
			return i
		}
		return -1
	}
	for ; i < b.hi; i++ {
		if dead[i>>6]&(1<<(i&63)) == 0 {
			return i
		}
	}
	return -1
}

// Rows is the number of rows that are to be written.
func (b *Batch) Rows() int {
	n := b.hi - b.lo
	for i := range b.rej.list {
		if r := b.rej.list[i].Row; r >= b.lo && r < b.hi {
			n--
		}
	}
	return n
}

// Len is the number of records that the batch covers, rejected ones included.
func (b *Batch) Len() int { return b.hi - b.lo }

// Stage says where in the flow a record failed.
type Stage string

// The stages.
const (
	StageDecode    Stage = "decode"
	StageTransform Stage = "transform"
	StageWrite     Stage = "write"
)

// Reject is a record that must not be written, and why.
type Reject struct {
	Row   int
	Stage Stage
	Err   error
}

// Reject takes row i out of what is to be written; it leaves as a dead letter.
// Give a *RecordError to say the class and the column. A row is rejected once:
// later calls for the same row change nothing.
//
// A writer may reject while it encodes (a number out of the column's range).
// That must depend on the record and the table alone, because the rejection
// stays when the batch is retried.
func (b *Batch) Reject(i int, stage Stage, err error) {
	if b.Rejected(i) {
		return
	}
	if words := (len(b.Records) + 63) / 64; len(b.rej.dead) < words {
		b.rej.dead = resize(b.rej.dead, words)
		clear(b.rej.dead)
	}
	b.rej.dead[i>>6] |= 1 << (i & 63)
	b.rej.list = append(b.rej.list, Reject{Row: i, Stage: stage, Err: err})
}

// Rejects are the rows that the batch covers and that were rejected, in no order.
func (b *Batch) Rejects() iter.Seq[Reject] {
	return func(yield func(Reject) bool) {
		for _, r := range b.rej.list {
			if r.Row >= b.lo && r.Row < b.hi && !yield(r) {
				return
			}
		}
	}
}

// Class returns the class and the column that the row's dead letter has.
func (r *Reject) Class() (class, column string) { return classify(r.Err) }

// Rejected reports whether row i was rejected.
func (b *Batch) Rejected(i int) bool {
	return len(b.rej.dead) > 0 && b.rej.dead[i>>6]&(1<<(i&63)) != 0
}

// DeadLetter is a rejected record with everything that a reader of the
// dead-letter queue needs to judge it and to send it again.
type DeadLetter struct {
	ClusterID string
	Partition
	TopicID string
	Record  *Record
	Stage   Stage
	// Class is short and stable: malformed, type, range, null, encoding,
	// tombstone, constraint, oversized, ...
	Class   string
	Column  string
	Message string
}

// DeadLetters are the rejected records that the batch covers, in the order of
// Records, for a sink that stores them. Nil if there are none, and where the flow keeps
// them elsewhere (Config.DeadLetters).
func (b *Batch) DeadLetters() []DeadLetter {
	if b.beforeCommit != nil {
		return nil
	}
	return b.deadLetters()
}

func (b *Batch) deadLetters() []DeadLetter {
	if len(b.rej.list) == 0 {
		return nil
	}
	var out []DeadLetter
	slices.SortFunc(b.rej.list, func(x, y Reject) int { return x.Row - y.Row })
	for _, r := range b.rej.list {
		if r.Row < b.lo || r.Row >= b.hi {
			continue
		}
		rec := &b.Records[r.Row]
		p := b.partOf(r.Row)
		class, column := classify(r.Err)
		out = append(out, DeadLetter{
			ClusterID: b.cluster, Partition: p.Partition, TopicID: p.TopicID,
			Record: rec, Stage: r.Stage, Class: class, Column: column, Message: r.Err.Error(),
		})
	}
	return out
}

// partOf returns the part that row i belongs to.
func (b *Batch) partOf(i int) *Part {
	k, _ := slices.BinarySearchFunc(b.Parts, i, func(p Part, row int) int {
		if p.End <= row {
			return -1
		}
		return 1
	})
	return &b.Parts[min(k, len(b.Parts)-1)]
}

// BeforeCommit makes durable what must be durable before the positions of the
// batch are: dead letters that go to a queue outside the sink. A writer of a
// Checkpointer calls it in its transaction, after the compare-and-swap of the
// positions and the data, and before COMMIT. Its error is returned unchanged.
// For other sinks the engine calls it after Write.
func (b *Batch) BeforeCommit(ctx context.Context) error {
	if b.beforeCommit == nil || len(b.rej.list) == 0 {
		return nil
	}
	return b.beforeCommit(ctx, b)
}

// head returns the view of the rows from lo to row n (excluded), with the
// positions that hold after them. The view shares everything with b.
func (b *Batch) head(n int) *Batch {
	v := *b
	v.hi = n
	v.Parts = nil
	for _, p := range b.Parts {
		switch {
		case p.End <= b.lo && p.First < p.End, p.First == p.End && p.First < b.lo:
			continue // written before
		case p.End <= n && (p.First < p.End || n > p.First || n == b.hi):
			v.Parts = append(v.Parts, p)
		case p.First < n:
			p.End = n
			p.Next = b.Records[n-1].Offset + 1
			v.Parts = append(v.Parts, p)
		}
	}
	return &v
}

// advance drops the rows below n, which have been written with the positions
// of head(n).
func (b *Batch) advance(n int) {
	done := b.head(n).Parts // in the order of b.Parts
	k, d := 0, 0
	for _, p := range b.Parts {
		if d < len(done) && done[d].Partition == p.Partition {
			next := done[d].Next
			d++
			if next == p.Next {
				continue
			}
			p.From = next
			p.First = n
		}
		b.Parts[k] = p
		k++
	}
	b.Parts = b.Parts[:k]
	b.lo = n
}
