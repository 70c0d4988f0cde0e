package admin

import (
	"time"

	"github.com/penstockdev/penstock/telemetry"
)

// FlowList is the answer of GET /v1/flows.
type FlowList struct {
	// Version is that of the program that answers.
	Version string `json:"version"`
	// Time is when the flows were looked at, by the clock of the process.
	Time  time.Time `json:"time"`
	Flows []Flow    `json:"flows"`
}

// Flow is a flow as the API shows it. In a FlowList it has no Lanes and Partitions.
// Counters begin at 0 when the process starts, and go on when the flow is started again.
type Flow struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Source string `json:"source"`
	Sink   string `json:"sink"`
	// State is a flow.State.
	State string `json:"state"`
	// Since is when the flow was last started, stopped or failed.
	Since time.Time `json:"since"`
	// Paused and Stopped say what it was told.
	Paused  bool `json:"paused"`
	Stopped bool `json:"stopped"`
	// Ready and Reason are what /readyz says of it.
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
	// Error is why it retries, waits or has failed.
	Error string `json:"error,omitempty"`
	// ReloadError is why the newest version of its file was refused.
	ReloadError string `json:"reload_error,omitempty"`
	Restarts    int    `json:"restarts"`

	Records     int64            `json:"records"`
	Rows        int64            `json:"rows"`
	DeadLetters int64            `json:"dead_letters"`
	DeadByClass map[string]int64 `json:"dead_letters_by_class"`
	Batches     int64            `json:"batches"`
	Bytes       int64            `json:"bytes"`
	Retries     int64            `json:"retries"`
	Fenced      int64            `json:"fenced_writes"`
	Rebalances  int64            `json:"rebalances"`

	// LagRecords is all partitions together, LagSeconds the worst of them.
	LagRecords    int64      `json:"lag_records"`
	LagSeconds    float64    `json:"lag_seconds"`
	BufferedBytes int64      `json:"buffered_bytes"`
	LastCommit    *time.Time `json:"last_commit,omitempty"`

	// Commit is the histogram of the time that batches took to be written, since the start.
	Commit telemetry.Histogram `json:"commit_seconds"`
	// Recent is what happened in the last seconds.
	Recent Rates `json:"recent"`

	Lanes      []Lane      `json:"lanes,omitempty"`
	Partitions []Partition `json:"partitions,omitempty"`
}

// Rates are what happened between two looks at a flow.
type Rates struct {
	// Seconds is the time between them; 0 where there was one look only.
	Seconds float64 `json:"seconds"`
	Records float64 `json:"records_per_second"`
	Rows    float64 `json:"rows_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
	Dead    float64 `json:"dead_letters_per_second"`
	// Lag is how the lag in records has grown, per second; below 0 it shrinks.
	Lag float64 `json:"lag_records_per_second"`
	// CommitP50 and CommitP99 are of the batches written between them; null if there were none.
	CommitP50 *float64 `json:"commit_p50_seconds"`
	CommitP99 *float64 `json:"commit_p99_seconds"`
}

// Lane is one lane of a flow.
type Lane struct {
	Lane       int `json:"lane"`
	Partitions int `json:"partitions"`
	// Records and BufferedBytes are in the lane, not yet written.
	Records       int   `json:"records"`
	BufferedBytes int64 `json:"buffered_bytes"`
	Writing       bool  `json:"writing"`
	// WritingSeconds is since when the batch is being written, attempts that failed included.
	WritingSeconds float64 `json:"writing_seconds"`
	// FailedAttempts are those in a row; Error is why the last of them failed.
	FailedAttempts int    `json:"failed_attempts"`
	Error          string `json:"error,omitempty"`
}

// Partition is one partition that the process owns.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Lane      int    `json:"lane"`
	// Position is the next offset to write, End the end of the log as last seen.
	Position   int64   `json:"position"`
	End        int64   `json:"end"`
	LagRecords int64   `json:"lag_records"`
	LagSeconds float64 `json:"lag_seconds"`
	// Paused says that reading it waits for its lane.
	Paused bool `json:"paused"`
	// Updated is when this process last committed it.
	Updated *time.Time `json:"updated,omitempty"`
}

// PositionList is the answer of GET /v1/flows/{flow}/position: all partitions of the flow,
// those of other processes included.
type PositionList struct {
	Flow      string     `json:"flow"`
	Positions []Position `json:"positions"`
}

// Position is where a flow stands in one partition.
type Position struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Offset is the next to write; null where the flow has no position yet.
	Offset *int64 `json:"offset"`
	// Begin and End are what the log holds; null where the partition is not in it any more.
	Begin *int64 `json:"begin"`
	End   *int64 `json:"end"`
	// LagRecords are not written yet, and still in the log.
	LagRecords int64 `json:"lag_records"`
	// Note says what is wrong with the position.
	Note string `json:"note,omitempty"`
}

// PositionRequest is the body of PUT /v1/flows/{flow}/position.
type PositionRequest struct {
	// To is beginning, end, a time of RFC 3339, a time ago like -2h, or
	// topic/partition=offset and more with commas between.
	To string `json:"to"`
	// Apply sets the positions, of a flow that is stopped; without it the answer is what
	// would be done.
	Apply bool `json:"apply"`
}

// Plan is the answer of PUT /v1/flows/{flow}/position.
type Plan struct {
	Flow string `json:"flow"`
	// Applied says that the positions were set.
	Applied bool   `json:"applied"`
	Moves   []Move `json:"moves"`
	// Again are the records that are read again, Skipped those that never are.
	Again   int64 `json:"records_again"`
	Skipped int64 `json:"records_skipped"`
	// Consequence says in a sentence what that does to the target.
	Consequence string `json:"consequence"`
	// Members are the processes that run the flow; while there are any, it cannot be applied.
	Members []string `json:"members"`
}

// Move is how the position of one partition changes.
type Move struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// From is null where the flow has no position yet.
	From *int64 `json:"from"`
	To   int64  `json:"to"`
	// Begin and End are what the log holds.
	Begin   int64 `json:"begin"`
	End     int64 `json:"end"`
	Again   int64 `json:"records_again"`
	Skipped int64 `json:"records_skipped"`
	// Consequence says it in a sentence.
	Consequence string `json:"consequence"`
}

// ReloadReport is the answer of POST /v1/reload.
type ReloadReport struct {
	// OK says that all is as the files want it.
	OK    bool         `json:"ok"`
	Flows []FlowReload `json:"flows"`
}

// FlowReload is what a reload has done with a flow, or with a file that is none.
type FlowReload struct {
	// Name is empty for a new file that was refused.
	Name string `json:"name"`
	File string `json:"file"`
	// Outcome is a supervisor.Outcome: unchanged, changed, started, stopped, refused,
	// restored or failed.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// Problem is the answer to a request that failed (RFC 9457). It is an error.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}
