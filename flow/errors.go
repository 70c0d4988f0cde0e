package flow

import (
	"errors"
	"fmt"
	"strings"
)

// Class is what an error means for the flow.
type Class uint8

// The failure classes. An error without a class is retried like a transient
// one, a bounded number of times, and is then fatal.
const (
	ClassUnknown   Class = iota
	ClassTransient       // the same batch will pass later: retried in order
	ClassData            // some records are at fault: found and dead-lettered
	ClassFenced          // somebody else owns a partition: re-read, rewind or let go
	ClassFatal           // no retry helps: the flow stops and keeps its position
)

func (c Class) String() string {
	return [...]string{"unknown", "transient", "data", "fenced", "fatal"}[c]
}

// Classed is implemented by errors that know their class.
type Classed interface {
	error
	FlowClass() Class
}

// ClassOf returns the class of the first error in err's chain that has one.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[Classed](err); ok {
		return c.FlowClass()
	}
	return ClassUnknown
}

// IsTransient reports whether retrying the same batch can succeed.
func IsTransient(err error) bool { return ClassOf(err) == ClassTransient }

type classed struct {
	error
	class Class
}

func (c *classed) FlowClass() Class { return c.class }
func (c *classed) Unwrap() error    { return c.error }

// Transient marks err as worth retrying without bound. Nil stays nil.
func Transient(err error) error { return withClass(err, ClassTransient) }

// Unreachable marks err as transient and cheap to try again: nothing answered,
// so that an attempt burdens nobody, and should soon follow the target's return.
// Nil stays nil.
func Unreachable(err error) error {
	if err == nil {
		return nil
	}
	return &unreachable{classed{err, ClassTransient}}
}

type unreachable struct{ classed }

// Fatal marks err as one that no retry helps. Nil stays nil.
func Fatal(err error) error { return withClass(err, ClassFatal) }

func withClass(err error, c Class) error {
	if err == nil {
		return nil
	}
	return &classed{err, c}
}

// DataError is returned by Write when records are at fault. The batch has not
// been written, not even in part.
type DataError struct {
	// Rows are the records known to be at fault, as indices into
	// Batch.Records. Empty if the target did not say: then the engine bisects.
	Rows []int
	// Err is what the target said. A *RecordError carries class and column.
	Err error
}

func (e *DataError) Error() string {
	if len(e.Rows) == 0 {
		return "the target refused the batch for its data: " + e.Err.Error()
	}
	return fmt.Sprintf("the target refused row %d of the batch: %v", e.Rows[0], e.Err)
}

// Unwrap returns what the target said.
func (e *DataError) Unwrap() error { return e.Err }

// FlowClass is ClassData.
func (e *DataError) FlowClass() Class { return ClassData }

// FencedError is returned by Write when the checkpoint rows are not as this
// lane last saw them. Nothing has been written.
type FencedError struct {
	// Partitions are those whose rows were not as expected, where known.
	Partitions []Partition
	Err        error
}

func (e *FencedError) Error() string {
	s := "another owner holds the checkpoint, or it was moved"
	if len(e.Partitions) > 0 {
		names := make([]string, len(e.Partitions))
		for i, p := range e.Partitions {
			names[i] = p.String()
		}
		s += " (" + strings.Join(names, ", ") + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause, which may be nil.
func (e *FencedError) Unwrap() error { return e.Err }

// FlowClass is ClassFenced.
func (e *FencedError) FlowClass() Class { return ClassFenced }

// PositionLostError says that a checkpoint does not point into the log any
// more. It is never skipped over.
type PositionLostError struct {
	Position
	// Begin and End are the offsets that the log holds now.
	Begin, End int64
	// TopicIDNow is the topic's id if it is another topic by now.
	TopicIDNow string
}

func (e *PositionLostError) Error() string {
	switch {
	case e.TopicIDNow != "" && e.TopicIDNow != e.TopicID:
		return fmt.Sprintf("%s was deleted and made anew (topic id %s, now %s): offset %d of the old topic means nothing in the new one; "+
			"give the flow another name, or remove its checkpoint rows, to read the new topic",
			e.Partition, e.TopicID, e.TopicIDNow, e.Offset)
	case e.Offset < e.Begin:
		return fmt.Sprintf("%s: records %d to %d are gone (the log starts at %d now): retention removed them before they were read; "+
			"set the position to %d to accept the loss", e.Partition, e.Offset, e.Begin-1, e.Begin, e.Begin)
	default:
		return fmt.Sprintf("%s: the checkpoint is at %d, but the log ends at %d: the topic lost its tail or another cluster answers; "+
			"set the position to %d or earlier to read on", e.Partition, e.Offset, e.End, e.End)
	}
}

// FlowClass is ClassFatal.
func (e *PositionLostError) FlowClass() Class { return ClassFatal }

// RecordError says why one record cannot be written.
type RecordError struct {
	// Class is short and stable; see DeadLetter.
	Class string
	// Column is the column at fault, if one is.
	Column string
	Err    error
}

func (e *RecordError) Error() string {
	if e.Column == "" {
		return e.Err.Error()
	}
	return "column " + e.Column + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

func classify(err error) (class, column string) {
	if re, ok := errors.AsType[*RecordError](err); ok {
		return re.Class, re.Column
	}
	return "rejected", ""
}
