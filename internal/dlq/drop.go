package dlq

import (
	"context"
	"fmt"
	"io"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// Drop removes the letters of the plan for good. Before that it writes them to export, if that is not
// nil, one View a line, and calls sync, which makes that durable. If one of these fails, or
// ctx ends before, nothing is dropped.
func (q *Queue) Drop(ctx context.Context, p *Plan, export io.Writer, sync func() error) (*Result, error) {
	r := &Result{Kind: p.Kind, Letters: p.Letters}
	if p.Letters == 0 {
		return r, nil
	}
	if err := q.take(ctx, p); err != nil {
		return nil, err
	}
	failpoint.Hit("drop.after_take")
	r.Job = p.Job
	if export != nil {
		err := q.ofJob(ctx, p.Job, func(l *flow.Letter) error { return WriteLetter(export, l) })
		if err == nil {
			err = sync()
		}
		if err != nil {
			released := q.log.Release(context.WithoutCancel(ctx), q.setup(), p.Job, p.places)
			if released != nil {
				return nil, fmt.Errorf("exporting the letters: %w; nothing was dropped, and job %s still has them (%w): penstock dlq drop --release", err, p.Job, released)
			}
			return nil, fmt.Errorf("exporting the letters: %w; nothing was dropped", err)
		}
	}
	failpoint.Hit("drop.before_remove")
	if err := q.log.Remove(ctx, q.setup(), p.Job, p.places); err != nil {
		return nil, fmt.Errorf("dropping %d letters: %w; the same command goes on with job %s", p.Letters, err, p.Job)
	}
	r.Dropped = p.Letters
	return r, nil
}
