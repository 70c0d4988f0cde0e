package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

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
func (r *letterRig) keep(redrives string, offsets ...int64) {
	r.t.Helper()
	var letters []flow.Letter
	for _, o := range offsets {
		l := flow.Letter{Flow: "test", DeadLetter: flow.DeadLetter{
			ClusterID: "c1", Partition: flow.Partition{Topic: "orders"}, TopicID: "id", Stage: flow.StageWrite, Class: "type", Column: "temp", Message: "m",
			Record: &flow.Record{Offset: o, Timestamp: 1_700_000_000_000_000, Key: []byte("k"), Value: []byte("v")},
		}}
		if redrives != "" {
			l.Record.Headers = []flow.Header{{Key: "a"}, {Key: flow.HeaderRedrives, Value: []byte("0")}, {Key: flow.HeaderRedrives, Value: []byte(redrives)}}
		}
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

func (r *letterRig) places(offsets ...int64) []flow.Position {
	r.t.Helper()
	var out []flow.Position
	err := r.sink.Letters(r.t.Context(), r.setup, func(l *flow.Letter) error {
		if len(offsets) == 0 || slices.Contains(offsets, l.Record.Offset) {
			out = append(out, l.Place)
		}
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

func TestLettersAreAsTheyWereKept(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.wantShown()
	since := time.Now().Add(-time.Second)
	rec := flow.Record{
		Offset: 1 << 40, Timestamp: 1_700_000_000_123_456, Key: []byte{}, Value: []byte{0, 0xff, '\\'},
		Headers: []flow.Header{{Key: "h", Value: []byte{0xfe}}, {Key: "nil"}, {Key: flow.HeaderRedrives, Value: []byte("2")}},
	}
	want := []flow.Letter{
		{Flow: "test", Redrives: 2, DeadLetter: flow.DeadLetter{
			ClusterID: "c9", Partition: flow.Partition{Topic: "orders", ID: 7}, TopicID: "id", Stage: flow.StageDecode, Class: "type", Column: "a", Message: "b", Record: &rec,
		}},
		{Flow: "test", DeadLetter: flow.DeadLetter{
			ClusterID: "c9", Partition: flow.Partition{Topic: "orders", ID: 7}, Stage: flow.StageWrite, Class: "tombstone", Record: &flow.Record{Offset: 3},
		}},
	}
	other := want[1]
	other.Flow = "another"
	if err := r.sink.Put(t.Context(), r.setup, append(want[:2:2], other)); err != nil {
		t.Fatal(err)
	}
	var got []flow.Letter
	err := r.sink.Letters(t.Context(), r.setup, func(l *flow.Letter) error {
		if l.Since.Before(since) || l.Since.After(time.Now().Add(time.Second)) {
			t.Errorf("since %s", l.Since)
		}
		if l.Place.Topic != "public.penstock_dead_letter" || l.Place.ID != 0 || len(got) > 0 && l.Place.Offset <= got[len(got)-1].Place.Offset {
			t.Errorf("place %+v", l.Place)
		}
		l.Since = time.Time{}
		got = append(got, *l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		want[i].Place = got[i].Place
	}
	want[1].Record.Headers = []flow.Header{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	stop := errors.New("stop")
	if err := r.sink.Letters(t.Context(), r.setup, func(*flow.Letter) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of the callback", err)
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

// The same letter twice is one letter: it is shown, taken, released and removed as one.
func TestALetterThatIsThereTwiceIsOne(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.keep("", 1, 2, 1, 3)
	r.keep("1", 1, 1)
	r.keep("2", 1)
	r.wantShown("1/0/", "2/0/", "3/0/", "1/1/", "1/2/")
	r.take("a", r.places(1)[:1])
	r.wantShown("1/0/a", "2/0/", "3/0/", "1/1/", "1/2/")
	r.want("SELECT count(*) FROM penstock_dead_letter WHERE job = 'a'", "2")
	if err := r.sink.Release(t.Context(), r.setup, "a", r.places(1)[:1]); err != nil {
		t.Fatal(err)
	}
	r.want("SELECT count(*) FROM penstock_dead_letter WHERE job = 'a'", "0")
	r.take("a", r.places(1)[:1])
	r.keep("", 1) // the flow was set back meanwhile
	if err := r.sink.Remove(t.Context(), r.setup, "a", r.places(1)[:1]); err != nil {
		t.Fatal(err)
	}
	r.wantShown("2/0/", "3/0/", "1/1/", "1/2/")
}

func TestTakingIsAllOrNone(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.sink.cfg.URL = testservice.PgBouncer(t, r.url)
	r.keep("", 1, 2, 3, 4)
	all := r.places()
	r.take("a", all[1:2])
	r.take("a", all[1:2]) // the job goes on after it was killed
	var taken *flow.TakenError
	if err := r.sink.Take(t.Context(), r.setup, "b", all); !errors.As(err, &taken) || taken.Job != "a" || taken.Place != all[1] {
		t.Fatalf("got %v, want the letter that a has", err)
	}
	r.wantShown("1/0/", "2/0/a", "3/0/", "4/0/")
	for _, f := range []func(context.Context, flow.Setup, string, []flow.Position) error{r.sink.Release, r.sink.Remove} {
		if err := f(t.Context(), r.setup, "b", all); err != nil {
			t.Fatal(err)
		}
	}
	r.wantShown("1/0/", "2/0/a", "3/0/", "4/0/")
	for range 2 { // the second time there is nothing left to do
		if err := r.sink.Remove(t.Context(), r.setup, "a", all); err != nil {
			t.Fatal(err)
		}
	}
	r.wantShown("1/0/", "3/0/", "4/0/")
	if err := r.sink.Take(t.Context(), r.setup, "b", all); !errors.As(err, &taken) || taken.Job != "" || taken.Place != all[1] {
		t.Fatalf("got %v, want the letter that is gone", err)
	}
	r.wantShown("1/0/", "3/0/", "4/0/")
}

func TestTwoJobsNeverHaveTheSameLetter(t *testing.T) {
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

// Large letters are read a few at a time, and none is left out.
func TestLargeLettersAreShown(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.exec(`INSERT INTO penstock_dead_letter (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, value, headers, stage, class, column_name, message)
		SELECT 'test', 'c1', 'orders', '', 0, n / 2, now(), decode(repeat('00', 5000000), 'hex'), '[]', 'write', 'type', '', '' FROM generate_series(1, 6) n`)
	r.wantShown("0/0/", "1/0/", "2/0/", "3/0/")
}

// A table of an earlier version works as before; the first job adds what jobs need.
func TestJobsWorkWithTheTableOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	r := newLetters(t)
	r.exec("ALTER TABLE penstock_dead_letter DROP COLUMN job")
	r.keep("", 1)
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
	r.keep("", 1)
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
