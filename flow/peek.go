package flow

import "context"

// Peeker is a source that can be looked into from outside its flow: nobody
// else, and no state anywhere, notices. Used between Open and Close, without
// Subscribe.
type Peeker interface {
	// Peek reads from the positions on and calls deliver as Source.Read calls
	// Intake.Deliver. It returns nil when it has delivered n records or more, or everything that
	// there was when it began, or when ctx ends. The records of a Fetch stay
	// valid after Peek has returned.
	Peek(ctx context.Context, from []Position, n int, deliver func(Fetch)) error
}

// Inspector is a Checkpointer whose positions can be read without opening the
// sink: nothing is created, locked or taken over.
type Inspector interface {
	// Inspect returns the positions that are stored for the flow; none if the
	// flow, or the place where its checkpoint would be, does not exist yet. A flow that
	// exists with another fingerprint (see Setup) is refused.
	Inspect(ctx context.Context, s Setup) ([]Position, error)
}
