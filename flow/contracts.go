package flow

import (
	"context"
	"time"
)

// PartitionInfo is what a source knows of a partition: the positions between
// which it can be read now, and where a flow that has no checkpoint starts.
type PartitionInfo struct {
	Partition
	TopicID string
	// Begin is the first offset that the log holds, End the one after the last.
	Begin, End int64
	// Start is the offset that the source's configured start (earliest, latest,
	// a time, the group's offsets) means for this partition now.
	Start int64
	// Committed is the offset that the source itself keeps for this consumer
	// (a group's committed offset), -1 if none.
	Committed int64
	// LeaderEpoch belongs to Start or Committed; -1 if not known.
	LeaderEpoch int32
}

// Log is what a source reads from.
type Log struct {
	// ClusterID tells one cluster from another; positions of one mean nothing
	// in another.
	ClusterID string
	// Name says in words what is read, for the checkpoint's fingerprint:
	// "group g, topics a, b". It must be the same at every start of the flow,
	// and differ where positions of one would mean nothing for the other.
	Name string
	// OpenEnded says that topics may appear later (they are a pattern).
	OpenEnded bool
	// Partitions are all partitions, of this process or not.
	Partitions []PartitionInfo
}

// Source reads records. The engine calls Open, Subscribe, then Read in a loop
// from one goroutine, then Close from the same.
type Source interface {
	// Open connects, and says what there is to read. It may be called again
	// after an error, and after Subscribe, from any goroutine, to learn what
	// there is by then.
	Open(ctx context.Context) (*Log, error)

	// Subscribe begins reading for the Intake. It returns once the source is
	// ready to be read; partitions may be assigned later.
	Subscribe(ctx context.Context, in Intake) error

	// Read waits until there is something to deliver and gives it to
	// Intake.Deliver, one call per partition, before it returns. It returns nil
	// without delivering when ctx ends. Between two calls of Read nothing is
	// delivered. Partitions may be assigned or revoked at any time, but nothing
	// of a partition is delivered from the beginning of its Revoked, or of its
	// Assigned to that one's end, and nothing that was read before that.
	// After a transient error it also returns nil once that is over, even if there is
	// nothing to deliver. An error that is not transient ends the flow.
	Read(ctx context.Context) error

	// Close leaves (a group is left at once, not by timeout) and frees
	// everything. It may be called at any time after New, more than once.
	Close(ctx context.Context) error
}

// Committer is a source that keeps positions itself.
type Committer interface {
	// Commit says that everything below the positions is durable in the sink.
	// Without a Checkpointer these are the flow's checkpoint and an error is
	// retried; with one they are for lag tools only. Calls do not overlap.
	// Partitions that this process no longer owns are left out silently.
	Commit(ctx context.Context, positions []Position) error
}

// Pauser is a source that can stop delivering some partitions while it goes on
// with others. Without it a full lane stops the whole source.
type Pauser interface {
	Pause(ps []Partition)
	Resume(ps []Partition)
}

// FetchSizer is a source that can be told, while it runs, how much to ask for
// at a time.
type FetchSizer interface {
	// FetchSize is what it was configured with, in bytes.
	FetchSize() int
	// SetFetchSize holds from the next fetch on. Never called during Read.
	SetFetchSize(bytes int)
}

// Seeker is a source whose assigned partitions can be set to another position.
// Never called during Read. When it returns, nothing from before the new
// positions will be delivered any more.
type Seeker interface {
	Seek(ctx context.Context, positions []Position) error
}

// Member is a process as a member of a consumer group.
type Member struct {
	Group, ID string
	// InstanceID is the name of a static member; empty for others.
	InstanceID string
	// Generation is that of the group, or the member's epoch (KIP-848).
	Generation int32
}

// GroupMember is a source that reads as a member of a consumer group. A sink
// of the same cluster commits the group's offsets in its own transactions, under
// the membership that Member returns (KIP-447).
type GroupMember interface {
	// Member returns the membership under which this process owns all of ps now,
	// or a *FencedError if it does not own one of them. It answers from memory;
	// before the group is joined, and for no partitions, with Group alone and Generation -1.
	// None of ps is to be given up while the answer is used: a partition that is
	// revoked later is revoked under a later generation.
	Member(ps []Partition) (Member, error)
}

// Intake is the engine as a source sees it.
type Intake interface {
	// Assigned tells of partitions that this process owns from now on and
	// returns where to start each, in the same order. It may block (a
	// predecessor must be removed, the database may be away) and retries inside
	// until ctx ends; ctx is the life of the assignment. After an error (of ctx)
	// none of them is assigned, and the source asks again for those that it
	// keeps. A partition whose
	// position cannot be had is returned with Offset -1 and must not be read:
	// the flow is stopping, or waits for a person (Config.WaitOnLostPosition).
	Assigned(ctx context.Context, ps []PartitionInfo) ([]Position, error)

	// Revoked tells of partitions that this process must give up. It returns
	// when no lane will write them any more, or ctx has ended, or 10 s have
	// passed (the sink fences what comes later). With lost they belong to somebody else already,
	// and nothing waits.
	Revoked(ctx context.Context, ps []Partition, lost bool)

	// Buffer returns an empty slice with room for n records to be filled and
	// delivered. It may be one that Deliver has taken earlier.
	Buffer(n int) []Record

	// Deliver hands over what was read of one partition. It never blocks, and
	// takes ownership of f.Records.
	Deliver(f Fetch)
}

// Fetch is what was read of one partition.
type Fetch struct {
	Partition
	TopicID string
	// Records are in order of offset. Part is not set.
	Records []Record
	// Next is the offset after the last record, control records and aborted
	// records included.
	Next int64
	// LeaderEpoch of the last record, -1 if not known.
	LeaderEpoch int32
	// End is the offset after the log's last readable record, as seen now.
	End int64
}

// Transform changes batches between source and sink. Every lane has its own
// instances, each called from one goroutine.
type Transform interface {
	// Process fills, changes or rejects rows of the batch. An error is about
	// the transform itself, not about a record, and stops the flow.
	Process(ctx context.Context, b *Batch) error
}

// Schemer is a Transform that makes typed columns: it fills Batch.Columns
// with the fields that it names.
type Schemer interface {
	Fields() []Field
}

// Setup is what a sink is told when it opens.
type Setup struct {
	// Flow is the flow's name.
	Flow string
	// ClusterID and Source are those of the Log: the fingerprint of the checkpoint.
	ClusterID, Source string
	// Fields are the columns that batches will carry; nil if nothing decodes,
	// and where the flow has routes.
	Fields []Field
	// Routes are the columns of each route's batches, by Batch.Route; nil where
	// the flow has none.
	Routes [][]Field
	// Lanes is how many writers there will be.
	Lanes int
	// Member is that of a source that is a GroupMember, else nil.
	Member func(ps []Partition) (Member, error)
}

// Router is a sink that can treat the batches of each route differently. A flow
// with routes needs one.
type Router interface {
	// Routes is the number of routes that the sink is configured for; 0: none.
	Routes() int
}

// Sink writes batches.
type Sink interface {
	// Open connects and checks the target (tables, columns, types, rights), and
	// creates what it was asked to create. An error without a class is retried
	// a few times; a Fatal one stops the flow.
	Open(ctx context.Context, s Setup) error

	// Writer makes the writer of one lane, 0 <= lane < Setup.Lanes. It need not
	// connect before the first Write.
	Writer(lane int) (Writer, error)

	// Close frees everything. Writers are closed before. It may be called more
	// than once, and before Open.
	Close(ctx context.Context) error
}

// Writer is a sink as one lane sees it. Calls never overlap.
type Writer interface {
	// Write writes the rows of b (see Batch.Next), all or none, and for a
	// Checkpointer the positions of b.Parts in the same transaction. When it
	// returns nil, both are durable. When it returns an error nothing is
	// written, with one exception: a writer that cannot tell (the answer to its
	// commit was lost) finds out before it returns, or returns a transient
	// error and finds out at the start of the next Write.
	//
	// Errors have a class: see Class. When ctx ends, Write returns soon.
	Write(ctx context.Context, b *Batch) error

	// Close frees the writer. A transaction that is open is rolled back.
	Close() error
}

// Checkpoint is a position as a sink keeps it.
type Checkpoint struct {
	Position
	// Owner is the owner epoch: incremented whenever a lane takes over.
	Owner int64
}

// Checkpointer is a sink that keeps the flow's positions beside the data and
// moves both in one transaction. That is what makes a flow exactly once. All
// methods may be called while writers write.
type Checkpointer interface {
	// Init registers the flow. If it has no checkpoint at all, the positions
	// that starts returns are inserted; of several processes that start
	// together one does it. A flow that exists with another fingerprint (see
	// Setup) is refused with a Fatal error.
	Init(ctx context.Context, starts func(context.Context) ([]Position, error)) error

	// Claim takes partitions over for a lane: it increments the owner epoch and
	// returns what is stored, in the same order. A predecessor that holds a
	// row's lock is removed. A partition without a row comes back with Owner 0
	// and Offset -1.
	Claim(ctx context.Context, lane int, ps []Partition) ([]Checkpoint, error)

	// Insert adds rows for partitions that appeared after the first start.
	// Rows that exist are left as they are.
	Insert(ctx context.Context, positions []Position) error

	// Read returns what is stored, in the same order, without taking over; a
	// partition without a row comes back with Offset -1.
	Read(ctx context.Context, ps []Partition) ([]Checkpoint, error)

	// Topics returns how many partitions of each topic have a row.
	Topics(ctx context.Context) (map[string]int32, error)
}

// GroupCheckpointer is a Checkpointer whose checkpoint is what the source
// itself keeps: the group's committed offsets, committed in the sink's
// transactions. The engine does not tell the source its positions then.
type GroupCheckpointer interface {
	Checkpointer
	KeepsGroupOffsets()
}

// DeadLetterStore is a sink that writes the dead letters of a batch
// (Batch.DeadLetters) itself, in the transaction of the batch.
type DeadLetterStore interface {
	StoresDeadLetters() bool
}

// LaneLimiter is a sink that cannot use more than so many lanes. Asked after
// Open.
type LaneLimiter interface {
	MaxLanes() int
}

// DeadLetterQueue takes dead letters outside the sink: a topic. Records may
// arrive more than once, with the same position.
type DeadLetterQueue interface {
	Open(ctx context.Context, s Setup) error
	// Put returns when the letters are durable. Calls from several lanes may overlap.
	Put(ctx context.Context, letters []DeadLetter) error
	Close(ctx context.Context) error
}

// Observer is told what happens, for metrics. Methods are called from the
// lanes' goroutines, may overlap between lanes, and must not block.
type Observer interface {
	// BatchWritten follows every batch that became durable.
	BatchWritten(BatchStats)
	// Retrying precedes every wait before another attempt.
	Retrying(lane int, attempt int, wait time.Duration, err error)
	// Rebalanced follows a change of assignment.
	Rebalanced(assigned, revoked int)
}

// BatchStats describes a batch that became durable.
type BatchStats struct {
	Lane int
	// Records read, Rows written, Bytes read.
	Records, Rows int
	Bytes         int64
	// Dead are the records that became dead letters, by class; nil if none.
	Dead map[string]int
	// Decode is the time that the transforms took, Write the time from the
	// first attempt to the commit.
	Decode, Write time.Duration
	// Oldest is the timestamp of the batch's first record in microseconds.
	Oldest int64
}
