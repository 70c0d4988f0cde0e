package flow

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// HeaderRedrives is the header that counts how often a record was a dead letter
// and was sent again: a decimal number. Whatever becomes a dead letter keeps its headers,
// so it is how a letter that fails every time is told from a new one.
const HeaderRedrives = "penstock.redrives"

// Redrives is HeaderRedrives as a number: the last one counts, and one that no redrive can have
// written counts nothing.
func Redrives(headers []Header) int {
	for _, h := range slices.Backward(headers) {
		if h.Key == HeaderRedrives {
			n, err := strconv.ParseUint(string(h.Value), 10, 16)
			if err != nil {
				return 0
			}
			return int(n)
		}
	}
	return 0
}

// Letter is a dead letter as it is kept.
type Letter struct {
	// DeadLetter has the identity of the record that failed: cluster, topic, partition,
	// Record.Offset, and the record as it was read, HeaderRedrives included.
	DeadLetter
	// Flow is the flow in which it failed.
	Flow string
	// Since is when it became a dead letter.
	Since time.Time
	// Redrives is HeaderRedrives as a number.
	Redrives int
	// Place is where it is kept: topic, partition and offset of a dead-letter topic; or the
	// name of a table, partition 0 and the row's id. Places of one partition are read in
	// order of offset.
	Place Position
	// Job has taken the letter; empty: it is open.
	Job string
}

// LetterLog is where the dead letters of a flow are kept, as a person works with
// them: a DeadLetterQueue, or a sink that is a DeadLetterStore. The methods connect by themselves, need
// neither Open nor a flow that runs, and may be called by several processes at once.
//
// A job takes letters before it does anything with them, so that no two jobs have the same
// letter, and removes them afterwards. Letters that were removed are not seen again.
type LetterLog interface {
	// Place says in words where the letters are: "topic orders-dead", "table dead".
	Place() string
	// Letters calls fn with every letter of the flow that was not removed, in order within
	// each partition of the log. The letter and its bytes are valid during the call. A letter
	// that is there twice (same identity and Redrives) is shown once; one that comes after the removal of
	// the first is a new letter: the record has failed again. An error of fn ends it and is returned. A log that does not exist yet has no letters.
	Letters(ctx context.Context, s Setup, fn func(*Letter) error) error
	// Take gives the letters at these places to a job, all or none. It returns a *TakenError where
	// one belongs to another job, or was removed.
	Take(ctx context.Context, s Setup, job string, places []Position) error
	// Release opens letters that the job has taken.
	Release(ctx context.Context, s Setup, job string, places []Position) error
	// Remove ends letters that the job has taken.
	Remove(ctx context.Context, s Setup, job string, places []Position) error
	// Put keeps letters under their own identity (Flow, ClusterID, Partition, Record.Offset,
	// HeaderRedrives), which is not that of the flow that s describes. At least once.
	Put(ctx context.Context, s Setup, letters []Letter) error
}

// TakenError is the error of LetterLog.Take where a letter is not open any more.
type TakenError struct {
	Place Position
	// Job has the letter; empty: it was removed.
	Job string
}

func (e *TakenError) Error() string {
	if e.Job == "" {
		return fmt.Sprintf("the dead letter at %s, offset %d, is not there any more: somebody else has redriven or dropped it", e.Place.Partition, e.Place.Offset)
	}
	return fmt.Sprintf("the dead letter at %s, offset %d, belongs to job %s", e.Place.Partition, e.Place.Offset, e.Job)
}
