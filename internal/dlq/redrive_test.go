package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func TestLettersBecomeRowsOrDeadAgain(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for n := 1; n <= 3; n++ {
		r, err := w.redrive(Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := letters
		if n > 1 {
			want = letters / 4
		}
		if r.Letters != want || r.Redriven != want-letters/4 || r.Dead["again"] != letters/4 || r.Left != 0 {
			t.Errorf("redrive %d: %+v", n, r)
		}
		w.verify(n, false)
	}
	// Enough is enough.
	p, err := w.queue().PlanRedrive(t.Context(), Options{})
	if err != nil || p.Letters != 0 || p.Quarantined != letters/4 {
		t.Errorf("after three redrives: %+v, %v", p, err)
	}
	s, err := w.queue().Summary(t.Context(), &Filter{}, DefaultMaxRedrives)
	if err != nil || s.Letters != letters/4 || s.Quarantined != letters/4 || len(s.Jobs) != 0 || len(s.Groups) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	// Unless a person says so, having repaired what was wrong.
	r, err := w.redrive(Options{MaxRedrives: 10, Edits: []string{`state='good'`}})
	if err != nil || r.Redriven != letters/4 || len(there(t, w.log, "orders")) != 0 {
		t.Errorf("edited: %+v, %v", r, err)
	}
}

// TestKilledAnywhereAndGoneOnWith lets every call of the letter log fail in turn, before or after
// it has had its effect, as a process that is killed there leaves it. The same command goes on.
func TestKilledAnywhereAndGoneOnWith(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("plain=%t,after=%t", plain, after), func(t *testing.T) {
				t.Parallel()
				for n, more := 1, true; more; n++ {
					more = killedAt(t, n, plain, after)
				}
			})
		}
	}
}

func killedAt(t *testing.T, n int, plain, after bool) (struck bool) {
	w := newWorld(t)
	w.plain = plain
	w.fill()
	// What is flaky fails until the first process has ended.
	var first atomic.Bool
	first.Store(true)
	forGood := w.bad
	w.bad = func(v string) bool { return forGood(v) || first.Load() && strings.Contains(v, `"n":4,`) }
	op := ""
	w.log.Hook(func(call int, name string) (before, late error) {
		if call != n {
			return nil, nil
		}
		struck, op = true, name
		if err := flow.Fatal(fmt.Errorf("killed at call %d (%s)", n, name)); after {
			return nil, err
		} else {
			return err, nil
		}
	})
	r, err := w.redrive(Options{})
	first.Store(false)
	w.log.Hook(nil)
	for try := 1; w.unfinished(); try++ {
		if try > 3 {
			t.Fatalf("killed at call %d (%s): no end: %+v, %v", n, op, r, err)
		}
		r, err = w.redrive(Options{})
	}
	if len(w.table.Rows()) == 0 { // nothing had begun
		_, err = w.redrive(Options{})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.settled()
	if t.Failed() {
		t.Errorf("killed at call %d (%s), after %t, plain %t", n, op, after, plain)
		return false
	}
	return struck
}

// unfinished says that there is a job.
func (w *world) unfinished() bool {
	w.t.Helper()
	s, err := w.queue().Summary(w.t.Context(), &Filter{}, 3)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(s.Jobs) > 0
}

// settled verifies that every letter is one row or one letter, which was redriven once.
func (w *world) settled() {
	w.t.Helper()
	rows, dead := map[string]int{}, there(w.t, w.log, "orders")
	for _, r := range w.table.Rows() {
		rows[string(r.Key)]++
	}
	for i := range letters {
		l := w.letter(i)
		id := IDOf(&l).String()
		d, isDead := dead[id]
		n := rows[id]
		if isDead {
			n++
		}
		if n != 1 && (!w.plain || n == 0 || isDead) {
			w.t.Errorf("%s is %d rows, and a letter: %t", id, rows[id], isDead)
		}
		if isDead && (d.Redrives != 1 || d.Job != "") {
			w.t.Errorf("%s: %d redrives, job %q", id, d.Redrives, d.Job)
		}
	}
	if !w.plain { // a dead letter of a redrive that is over says nothing to anybody
		w.clean()
	}
}

// clean checks that nothing is left of redrives.
func (w *world) clean() {
	w.t.Helper()
	names := map[string]bool{}
	for _, l := range w.log.Kept() {
		names[l.Flow] = true
	}
	delete(names, "orders")
	for name := range names {
		for id := range there(w.t, w.log, name) {
			w.t.Errorf("a letter of %s is left: %s", name, id)
		}
	}
}

func TestSinkThatFailsMakesNoDoubles(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.table.Inject(
		flowtest.Fault{At: flowtest.LostCommit}, flowtest.Fault{At: flowtest.InTransaction}, flowtest.Fault{At: flowtest.LostRollback},
		flowtest.Fault{At: flowtest.InTransaction, Err: &flow.FencedError{}},
	)
	if r, err := w.redrive(Options{}); err != nil || r.Left != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	w.verify(1, false)
}

// TestRewoundRedriveKeepsWhatFailsAgain: a batch's dead letter was put, the batch was not committed, and
// the partition was taken over and came back. What was put is stale, and is put again.
func TestRewoundRedriveKeepsWhatFailsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		var doubt []flow.Part
		struck := false
		w.table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
			bad := len(a.Batch.Records) > a.Batch.Rows()
			switch {
			case doubt != nil:
				wait := make(chan struct{})
				go func(parts []flow.Part) { // the hook holds the table
					defer close(wait)
					for _, p := range parts {
						c := w.table.Checkpoint(a.Flow, p.Partition)
						c.Owner++
						w.table.SetCheckpoint(a.Flow, c)
					}
				}(doubt)
				doubt = nil
				return flowtest.Fault{At: flowtest.BeforeBegin, Wait: wait}
			case bad && !struck:
				struck, doubt = true, append(doubt, a.Batch.Parts...)
				return flowtest.Fault{At: flowtest.LostRollback}
			}
			return flowtest.Fault{}
		})
		p, err := w.queue().PlanRedrive(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := w.queue().Redrive(t.Context(), p, nil); err != nil || r.Left != 0 || r.DeadAgain() != letters/4 || !struck {
			t.Fatalf("%+v, %v", r, err)
		}
		if w.table.Fenced() == 0 {
			t.Error("nobody was fenced")
		}
		w.verify(1, false)
	})
}

func TestInterruptedRedriveIsGoneOnWithOrReleased(t *testing.T) {
	for _, release := range []bool{false, true} {
		w := newWorld(t)
		w.fill()
		ctx, stop := context.WithCancel(t.Context())
		w.table.Intercept(func(a flowtest.Attempt) flowtest.Fault {
			if a.N == 3 {
				stop()
			}
			return flowtest.Fault{}
		})
		q := w.queue()
		p, err := q.PlanRedrive(ctx, Options{Rate: 50, Filter: Filter{Said: "all"}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := q.Redrive(ctx, p, nil)
		stop()
		if err != nil || r.Left == 0 || r.Left == letters || r.Left+r.Redriven+r.DeadAgain() != letters {
			t.Fatalf("interrupted: %+v, %v", r, err)
		}
		s, err := q.Summary(t.Context(), &Filter{}, 3)
		if err != nil || len(s.Jobs) != 1 || s.Jobs[0].Job != p.Job || s.Jobs[0].Kind != KindRedrive {
			t.Errorf("%+v, %v", s, err)
		}
		// Others wait for it.
		_, err = w.redrive(Options{Filter: Filter{Said: "others"}})
		var unfinished *UnfinishedError
		if !errors.As(err, &unfinished) || unfinished.Job != p.Job {
			t.Errorf("another redrive: %v", err)
		}
		if _, err := q.PlanDrop(t.Context(), Options{}); !errors.As(err, &unfinished) {
			t.Errorf("a drop: %v", err)
		}
		left := r.Left
		if release {
			r, err = q.Release(t.Context(), KindRedrive)
			if err != nil || r.Released != left {
				t.Errorf("released: %+v, %v; %d were left", r, err, left)
			}
			if again, err := q.Release(t.Context(), KindRedrive); again != nil || err != nil {
				t.Errorf("nothing to release: %+v, %v", again, err)
			}
			w.settledSome()
			continue
		}
		again, err := w.redrive(Options{Filter: Filter{Said: "all"}})
		if err != nil || again.Job != p.Job || again.Left != 0 {
			t.Errorf("gone on with: %+v, %v", again, err)
		}
		w.verify(1, false)
	}
}

// settledSome checks that every letter is a row or a letter, and only one.
func (w *world) settledSome() {
	w.t.Helper()
	rows, dead := map[string]int{}, there(w.t, w.log, "orders")
	for _, r := range w.table.Rows() {
		rows[string(r.Key)]++
	}
	for i := range letters {
		l := w.letter(i)
		id := IDOf(&l).String()
		d, isDead := dead[id]
		if isDead == (rows[id] == 1) || rows[id] > 1 || d.Job != "" {
			w.t.Errorf("%s is %d rows, and a letter: %t of job %q", id, rows[id], isDead, d.Job)
		}
	}
}

func TestLettersOfAPartitionInSeveralPartitionsOfTheLog(t *testing.T) {
	w := newWorld(t)
	for i := range letters {
		if i == letters/2 {
			w.log.Grow(1) // somebody has added one
		}
		w.log.Append(w.letter(i))
	}
	if r, err := w.redrive(Options{}); err != nil || r.Left != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	w.verify(1, false)
}

func TestSameRedriveTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		o := Options{Filter: Filter{Said: "all"}, Rate: 1}
		p, err := w.queue().PlanRedrive(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan error, 1)
		yielded := false
		go func() {
			_, err := w.queue().Redrive(ctx, p, func(p Progress) { yielded = yielded || p.Yielded })
			done <- err
		}()
		<-time.After(5 * time.Second) // of the bubble's time
		synctest.Wait()
		o.Rate = 2
		if r, err := w.redrive(o); err != nil || r.Job != p.Job || r.Left != 0 {
			t.Errorf("the second: %+v, %v", r, err)
		}
		if err := <-done; !errors.Is(err, ErrEndedElsewhere) || !strings.Contains(err.Error(), p.Job) || ctx.Err() != nil {
			t.Errorf("the first: %v", err)
		}
		if !yielded {
			t.Error("the first has not said that another process goes on")
		}
		w.verify(1, false)
	})
}

func TestJobsThatWerePlannedAtTheSameTimeBothGoOn(t *testing.T) {
	w := newWorld(t)
	w.fill()
	options := []Options{{Filter: Filter{Topic: "eu", Said: "eu"}}, {Filter: Filter{Topic: "us", Said: "us"}}}
	plans := make([]*Plan, len(options))
	q := w.queue()
	for i, o := range options {
		var err error
		if plans[i], err = q.PlanRedrive(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range plans {
		if err := q.take(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range options {
		if r, err := w.redrive(o); err != nil || r.Job != plans[i].Job || r.Letters != letters/2 {
			t.Errorf("%s: %+v, %v", o.Filter.Said, r, err)
		}
	}
	w.verify(1, false)
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		began := time.Now()
		if r, err := w.redrive(Options{Rate: 4}); err != nil || r.Left != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if took, want := time.Since(began), letters*time.Second/4; took < want-time.Second/4 || took > want+time.Second {
			t.Errorf("%d letters at 4 a second took %s", letters, took)
		}
	})
}

func TestFiltersChoose(t *testing.T) {
	w := newWorld(t)
	w.fill()
	where := mustFilter(t, `value.n >= 20 && key == 'k22'`)
	for name, c := range map[string]struct {
		f    Filter
		want int
	}{
		"all":     {Filter{}, letters},
		"class":   {Filter{Classes: []string{"range"}}, letters / 2},
		"topic":   {Filter{Topic: "eu"}, letters / 2},
		"column":  {Filter{Column: "other"}, 0},
		"key":     {Filter{Key: "k7"}, 1},
		"text":    {Filter{Text: `"state":"bad"`}, letters / 4},
		"message": {Filter{Text: "was wrong"}, letters},
		"since":   {Filter{Since: time.Date(2026, 1, 31, 12, 0, 20, 0, time.UTC)}, 4},
		"until":   {Filter{Until: time.Date(2026, 1, 31, 12, 0, 20, 0, time.UTC)}, 20},
		"ids":     {Filter{IDs: []ID{{flow.Partition{Topic: "eu"}, 1000}, {flow.Partition{Topic: "eu"}, 1001}}}, 1},
		"where":   {Filter{Where: where}, 1},
		"limit":   {Filter{Limit: 5}, 5},
		"and":     {Filter{Classes: []string{"type"}, Topic: "us"}, 0},
	} {
		p, err := w.queue().PlanRedrive(t.Context(), Options{Filter: c.f})
		if err != nil || p.Letters != c.want {
			t.Errorf("%s: %d letters, %v; want %d", name, p.Letters, err, c.want)
		}
		s, err := w.queue().Summary(t.Context(), &c.f, 3)
		if err != nil || s.Letters != c.want {
			t.Errorf("%s: the summary has %d letters, %v; want %d", name, s.Letters, err, c.want)
		}
		n := 0
		if err := w.queue().Each(t.Context(), &c.f, func(*flow.Letter) error { n++; return nil }); err != nil || n != c.want {
			t.Errorf("%s: %d letters, %v; want %d", name, n, err, c.want)
		}
	}
	if r, err := w.redrive(Options{Filter: Filter{Key: "k7"}, Edits: []string{`state='good'`}}); err != nil || r.Redriven != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := len(there(t, w.log, "orders")); n != letters-1 {
		t.Errorf("%d letters are left", n)
	}
}

func TestLettersThatCannotBeEditedAreLeft(t *testing.T) {
	w := newWorld(t)
	w.fill()
	p, err := w.queue().PlanRedrive(t.Context(), Options{Edits: []string{`n=value.state == 'bad' ? value.missing : 1`}})
	if err != nil || p.Letters != letters*3/4 || p.NotEdited != letters/4 || !strings.Contains(p.NotEditedWhy, "no such key") {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := w.queue().PlanRedrive(t.Context(), Options{Edits: []string{`n`}}); err == nil {
		t.Error("an edit without an expression is taken")
	}
}

func TestDropExportsFirst(t *testing.T) {
	w := newWorld(t)
	for i := range letters {
		l := w.letter(i)
		if i == 1 {
			l.Record.Value = []byte{0xff, 0}
		}
		w.log.Append(l)
	}
	q := w.queue()
	p, err := q.PlanDrop(t.Context(), Options{Filter: Filter{Classes: []string{"range"}}})
	if err != nil || p.Letters != letters/2 {
		t.Fatalf("%+v, %v", p, err)
	}
	broken := errors.New("the disk is full")
	if _, err := q.Drop(t.Context(), p, &bytes.Buffer{}, func() error { return broken }); !errors.Is(err, broken) || len(there(t, w.log, "orders")) != letters {
		t.Errorf("an export that fails: %v", err)
	}
	if p, err = q.PlanDrop(t.Context(), Options{Filter: Filter{Classes: []string{"range"}}}); err != nil || p.Job != "" {
		t.Fatalf("%+v, %v", p, err)
	}
	var out bytes.Buffer
	r, err := q.Drop(t.Context(), p, &out, func() error { return nil })
	if err != nil || r.Dropped != letters/2 || len(there(t, w.log, "orders")) != letters/2 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := strings.Count(out.String(), "\n"); n != letters/2 || !strings.Contains(out.String(), `"value_base64":"/wA="`) || !strings.Contains(out.String(), `"id":"us/1/1003"`) {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}

func TestDropKilledInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.log.Hook(func(_ int, op string) (error, error) {
		if op == "remove" {
			return errors.New("killed"), nil
		}
		return nil, nil
	})
	q := w.queue()
	o := Options{Filter: Filter{Topic: "eu", Said: "topic eu"}}
	p, err := q.PlanDrop(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Drop(t.Context(), p, nil, nil); err == nil || !strings.Contains(err.Error(), "goes on with job "+p.Job) {
		t.Fatal(err)
	}
	w.log.Hook(nil)
	var unfinished *UnfinishedError
	if _, err := q.PlanDrop(t.Context(), Options{}); !errors.As(err, &unfinished) || !strings.Contains(err.Error(), "penstock dlq drop --release") {
		t.Errorf("another drop: %v", err)
	}
	again, err := q.PlanDrop(t.Context(), o)
	if err != nil || again.Job != p.Job || again.Letters != letters/2 {
		t.Fatalf("%+v, %v", again, err)
	}
	if r, err := q.Release(t.Context(), KindDrop); err != nil || r.Released != letters/2 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := len(there(t, w.log, "orders")); n != letters {
		t.Errorf("%d letters", n)
	}
}

func TestIDsAndTimesAreRead(t *testing.T) {
	id, err := ParseID("orders/3/1042")
	if err != nil || id.Topic != "orders" || id.Partition.ID != 3 || id.Offset != 1042 || id.String() != "orders/3/1042" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, s := range []string{"", "orders", "orders/3", "orders/x/1", "/3/1", "orders/-1/2", "orders/3/" + strconv.Itoa(1<<62) + "0"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q is taken for an id", s)
		}
	}
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"2h": now.Add(-2 * time.Hour), "-90m": now.Add(-90 * time.Minute), "3d": now.AddDate(0, 0, -3),
		"2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), "2026-01-31T10:00:00Z": time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := ParseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	if _, err := ParseTime("yesterday", now); err == nil {
		t.Error("yesterday is taken for a time")
	}
}

func TestFlowOfAJobHasANameThatFlowsCanHave(t *testing.T) {
	job := newJob(KindRedrive, "all")
	for _, name := range []string{"orders", strings.Repeat("x", 100), strings.Repeat("x", 99) + "y"} {
		q := &Queue{flow: name}
		got := q.flowName(job)
		if len(got) > 100 || got != q.flowName(job) || !strings.Contains(got, ".redrive.") || name == "orders" && !strings.HasPrefix(got, "orders.redrive.") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if a, b := (&Queue{flow: strings.Repeat("x", 100)}).flowName(job), (&Queue{flow: strings.Repeat("x", 99) + "y"}).flowName(job); a == b {
		t.Errorf("two flows have redrives of one name: %s", a)
	}
}
