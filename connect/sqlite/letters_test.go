package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/flow"
)

// letterRig is a sink of which no method but those of the letter log is called.
type letterRig struct {
	t     testing.TB
	sink  *Sink
	setup flow.Setup
}

// newLetters is a file with the dead-letter table as Open makes it.
func newLetters(t testing.TB) *letterRig {
	t.Helper()
	cfg := testConfig(t)
	open1(t, cfg, telemetryFields)
	return letterLog(t, cfg)
}

func letterLog(t testing.TB, cfg SinkConfig) *letterRig {
	t.Helper()
	cfg.BusyTimeout = 10 * time.Second
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &letterRig{t: t, sink: s, setup: testSetup(nil)}
}

func (r *letterRig) exec(q string) {
	r.t.Helper()
	db, err := sql.Open("sqlite", "file:"+r.sink.cfg.Path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(r.t.Context(), q); err != nil {
		r.t.Fatalf("%s: %v", q, err)
	}
}

// keep puts letters of f/orders[0] at the offsets.
func (r *letterRig) keep(redrives string, offsets ...int64) {
	r.t.Helper()
	var letters []flow.Letter
	for _, o := range offsets {
		l := flow.Letter{Flow: "f", DeadLetter: flow.DeadLetter{
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

// wantShown compares the letters as offset/redrives/job.
func (r *letterRig) wantShown(want ...string) {
	r.t.Helper()
	var got []string
	err := r.sink.Letters(r.t.Context(), r.setup, func(l *flow.Letter) error {
		got = append(got, fmt.Sprintf("%d/%d/%s", l.Record.Offset, l.Redrives, l.Job))
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if !slices.Equal(got, want) {
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
	r := newLetters(t)
	r.wantShown()
	rec := flow.Record{
		Offset: 1 << 40, Timestamp: 1_700_000_000_123_456, Key: []byte{}, Value: []byte{0, 0xff, '\\'},
		Headers: []flow.Header{{Key: "h", Value: []byte{0xfe}}, {Key: "nil"}, {Key: flow.HeaderRedrives, Value: []byte("2")}},
	}
	want := []flow.Letter{
		{Flow: "f", Redrives: 2, DeadLetter: flow.DeadLetter{
			ClusterID: "c9", Partition: flow.Partition{Topic: "orders", ID: 7}, TopicID: "id", Stage: flow.StageDecode, Class: "type", Column: "a", Message: "b", Record: &rec,
		}},
		{Flow: "f", DeadLetter: flow.DeadLetter{
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
		if age := time.Since(l.Since); age < 0 || age > time.Minute {
			t.Errorf("since %s", l.Since)
		}
		l.Since = time.Time{}
		got = append(got, *l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].Place = flow.Position{Partition: flow.Partition{Topic: "penstock_dead_letter"}, Offset: int64(i + 1), LeaderEpoch: -1}
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
	r := letterLog(t, testConfig(t))
	r.wantShown()
	place := []flow.Position{r.sink.placeOf(1)}
	var taken *flow.TakenError
	if err := r.sink.Take(t.Context(), r.setup, "j", place); !errors.As(err, &taken) {
		t.Errorf("Take: %v", err)
	}
	if err := r.sink.Remove(t.Context(), r.setup, "j", place); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := r.sink.Put(t.Context(), r.setup, make([]flow.Letter, 1)); flow.ClassOf(err) != flow.ClassFatal {
		t.Errorf("Put: %v", err)
	}
	if err := r.sink.Forget(t.Context(), r.setup); err != nil {
		t.Errorf("Forget: %v", err)
	}
	if _, err := os.Stat(r.sink.cfg.Path); err == nil {
		t.Error("the file was made")
	}
}

// The same letter twice is one letter: it is shown, taken, released and removed as one.
func TestALetterThatIsThereTwiceIsOne(t *testing.T) {
	r := newLetters(t)
	r.keep("", 1, 2, 1, 3)
	r.keep("1", 1, 1)
	r.keep("2", 1)
	r.wantShown("1/0/", "2/0/", "3/0/", "1/1/", "1/2/")
	taken := func() []string {
		return query(t, r.sink.cfg.Path, "SELECT count(*) FROM penstock_dead_letter WHERE job = 'a'")
	}
	r.take("a", r.places(1)[:1])
	r.wantShown("1/0/a", "2/0/", "3/0/", "1/1/", "1/2/")
	if got := taken(); got[0] != "2" {
		t.Errorf("%v rows were taken, want 2", got)
	}
	if err := r.sink.Release(t.Context(), r.setup, "a", r.places(1)[:1]); err != nil {
		t.Fatal(err)
	}
	if got := taken(); got[0] != "0" {
		t.Errorf("%v rows were not released", got)
	}
	r.take("a", r.places(1)[:1])
	r.keep("", 1) // the flow was set back meanwhile
	if err := r.sink.Remove(t.Context(), r.setup, "a", r.places(1)[:1]); err != nil {
		t.Fatal(err)
	}
	r.wantShown("2/0/", "3/0/", "1/1/", "1/2/")
}

func TestTakingIsAllOrNone(t *testing.T) {
	r := newLetters(t)
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
	if err := r.sink.Take(t.Context(), r.setup, "b", all); !errors.As(err, &taken) || taken.Job != "" || taken.Place != all[1] {
		t.Fatalf("got %v, want the letter that is gone", err)
	}
	r.wantShown("1/0/", "3/0/", "4/0/")
}

func TestTwoJobsNeverHaveTheSameLetter(t *testing.T) {
	r := newLetters(t)
	r.exec(`INSERT INTO penstock_dead_letter (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, value, headers, stage, class, column_name, message, created_at)
		WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1200)
		SELECT 'f', 'c1', 'orders', '', 0, n, '', zeroblob(100), '[]', 'write', 'type', '', '', '' FROM n`)
	all := r.places()
	if len(all) != 1200 {
		t.Fatalf("%d letters are shown", len(all))
	}
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = r.sink.Take(t.Context(), r.setup, fmt.Sprint("job", i), all) })
	}
	wg.Wait()
	won := slices.Index(errs, nil)
	for i, err := range errs {
		var taken *flow.TakenError
		if i != won && (!errors.As(err, &taken) || taken.Job != fmt.Sprint("job", won)) {
			t.Errorf("job%d: %v", i, err)
		}
	}
	if err := r.sink.Remove(t.Context(), r.setup, fmt.Sprint("job", won), all); err != nil {
		t.Fatal(err)
	}
	r.wantShown()
}

// Large letters are read a few at a time, and none is left out.
func TestLargeLettersAreShown(t *testing.T) {
	r := newLetters(t)
	r.exec(`INSERT INTO penstock_dead_letter (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, value, headers, stage, class, column_name, message, created_at)
		SELECT 'f', 'c1', 'orders', '', 0, value / 2, '', zeroblob(3000000), '[]', 'write', 'type', '', '', '' FROM json_each('[1,2,3,4,5,6]')`)
	r.wantShown("0/0/", "1/0/", "2/0/", "3/0/")
}

// A table of an earlier version gets what jobs need.
func TestJobsWorkWithTheTableOfAnEarlierVersion(t *testing.T) {
	cfg := testConfig(t)
	flowRig := open1(t, cfg, telemetryFields)
	r := letterLog(t, cfg)
	r.exec("DROP INDEX penstock_dead_letter_position")
	r.exec("ALTER TABLE penstock_dead_letter DROP COLUMN job")
	r.keep("", 1)
	r.take("a", r.places())
	r.wantShown("1/0/a")
	flowRig.write(row{device: "d", seq: 1}, row{device: "", seq: 2})
	if got := query(t, cfg.Path, "SELECT count(*) FROM penstock_dead_letter"); got[0] != "2" {
		t.Errorf("the flow that runs has kept no letter beside: %v", got)
	}
}

const checkpointRows = "SELECT topic, partition, topic_id, next_offset, leader_epoch FROM penstock_checkpoint ORDER BY 1, 2"

// The process that runs all the same is fenced, and goes on at the new position.
func TestSettingPositionsFencesWhoeverRuns(t *testing.T) {
	cfg := testConfig(t)
	r := open1(t, cfg, telemetryFields)
	r.write(row{device: "d", seq: 1})
	other := letterLog(t, cfg).sink
	at := func(partition int32, offset int64) flow.Position {
		return flow.Position{Partition: flow.Partition{Topic: "telemetry", ID: partition}, TopicID: "id2", Offset: offset, LeaderEpoch: 4}
	}
	if err := other.SetPositions(t.Context(), testSetup(nil), []flow.Position{at(0, 40), at(2, 7)}); err != nil {
		t.Fatal(err)
	}
	r.want(checkpointRows, "telemetry|0|id2|40|4", "telemetry|2|id2|7|4")
	if err := r.w.Write(t.Context(), r.batch(row{device: "d", seq: 2})); flow.ClassOf(err) != flow.ClassFenced {
		t.Errorf("got %v, want a fence", err)
	}
	r.claim()
	if r.at.Offset != 40 {
		t.Errorf("goes on at %d", r.at.Offset)
	}
	if err := other.SetPositions(t.Context(), testSetup(nil), []flow.Position{at(0, -2)}); err == nil {
		t.Error("a negative offset was set")
	}
	setup := testSetup(nil)
	setup.Source = "group h"
	if err := other.SetPositions(t.Context(), setup, []flow.Position{at(0, 1)}); flow.ClassOf(err) != flow.ClassFatal {
		t.Errorf("another flow's positions were set: %v", err)
	}
}

func TestAFlowStartsWhereItWasSetBeforeItEverRan(t *testing.T) {
	cfg := testConfig(t)
	err := letterLog(t, cfg).sink.SetPositions(t.Context(), testSetup(nil), []flow.Position{{Partition: part0, TopicID: "id", Offset: 40, LeaderEpoch: -1}})
	if err != nil {
		t.Fatal(err)
	}
	r := open1(t, cfg, telemetryFields)
	if r.at.Offset != 40 {
		t.Errorf("starts at %d", r.at.Offset)
	}
	r.write(row{device: "d", seq: 1})
	r.want("SELECT target FROM penstock_flow", "telemetry")
}

func TestForgottenFlowsLeaveNothing(t *testing.T) {
	cfg := testConfig(t)
	r := open1(t, cfg, telemetryFields)
	if err := r.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := letterLog(t, cfg).sink.Forget(t.Context(), testSetup(nil)); err != nil {
			t.Fatal(err)
		}
	}
	r.want("SELECT flow FROM penstock_flow UNION SELECT flow FROM penstock_checkpoint")
	if _, err := os.Stat(r.sink.lockPath("f")); err == nil {
		t.Error("the lock file is left")
	}
}
