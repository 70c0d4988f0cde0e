package flow

import (
	"context"
	"time"
)

// Tap is shown batches while they pass. Its methods are called from the lanes'
// goroutines, and may overlap between lanes: they must return at once, and must not keep or
// change what they are given.
type Tap interface {
	// Read is shown a batch as it was read, before the transforms.
	Read(lane int, b *Batch)
	// Decoded is shown a batch after the transforms, before it is written for the first
	// time. Rows may be rejected already (Batch.Rejects).
	Decoded(lane int, b *Batch)
	// Written is shown a batch that is durable; what it has rejected is dead letters.
	Written(lane int, b *Batch, s *BatchStats)
}

// ReadObserver is an Observer that is also told how reading goes.
type ReadObserver interface {
	// ReadDone follows every Source.Read that delivered something. Took is the time that it
	// lasted, waiting for records included.
	ReadDone(records int, bytes int64, took time.Duration)
}

// Positioner is a source that can tell positions without taking part, for a person who
// wants to set them. Used between Open and Close, without Subscribe.
type Positioner interface {
	// At returns, for every partition, the first offset whose record is of that time
	// or later; the end of the partition where there is none.
	At(ctx context.Context, t time.Time) ([]Position, error)
	// Members names the processes that read for this flow now, with their hosts; nil
	// if there are none.
	Members(ctx context.Context) ([]string, error)
}

// Repositioner is whoever keeps a flow's positions (a Checkpointer, or a source that is a
// Committer) and can set them from outside while the flow does not run.
type Repositioner interface {
	// SetPositions replaces the positions of these partitions, and leaves the others as they
	// are. Partitions without a position get one. A process that writes the flow all the same is
	// fenced, or the call is refused.
	SetPositions(ctx context.Context, s Setup, positions []Position) error
	// Forget removes all that is kept for the flow of this name. Nothing to forget is
	// no error.
	Forget(ctx context.Context, s Setup) error
}
