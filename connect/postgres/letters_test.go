package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestLetterConformance(t *testing.T) {
	t.Parallel()
	kept, none := newLetters(t), newDB(t)
	pooled := testservice.PgBouncer(t, kept.url)
	flowtest.RunLetters(t, flowtest.LettersHarness{New: func(t testing.TB) *flowtest.Letters {
		d := *kept.db
		d.t = t
		d.exec("TRUNCATE penstock_dead_letter")
		processes := 0
		return &flowtest.Letters{
			Log: func(testing.TB) flow.LetterLog {
				if processes++; processes%2 == 0 {
					return d.letterLog(pooled).sink
				}
				return d.letterLog(d.url).sink
			},
			Missing: func(testing.TB) flow.LetterLog { return d.letterLog(none.url).sink },
		}
	}})
}

// letterRig is a sink of which no method but those of the letter log is called.
type letterRig struct {
	*db
	sink  *Sink
	setup flow.Setup
}

func (d *db) letterLog(url string) *letterRig {
	d.t.Helper()
	s, err := NewSink(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = s.Close(context.Background()) })
	return &letterRig{db: d, sink: s, setup: flow.Setup{Flow: "test"}}
}

// newLetters is a database with the dead-letter table as Open makes it.
func newLetters(t testing.TB) *letterRig {
	t.Helper()
	d := newDB(t, simpleTable)
	d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	return d.letterLog(d.url)
}

// keep puts letters of test/orders[0] at the offsets.
func (r *letterRig) keep(offsets ...int64) {
	r.t.Helper()
	var letters []flow.Letter
	for _, o := range offsets {
		l := flow.Letter{Flow: "test", DeadLetter: flow.DeadLetter{
			ClusterID: "c1", Partition: flow.Partition{Topic: "orders"}, TopicID: "id", Stage: flow.StageWrite, Class: "type", Column: "temp", Message: "m",
			Record: &flow.Record{Offset: o, Timestamp: 1_700_000_000_000_000, Key: []byte("k"), Value: []byte("v")},
		}}
		letters = append(letters, l)
	}
	if err := r.sink.Put(r.t.Context(), r.setup, letters); err != nil {
		r.t.Fatal(err)
	}
}

// shown are the letters as offset/redrives/job.
func (r *letterRig) shown() []string {
	r.t.Helper()
	var out []string
	err := r.sink.Letters(r.t.Context(), r.setup, func(l *flow.Letter) error {
		out = append(out, fmt.Sprintf("%d/%d/%s", l.Record.Offset, l.Redrives, l.Job))
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *letterRig) wantShown(want ...string) {
	r.t.Helper()
	if got := r.shown(); !slices.Equal(got, want) {
		r.t.Errorf("shown are %q, want %q", got, want)
	}
}

func (r *letterRig) places() []flow.Position {
	r.t.Helper()
	var out []flow.Position
	err := r.sink.Letters(r.t.Context(), r.setup, func(l *flow.Letter) error {
		out = append(out, l.Place)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *letterRig) take(job string, places []flow.Position) {
	r.t.Helper()
	if err := r.sink.Take(r.t.Context(), r.setup, job, places); err != nil {
		r.t.Fatal(err)
	}
}

func TestALogThatDoesNotExistHasNoLetters(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	r := d.letterLog(d.url)
	r.wantShown()
	var taken *flow.TakenError
	place := []flow.Position{{Partition: flow.Partition{Topic: "public.penstock_dead_letter"}, Offset: 1}}
	if err := r.sink.Take(t.Context(), r.setup, "j", place); !errors.As(err, &taken) {
		t.Errorf("Take: %v", err)
	}
	if err := r.sink.Remove(t.Context(), r.setup, "j", place); err != nil {
		t.Errorf("Remove: %v", err)
	}
	err := r.sink.Put(t.Context(), r.setup, []flow.Letter{{DeadLetter: flow.DeadLetter{Record: &flow.Record{}}}})
	wantError(t, err, flow.ClassFatal, "there is no table public.penstock_dead_letter", "CREATE TABLE")
	r.want("SELECT count(*) FROM pg_class WHERE relname LIKE 'penstock%'", "0")
}

// Letters of several statements are taken in one transaction.
func TestTakingManyLettersIsAllOrNone(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.exec(`INSERT INTO penstock_dead_letter (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, value, headers, stage, class, column_name, message)
		SELECT 'test', 'c1', 'orders', '', 0, n, now(), 'v', '[]', 'write', 'type', '', '' FROM generate_series(1, 25000) n`)
	all := r.places()
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		places := slices.Clone(all)
		if i%2 == 1 {
			slices.Reverse(places)
		}
		wg.Go(func() { errs[i] = r.sink.Take(t.Context(), r.setup, fmt.Sprint("job", i), places) })
	}
	wg.Wait()
	won := slices.Index(errs, nil)
	for i, err := range errs {
		var taken *flow.TakenError
		if i != won && (!errors.As(err, &taken) || taken.Job != fmt.Sprint("job", won)) {
			t.Errorf("job%d: %v", i, err)
		}
	}
	r.want("SELECT job, count(*) FROM penstock_dead_letter GROUP BY 1", fmt.Sprintf("job%d|25000", won))
	if err := r.sink.Remove(t.Context(), r.setup, fmt.Sprint("job", won), all); err != nil {
		t.Fatal(err)
	}
	r.wantShown()
}

// A table of an earlier version works as before; the first job adds what jobs need.
func TestJobsWorkWithTheTableOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.exec("ALTER TABLE penstock_dead_letter DROP COLUMN job")
	r.keep(1)
	r.wantShown("1/0/")
	if err := r.sink.Release(t.Context(), r.setup, "a", r.places()); err != nil {
		t.Error(err)
	}
	writer := r.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields) // accepts the old table
	r.take("a", r.places())
	r.wantShown("1/0/a")
	writer.write(row{"d", 1, 2.0})
	r.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields) // and the new one
}

func TestJobsSayWhichRightsTheyNeed(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.keep(1)
	role, url := r.role()
	t.Cleanup(func() {
		_, _ = r.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = r.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	as := r.letterLog(url)
	err := as.sink.Letters(t.Context(), r.setup, func(*flow.Letter) error { return nil })
	wantError(t, err, flow.ClassFatal, "GRANT SELECT ON public.penstock_dead_letter TO "+role)
	r.exec("GRANT SELECT ON public.penstock_dead_letter TO " + role)
	as.wantShown("1/0/")
	grant := "GRANT SELECT, INSERT, UPDATE, DELETE ON public.penstock_dead_letter TO " + role
	wantError(t, as.sink.Take(t.Context(), r.setup, "a", r.places()), flow.ClassFatal, grant)
	r.exec(grant)
	as.take("a", r.places())
	r.exec("ALTER TABLE penstock_dead_letter DROP COLUMN job")
	wantError(t, as.sink.Take(t.Context(), r.setup, "a", r.places()), flow.ClassFatal, "ALTER TABLE public.penstock_dead_letter ADD COLUMN IF NOT EXISTS job text;")
}
