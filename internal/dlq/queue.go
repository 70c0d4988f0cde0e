package dlq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// Queue is the dead letters of one flow.
type Queue struct {
	flow  string
	build func() (flow.Config, error)
	// cfg is there for its letter log; it is never run.
	cfg flow.Config
	log flow.LetterLog
}

// New finds where the flow keeps its dead letters. build makes the flow's configuration anew at each
// call; nothing is connected to before the first method is called.
func New(build func() (flow.Config, error)) (*Queue, error) {
	cfg, err := build()
	if err != nil {
		return nil, err
	}
	q := &Queue{flow: cfg.Name, build: build, cfg: cfg}
	if q.log = letterLog(&cfg); q.log == nil {
		return nil, fmt.Errorf("flow %s keeps no dead letters that can be read back: its sink has no place for them, and the file has no dead_letters section; "+
			"add one (penstock explain lists the connectors that have dead_letters)", cfg.Name)
	}
	return q, nil
}

// letterLog is the configuration's dead-letter queue, or its sink; or what these have for it.
func letterLog(cfg *flow.Config) flow.LetterLog {
	var keeper any = cfg.Sink
	if cfg.DeadLetters != nil {
		keeper = cfg.DeadLetters
	}
	switch k := keeper.(type) {
	case flow.LetterLog:
		return k
	case interface{ LetterLog() flow.LetterLog }:
		return k.LetterLog()
	}
	return nil
}

// Close frees what the configuration holds.
func (q *Queue) Close(ctx context.Context) error { return closeConfig(ctx, &q.cfg) }

func closeConfig(ctx context.Context, cfg *flow.Config) error {
	errs := []error{cfg.Source.Close(ctx), cfg.Sink.Close(ctx)}
	if cfg.DeadLetters != nil {
		errs = append(errs, cfg.DeadLetters.Close(ctx))
	}
	return errors.Join(errs...)
}

// Flow is the flow's name, Place where its letters are.
func (q *Queue) Flow() string { return q.flow }

// Place says in words where the letters are.
func (q *Queue) Place() string { return q.log.Place() }

// setup is what the log is asked with.
func (q *Queue) setup() flow.Setup { return flow.Setup{Flow: q.flow} }

// Each calls fn with every letter that matches, until the filter's limit.
func (q *Queue) Each(ctx context.Context, f *Filter, fn func(*flow.Letter) error) error {
	n := 0
	return q.scan(ctx, q.flow, func(l *flow.Letter) error {
		if !f.Match(l) {
			return nil
		}
		if n++; f.Limit > 0 && n > f.Limit {
			return errEnough
		}
		return fn(l)
	})
}

// errEnough ends a scan that has seen what it wanted.
var errEnough = errors.New("enough")

// scan calls fn with every letter of a flow of that name.
func (q *Queue) scan(ctx context.Context, name string, fn func(*flow.Letter) error) error {
	err := q.log.Letters(ctx, flow.Setup{Flow: name}, fn)
	if errors.Is(err, errEnough) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the dead letters of flow %s in %s: %w", name, q.Place(), err)
	}
	return nil
}

// ofJob calls fn with the letters that the job has taken.
func (q *Queue) ofJob(ctx context.Context, job string, fn func(*flow.Letter) error) error {
	return q.scan(ctx, q.flow, func(l *flow.Letter) error {
		if l.Job != job {
			return nil
		}
		return fn(l)
	})
}

// Summary is what there is.
type Summary struct {
	Flow  string `json:"flow"`
	Place string `json:"place"`
	// Letters match the filter; Quarantined of them have been redriven too often to be redriven again.
	Letters     int     `json:"letters"`
	Quarantined int     `json:"quarantined"`
	Groups      []Group `json:"groups"`
	// Jobs are the unfinished ones of the flow, whatever the filter.
	Jobs []JobView `json:"unfinished_jobs"`
}

// Group is letters that have failed in the same way.
type Group struct {
	Class       string    `json:"class"`
	Topic       string    `json:"topic"`
	Column      string    `json:"column,omitempty"`
	Letters     int       `json:"letters"`
	Quarantined int       `json:"quarantined,omitempty"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	// Example is one of them, and Message what was wrong with it.
	Example string `json:"example"`
	Message string `json:"message"`
}

// Summary counts the letters that match. Those that were redriven maxRedrives times are quarantined.
func (q *Queue) Summary(ctx context.Context, f *Filter, maxRedrives int) (*Summary, error) {
	s := &Summary{Flow: q.flow, Place: q.Place()}
	var groups histogram
	jobs := jobList{}
	n := 0
	err := q.scan(ctx, q.flow, func(l *flow.Letter) error {
		jobs.add(l)
		if f.Limit > 0 && n == f.Limit || !f.Match(l) {
			return nil
		}
		n++
		groups.add(l, l.Redrives >= maxRedrives)
		return nil
	})
	s.Groups, s.Jobs = groups.sorted(), jobs.views()
	for i := range s.Groups {
		s.Letters += s.Groups[i].Letters
		s.Quarantined += s.Groups[i].Quarantined
	}
	return s, err
}
