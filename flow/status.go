package flow

import "time"

// State is where a flow is in its life.
type State string

// The states.
const (
	StateStarting State = "starting" // connecting, checking the target
	StateRunning  State = "running"
	StateRetrying State = "retrying" // running, but a lane waits to try a write again
	StateWaiting  State = "waiting"  // a position is lost, and the flow waits as configured
	StatePaused   State = "paused"   // by Pause: nothing is read; what was read is written
	StateStopping State = "stopping" // writing what the lanes hold
	StateStopped  State = "stopped"
)

// Status is a flow at one moment.
type Status struct {
	Flow  string
	State State
	// Err is the last error of a flow that cannot start yet, retries, waits or has failed. A paused
	// flow has one, too, if what it holds cannot be written.
	Err error
	// Records were read and made durable since the start: as Rows or as Dead.
	Records, Rows, Dead int64
	Batches, Retries    int64
	Bytes               int64
	// Fenced counts the writes that were refused because somebody else owned
	// the partition.
	Fenced int64
	// Buffered are the bytes in the lanes, not yet written.
	Buffered   int64
	Lanes      int
	LaneStates []LaneStatus // one for each lane
	Partitions []PartitionStatus
	// LastCommit is when the last batch became durable; zero before the first.
	LastCommit time.Time
}

// PartitionStatus is one partition that this process owns.
type PartitionStatus struct {
	Partition
	Lane int
	// Next is the committed position, End the end of the log as last seen: some seconds
	// ago at most while the flow is paused, or cannot write.
	Next, End int64
	// Behind is how long ago the last written record was made, by its own timestamp; before this
	// process has written one, for how long it has had some to write. 0 where there is no lag.
	Behind time.Duration
	// Paused: its lane is full, and the source was told not to read it. Not Flow.Pause.
	Paused bool
	// Updated is when this process last committed it; zero if it has not.
	Updated time.Time
}

// LaneStatus is one lane.
type LaneStatus struct {
	Lane       int
	Partitions int
	// Buffered are the bytes, and Records the records, that were read and are not written yet.
	Buffered int64
	Records  int
	// Writing: a batch is being written, since WriteBegan, all attempts and the waits
	// between them included.
	Writing    bool
	WriteBegan time.Time
	// Attempt is how many attempts in a row have failed, and Err why the last one did; 0
	// and nil where all is well.
	Attempt int
	Err     error
}

// Lag is the number of offsets between the committed position and the end of the
// log, all partitions together.
func (s *Status) Lag() int64 {
	var n int64
	for i := range s.Partitions {
		n += max(0, s.Partitions[i].End-s.Partitions[i].Next)
	}
	return n
}
