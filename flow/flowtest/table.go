package flowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// Table is a transactional database with one table in memory: what PostgreSQL
// is to a flow. It keeps checkpoints and dead letters beside the rows, locks
// checkpoint rows during a transaction as a database does, and can fail at
// every step. Everything is safe for concurrent use, and nothing depends on
// the clock.
type Table struct {
	opts TableOptions

	mu      sync.Mutex
	rows    []Row
	dead    []DeadRow
	flows   map[string]*tableFlow
	down    error // see Break
	hook    func(Attempt) Fault
	writes  int // attempts so far
	fenced  int
	changed chan struct{} // closed and replaced at every change
	open    map[*tableTx]struct{}
}

// TableOptions say how a Table behaves.
type TableOptions struct {
	// Upsert replaces the row of a key, and a tombstone deletes it. Otherwise
	// every record is a row of its own.
	Upsert bool
	// Refuse returns why the table cannot hold the record, or nil. Default: a
	// record with a header named "poison" is refused.
	Refuse func(*flow.Record) error
	// Vague makes data errors name no row.
	Vague bool
	// NoDeadLetters makes the sinks not store dead letters.
	NoDeadLetters bool
	// MaxLanes bounds the lanes; 0: no bound.
	MaxLanes int
}

// Row is one row of the table. Record is a copy; its Part means nothing.
type Row struct {
	flow.Partition
	flow.Record
}

// DeadRow is one stored dead letter. Record is a copy.
type DeadRow struct {
	flow.DeadLetter
	Flow string
}

// tableFlow is what the database keeps of one flow.
type tableFlow struct {
	fingerprint [2]string
	init        chan struct{} // held during Init: an advisory lock
	registered  bool
	checkpoints map[flow.Partition]*checkpointRow
}

type checkpointRow struct {
	flow.Checkpoint
	lock *tableTx // the open transaction that has updated the row
}

// NewTable makes an empty table.
func NewTable(o TableOptions) *Table {
	if o.Refuse == nil {
		o.Refuse = RefusePoison
	}
	return &Table{
		opts: o, flows: map[string]*tableFlow{}, changed: make(chan struct{}),
		open: map[*tableTx]struct{}{},
	}
}

// RefusePoison refuses records that have a header named "poison".
func RefusePoison(r *flow.Record) error {
	for _, h := range r.Headers {
		if h.Key == "poison" {
			return &flow.RecordError{Class: "constraint", Column: "value", Err: errors.New("the value is poison")}
		}
	}
	return nil
}

// Rows returns the durable rows in the order of insertion. Their bytes must
// not be changed.
func (t *Table) Rows() []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.rows)
}

// Dead returns the durable dead letters in the order of insertion.
func (t *Table) Dead() []DeadRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.dead)
}

// Len returns how many rows and dead letters are durable.
func (t *Table) Len() (rows, dead int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.rows), len(t.dead)
}

// Fenced returns how many writes were refused by compare-and-swap.
func (t *Table) Fenced() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fenced
}

// Checkpoint returns what is stored; Offset is -1 if nothing is.
func (t *Table) Checkpoint(flowName string, p flow.Partition) flow.Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flow(flowName).checkpoint(p)
}

// SetCheckpoint changes or makes a checkpoint row behind the flow's back, as an
// administrator or a restore does. Offset -1 deletes it.
func (t *Table) SetCheckpoint(flowName string, c flow.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flow(flowName)
	if row := f.checkpoints[c.Partition]; row != nil && row.lock != nil {
		row.lock.kill()
	}
	if c.Offset < 0 {
		delete(f.checkpoints, c.Partition)
	} else {
		f.checkpoints[c.Partition] = &checkpointRow{Checkpoint: c}
	}
	t.signal()
}

// Changed returns a channel that is closed at the next change.
func (t *Table) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Wait waits until cond, called without locks, holds. It is asked again after every change.
func (t *Table) Wait(ctx context.Context, cond func() bool) error {
	for {
		changed := t.Changed()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Snapshot copies the state; Restore goes back to it, data, dead letters and
// positions together, as a restore from a backup or a failover to a replica
// that was behind does. Open transactions are lost.
func (t *Table) Snapshot() (restore func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows, dead := slices.Clone(t.rows), slices.Clone(t.dead)
	saved := map[string]map[flow.Partition]flow.Checkpoint{}
	for name, f := range t.flows {
		saved[name] = map[flow.Partition]flow.Checkpoint{}
		for p, c := range f.checkpoints {
			saved[name][p] = c.Checkpoint
		}
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.killAll()
		t.rows, t.dead = slices.Clone(rows), slices.Clone(dead)
		for name, f := range t.flows {
			clear(f.checkpoints)
			for p, c := range saved[name] {
				f.checkpoints[p] = &checkpointRow{Checkpoint: c}
			}
		}
		t.signal()
	}
}

// Break makes the table unreachable and loses open transactions: everything
// fails with a transient error. Mend ends it.
func (t *Table) Break() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.down = errTableDown
	t.killAll()
	t.signal()
}

// Mend ends what Break began.
func (t *Table) Mend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.down = nil
	t.signal()
}

// Intercept sets what decides on the fate of every write from now on; nil: all
// succeed. It is called at the start of each Write, one call at a time.
func (t *Table) Intercept(hook func(Attempt) Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hook = hook
}

// Inject makes the next writes meet these faults, in order; the ones after
// that succeed.
func (t *Table) Inject(faults ...Fault) {
	t.Intercept(func(Attempt) Fault {
		if len(faults) == 0 {
			return Fault{}
		}
		f := faults[0]
		faults = faults[1:]
		return f
	})
}

// Attempt describes a write that is about to begin. Batch must not be kept.
type Attempt struct {
	Flow  string
	Lane  int
	N     int // how many writes to the table there were before this one
	Batch *flow.Batch
}

// Point is a step of a write at which a fault strikes.
type Point uint8

// The points.
const (
	// None: the write succeeds, after Wait.
	None Point = iota
	// BeforeBegin: nothing has happened yet. Nothing is written.
	BeforeBegin
	// InTransaction: the positions are swapped and locked, the rows sent. It is
	// rolled back.
	InTransaction
	// LostCommit: the transaction is committed, but the answer is lost.
	LostCommit
	// LostRollback: the answer to COMMIT is lost, and it was rolled back.
	LostRollback
)

// Fault is what a write meets.
type Fault struct {
	At Point
	// Err is what the writer returns; at the points of lost answers, and where
	// it is nil, a transient error.
	Err error
	// Wait, if not nil, freezes the writer at the point (None: before the
	// transaction) until it is closed. At InTransaction without Err the
	// transaction then goes on. Frozen means frozen: the end of the context is
	// noticed only where Yields is set.
	Wait <-chan struct{}
	// Yields makes the wait end with the context.
	Yields bool
}

func (f Fault) wait(ctx context.Context) error {
	if f.Wait == nil {
		return nil
	}
	if !f.Yields {
		<-f.Wait
		return nil
	}
	select {
	case <-f.Wait:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f Fault) err() error {
	if f.Err != nil {
		return f.Err
	}
	return flow.Transient(errors.New("the connection was reset"))
}

var (
	errTableDown = flow.Transient(errors.New("the table cannot be reached"))
	errKilled    = flow.Transient(errors.New("the connection was terminated by an administrator"))
	errAnswer    = flow.Transient(errors.New("the connection broke before COMMIT was answered"))
)

// flow returns what is kept of a flow. The lock is held.
func (t *Table) flow(name string) *tableFlow {
	f := t.flows[name]
	if f == nil {
		f = &tableFlow{init: make(chan struct{}, 1), checkpoints: map[flow.Partition]*checkpointRow{}}
		t.flows[name] = f
	}
	return f
}

func (f *tableFlow) checkpoint(p flow.Partition) flow.Checkpoint {
	if c := f.checkpoints[p]; c != nil {
		return c.Checkpoint
	}
	return flow.Checkpoint{Position: flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}}
}

// signal wakes whoever waits. The lock is held.
func (t *Table) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// killAll ends all open transactions. The lock is held.
func (t *Table) killAll() {
	for tx := range t.open {
		tx.kill()
	}
}

// check says whether the table can be used. The lock is held.
func (t *Table) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("use the table: %w", err)
	}
	return t.down
}
