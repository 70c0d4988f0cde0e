package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// run drives the flow's process through the demo.
type run struct {
	*Options
	d     *display
	file  string
	total int64
	watch *watcher

	batches  int64 // of processes that have ended
	killedAt int64
	killed   time.Time
	outage   time.Duration // from the kill to the first commit after it
	moved    int64         // records, while the flow was at work
	working  time.Duration
}

const (
	pollEvery = 20 * time.Millisecond
	// stuckAfter is how long the flow may make no progress.
	stuckAfter = 60 * time.Second
)

// killedInTheMiddle runs the flow and kills it when two fifths are committed.
func (r *run) killedInTheMiddle(ctx context.Context) error {
	c, err := startChild(ctx, r.Command, r.file, r.logPath())
	if err != nil {
		return err
	}
	at, err := r.follow(ctx, c, 0, r.total*2/5)
	if err != nil {
		return errors.Join(err, quietly(c))
	}
	if err := c.kill(); err != nil {
		return err
	}
	r.killed = time.Now()
	r.batches = max(0, at.batches)
	r.d.keep()
	// A commit may have been made while the signal was on its way.
	if at, err = r.watch.look(ctx, c.admin); err != nil {
		return err
	}
	if at.committed >= r.total {
		return errors.New("the flow was through before it could be killed; ask for more records")
	}
	r.killedAt = at.committed
	r.d.say("  killed    process %d with SIGKILL, after %s records; started again", c.cmd.Process.Pid, comma(at.committed))
	return nil
}

// toTheEnd runs the flow until everything is committed, and stops it.
func (r *run) toTheEnd(ctx context.Context) error {
	c, err := startChild(ctx, r.Command, r.file, r.logPath())
	if err != nil {
		return err
	}
	if _, err := r.follow(ctx, c, r.killedAt, r.killedAt+1); err != nil {
		return errors.Join(err, quietly(c))
	}
	r.outage = time.Since(r.killed)
	if _, err := r.follow(ctx, c, r.killedAt, r.total); err != nil {
		return errors.Join(err, quietly(c))
	}
	r.d.keep()
	return c.stop()
}

// quietly stops a process whose end is not the news.
func quietly(c *child) error {
	_ = c.stop()
	return nil
}

func (r *run) logPath() string { return filepath.Join(r.Dir, "flow.log") }

// follow shows the flow's progress until goal records are committed. from is
// what was committed before.
func (r *run) follow(ctx context.Context, c *child, from, goal int64) (state, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := state{committed: from}
	lastMove := time.Now()
	working := false // the first move begins the measurement, it is not measured
	for {
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-c.done:
			return last, c.ended()
		case <-tick.C:
		}
		s, err := r.watch.look(ctx, c.admin)
		if err != nil {
			return last, err
		}
		now := time.Now()
		if s.committed > last.committed {
			if working {
				r.moved += s.committed - last.committed
				r.working += now.Sub(lastMove)
			}
			working, lastMove = true, now
		} else if now.Sub(lastMove) > stuckAfter {
			return s, fmt.Errorf("the flow has committed nothing for %s; the end of %s:\n%s", stuckAfter, r.logPath(), tail(r.logPath()))
		}
		if s.batches < 0 {
			s.batches = last.batches
		}
		last = s
		r.show(s, working || from == 0)
		if s.committed >= goal {
			return s, nil
		}
	}
}

func (r *run) rate() float64 { return float64(r.moved) / max(0.001, r.working.Seconds()) }

func (r *run) show(s state, working bool) {
	lag := r.total - s.committed
	rest := fmt.Sprintf("lag %s  %s batches  %s dead letters", comma(lag), comma(r.batches+s.batches), comma(s.dead))
	switch {
	case !working:
		rest = "lag " + comma(lag) + "  the group waits 2 s for the killed process, then gives its partitions over"
	case r.moved > 0:
		rest = fmt.Sprintf("%s/s  %s  %s left", comma(int64(r.rate())), rest, seconds(time.Duration(float64(lag)/r.rate()*float64(time.Second))))
	}
	r.d.progress("flow", s.committed, r.total, rest)
}

// report says what the audit found.
func (r *run) report(a *audit) {
	verified := "Verified"
	if a.verdict() != nil {
		verified = "FAILED"
	}
	r.d.say("\n%s: every record of the topic was looked up in %s.\n", verified, r.database())
	line := func(what string, n int64, more string) { r.d.say("  %-13s %9s  %s", what, comma(n), more) }
	line("produced", int64(a.ledger.records), fmt.Sprintf("records to %d partitions, %s of them malformed", partitions, comma(int64(a.ledger.malformed))))
	line("rows", a.rows, "")
	line("dead letters", a.dead, a.classList())
	line("lost", a.lost(), "")
	line("doubled", a.doubled, "")
	line("out of order", a.outOfOrder, "by offset in each partition, by sequence of each vehicle")
	line("killed after", r.killedAt, fmt.Sprintf("the next batch was committed %s after the kill (the group's session timeout is 2 s)", seconds(r.outage)))
	line("records/s", int64(r.rate()), "while the flow was at work")
}
