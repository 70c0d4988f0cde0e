package dlq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/expr"
)

// DefaultMaxRedrives is how often a letter is redriven before it is left in quarantine.
const DefaultMaxRedrives = 3

// Options say what a redrive, or a drop, is about.
type Options struct {
	Filter Filter
	// Edits change the values of the letters that are redriven: see expr.NewEdit. What fails again keeps the
	// value that it had.
	Edits []string
	// MaxRedrives is how often a letter may have been redriven already; those with as many are
	// left where they are. Default 3.
	MaxRedrives int
	// Rate is how many letters per second at most; 0: as many as the target takes.
	Rate float64
	// Samples is how many letters Plan.Preview shows.
	Samples int
}

// command identifies the options for a job that is gone on with. Rate and samples do not change
// what is done.
func (o *Options) command() string {
	return fmt.Sprintf("%s\x00%s\x00%d", o.Filter.Said, strings.Join(o.Edits, "\x00"), o.MaxRedrives)
}

// Plan is what a redrive or a drop would do. Making it changes nothing.
type Plan struct {
	Flow  string `json:"flow"`
	Place string `json:"place"`
	Kind  Kind   `json:"action"`
	// Job is the unfinished job that the plan goes on with; empty for a new one.
	Job string `json:"job,omitempty"`
	// Letters are those that are meant, by Groups.
	Letters int     `json:"letters"`
	Groups  []Group `json:"groups"`
	// Quarantined were redriven too often, NotEdited cannot be edited as asked, for the reason
	// NotEditedWhy; both are left as they are.
	Quarantined  int    `json:"quarantined,omitempty"`
	NotEdited    int    `json:"not_edited,omitempty"`
	NotEditedWhy string `json:"not_edited_why,omitempty"`

	options Options
	edit    *expr.Edit
	places  []flow.Position
	samples []flow.Letter
	layout  layout
	// cluster is that of the letters; mixed says that there are several.
	cluster string
	mixed   bool
	// resumed: another process has begun the job.
	resumed bool
	// doneBelow are the letters of the job that were done before this process began.
	doneBelow int
}

// PlanRedrive looks which letters a redrive would send. It returns an *UnfinishedError where
// another job has to be finished first.
func (q *Queue) PlanRedrive(ctx context.Context, o Options) (*Plan, error) {
	if o.MaxRedrives == 0 {
		o.MaxRedrives = DefaultMaxRedrives
	}
	p := &Plan{Kind: KindRedrive, options: o}
	if len(o.Edits) > 0 {
		var err error
		if p.edit, err = expr.NewEdit(o.Edits); err != nil {
			return nil, err
		}
	}
	return p, q.plan(ctx, p)
}

// PlanDrop looks which letters would be dropped. It returns an *UnfinishedError where another
// job has to be finished first.
func (q *Queue) PlanDrop(ctx context.Context, o Options) (*Plan, error) {
	o.MaxRedrives, o.Edits = math.MaxInt, nil
	p := &Plan{Kind: KindDrop, options: o}
	return p, q.plan(ctx, p)
}

// plan fills p: with the letters that are open and match; or, where there is an unfinished job that
// the same command has begun, with the letters of that. One scan sees which it is.
func (q *Queue) plan(ctx context.Context, p *Plan) error {
	p.Flow, p.Place = q.flow, q.Place()
	begun := &Plan{Flow: p.Flow, Place: p.Place, Kind: p.Kind, options: p.options, edit: p.edit, resumed: true}
	jobs := jobList{}
	var open, taken histogram
	err := q.scan(ctx, q.flow, func(l *flow.Letter) error {
		switch jobs.add(l); {
		case l.Job == "" && len(jobs) == 0:
			return p.consider(l, &open)
		case l.Job != "" && begun.Job == "" && beganBy(l.Job, p.Kind, p.options.command()):
			begun.Job = strings.Clone(l.Job)
		}
		if l.Job != "" && l.Job == begun.Job {
			taken.add(l, false)
			begun.add(l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Another job besides: two that were planned at the same time have both taken letters. Each is gone on with, or
	// neither would ever end.
	if begun.Job != "" {
		*p, open = *begun, taken
	} else if all := jobs.views(); len(all) > 0 {
		return &UnfinishedError{Flow: q.flow, JobView: all[0]}
	}
	p.Groups = open.sorted()
	return nil
}

// consider adds an open letter to a new plan if it is meant.
func (p *Plan) consider(l *flow.Letter, groups *histogram) error {
	f := &p.options.Filter
	switch {
	case f.Limit > 0 && p.Letters == f.Limit, !f.Match(l): // the scan goes on: there may be a job
		return nil
	case l.Redrives >= p.options.MaxRedrives:
		p.Quarantined++
		return nil
	case p.edit != nil:
		e := env(l)
		if _, err := p.edit.Apply(&e); err != nil {
			if p.NotEdited++; p.NotEditedWhy == "" {
				p.NotEditedWhy = fmt.Sprintf("%s: %v", IDOf(l), err)
			}
			return nil
		}
	}
	groups.add(l, false)
	p.add(l)
	return nil
}

// add notes a letter that is meant.
func (p *Plan) add(l *flow.Letter) {
	p.Letters++
	place := l.Place
	if len(p.places) > 0 && p.places[0].Topic == place.Topic {
		place.Topic, place.TopicID = p.places[0].Topic, p.places[0].TopicID // one string for all of them
	} else {
		place.Topic, place.TopicID = strings.Clone(place.Topic), strings.Clone(place.TopicID)
	}
	p.places = append(p.places, place)
	p.layout.add(l, p.resumed)
	if len(p.samples) < p.options.Samples {
		p.samples = append(p.samples, cloneLetter(l))
	}
	switch {
	case p.cluster == "" && !p.mixed:
		p.cluster = strings.Clone(l.ClusterID)
	case p.cluster != l.ClusterID:
		p.cluster, p.mixed = "", true
	}
}

// take gives the letters of a new plan to a job.
func (q *Queue) take(ctx context.Context, p *Plan) error {
	if p.resumed {
		return nil
	}
	job := newJob(p.Kind, p.options.command())
	err := q.log.Take(ctx, q.setup(), job, p.places)
	if taken, ok := errors.AsType[*flow.TakenError](err); ok {
		return fmt.Errorf("%w: nothing was done; look again (penstock dlq list) and repeat the command", taken)
	}
	if err != nil {
		return fmt.Errorf("taking %d dead letters in %s: %w", len(p.places), p.Place, err)
	}
	p.Job = job
	return nil
}

// Release ends the unfinished job of that kind: what it has done stays done, and its other letters
// are open again. It returns nil if there is none.
func (q *Queue) Release(ctx context.Context, k Kind) (*Result, error) {
	p := &Plan{Flow: q.flow, Place: q.Place(), Kind: k, resumed: true}
	err := q.scan(ctx, q.flow, func(l *flow.Letter) error {
		if kindOf(l.Job) == k && (p.Job == "" || p.Job == l.Job) {
			p.Job = strings.Clone(l.Job)
			p.add(l)
		}
		return nil
	})
	if err != nil || p.Job == "" {
		return nil, err
	}
	if k == KindDrop {
		err := q.log.Release(ctx, q.setup(), p.Job, p.places)
		return &Result{Job: p.Job, Kind: k, Letters: p.Letters, Released: p.Letters}, err
	}
	return q.run(ctx, p, settle, nil)
}
