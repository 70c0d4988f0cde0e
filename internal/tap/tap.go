// Package tap shows a person a sample of the records that pass through a
// running flow.
//
// What belongs here: choosing records of the batches that an engine shows
// (flow.Tap), filtering them, and their form for people and programs. What does not: how they
// get to the person.
//
// A tap never disturbs the flow. What it does on a lane's goroutine is bounded, whatever the flow's rate and however
// slow the person is: it copies a bounded number of records and bytes a second to a bounded queue, and what does not
// fit is dropped and counted. Everything else, the filter above all, runs where Run is called.
package tap

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/expr"
)

// The stages at which records are shown.
const (
	StageRead    = "read"    // as they were read
	StageDecoded = "decoded" // with the columns that they have become, before they are written
	StageWritten = "written" // likewise, when they are durable
	StageDead    = "dead"    // dead letters, when they are durable
)

// Stages are all stages, in the order in which a record passes them.
var Stages = []string{StageRead, StageDecoded, StageWritten, StageDead}

// MaxRate bounds Options.Rate, and DefaultRate is its default.
const (
	MaxRate     = 1000
	DefaultRate = 10
)

// Bounds of what a tap costs.
const (
	// looksPerSecond is how many records a filter looks at. One costs some
	// microseconds of a processor, so this is about a percent of one.
	looksPerSecond = 2000
	bytesPerSecond = 8 << 20
	maxQueued      = 512     // records in the queue
	maxQueuedBytes = 4 << 20 // in the queue
	maxValue       = 1 << 20 // of one record: a longer value is cut
)

// Options say what is shown. The zero value shows ten records a second as they are read.
type Options struct {
	// Stages are some of Stages; default read. The rate is divided between them.
	Stages []string
	// Where keeps records out that it does not match; nil: none. Where more pass
	// than it can look at (2,000 a second), it looks at a sample of them.
	Where *expr.Filter
	// Rate is how many records are shown a second, all lanes together; default 10, at most 1,000.
	Rate int
	// Limit ends the tap after so many records; 0: it does not end.
	Limit int
}

// Validate refuses what cannot be, with a sentence.
func (o *Options) Validate() error {
	for _, s := range o.Stages {
		if !slices.Contains(Stages, s) {
			return fmt.Errorf("there is no stage %q; there are %s", s, strings.Join(Stages, ", "))
		}
	}
	switch {
	case o.Rate < 0 || o.Rate > MaxRate:
		return fmt.Errorf("a rate of %d records a second: want 1 to %d", o.Rate, MaxRate)
	case o.Limit < 0:
		return fmt.Errorf("a limit of %d records: want 0 (none) or more", o.Limit)
	}
	return nil
}

// Tap is a flow.Tap. Give it to a flow, or to one flow after the other, and call Run.
type Tap struct {
	flow   string
	opts   Options
	stages [4]*stage // by index in Stages; nil: not shown
	bytes  bucket
	queue  chan *seen
	queued atomic.Int64 // bytes
	over   atomic.Bool  // Run has returned: nobody looks any more

	dropped atomic.Int64
}

// stage is what is known of one stage.
type stage struct {
	name string
	// take is what is copied of the records, and show what is shown of those that match.
	take, show bucket
	passed     atomic.Int64
	// shown is what passed was when a record was last shown. Used by Run alone.
	shown int64
}

var _ flow.Tap = (*Tap)(nil)

// New makes a tap of the flow of this name.
func New(flowName string, o Options) (*Tap, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if len(o.Stages) == 0 {
		o.Stages = []string{StageRead}
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	t := &Tap{flow: flowName, opts: o, queue: make(chan *seen, maxQueued)}
	t.bytes.set(bytesPerSecond)
	n := 0
	for _, name := range Stages {
		if slices.Contains(o.Stages, name) {
			n++
		}
	}
	for i, name := range Stages {
		if !slices.Contains(o.Stages, name) {
			continue
		}
		s := &stage{name: name}
		rate := float64(o.Rate) / float64(n)
		s.show.set(rate)
		s.take.set(rate)
		if o.Where != nil {
			s.take.set(looksPerSecond / float64(n))
		}
		t.stages[i] = s
	}
	return t, nil
}

// Stats says how much of what has passed was looked at.
type Stats struct {
	// Passed were shown to the tap, all its stages together.
	Passed int64 `json:"passed"`
	// Dropped were chosen, and came too fast for whoever looks, or for the filter.
	Dropped int64 `json:"dropped"`
	// Failed are those for which the filter could not be evaluated.
	Failed int64 `json:"filter_failed"`
	// Failure is the first reason of Failed.
	Failure string `json:"filter_failure,omitempty"`
}

// Stats may be called at any time.
func (t *Tap) Stats() Stats {
	s := Stats{Dropped: t.dropped.Load()}
	for _, st := range t.stages {
		if st != nil {
			s.Passed += st.passed.Load()
		}
	}
	if t.opts.Where != nil {
		n, err := t.opts.Where.Failures()
		if s.Failed = n; err != nil {
			s.Failure = err.Error()
		}
	}
	return s
}

// Run calls fn with one record after the other, until ctx ends or Options.Limit is reached,
// and returns nil then, or the error of fn. Call it once. A record is valid during the call.
func (t *Tap) Run(ctx context.Context, fn func(*Record) error) error {
	defer t.over.Store(true)
	for n := 0; t.opts.Limit == 0 || n < t.opts.Limit; {
		var s *seen
		select {
		case <-ctx.Done():
			return nil
		case s = <-t.queue:
		}
		t.queued.Add(-s.size)
		if t.opts.Where != nil {
			if match, err := t.opts.Where.Match(s.env()); err != nil || !match {
				continue // the filter counts its errors
			}
			if s.stage.show.take(time.Now(), 1) == 0 {
				t.dropped.Add(1)
				continue
			}
		}
		n++
		if err := fn(s.record(t.flow)); err != nil {
			return err
		}
	}
	return nil
}
