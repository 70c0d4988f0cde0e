package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func TestLetterConformance(t *testing.T) {
	t.Parallel()
	flowtest.RunLetters(t, flowtest.LettersHarness{New: func(t testing.TB) *flowtest.Letters {
		r := newLetters(t)
		log := func(cfg SinkConfig) func(testing.TB) flow.LetterLog {
			return func(t testing.TB) flow.LetterLog { return letterLog(t, cfg).sink }
		}
		return &flowtest.Letters{Log: log(r.sink.cfg), Missing: log(testConfig(t))}
	}})
}

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
func (r *letterRig) keep(offsets ...int64) {
	r.t.Helper()
	var letters []flow.Letter
	for _, o := range offsets {
		l := flow.Letter{Flow: "f", DeadLetter: flow.DeadLetter{
			ClusterID: "c1", Partition: flow.Partition{Topic: "orders"}, TopicID: "id", Stage: flow.StageWrite, Class: "type", Column: "temp", Message: "m",
			Record: &flow.Record{Offset: o, Timestamp: 1_700_000_000_000_000, Key: []byte("k"), Value: []byte("v")},
		}}
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

// Pages that are always full, since the flow fails faster than anybody reads, are not read for ever.
func TestLettersEndWithWhatThereWas(t *testing.T) {
	r := newLetters(t)
	page := fmt.Sprintf(`INSERT INTO penstock_dead_letter (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, value, headers, stage, class, column_name, message, created_at)
		WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < %d)
		SELECT 'f', 'c1', 'orders', '', 0, n + (SELECT count(*) FROM penstock_dead_letter), '', 'v', '[]', 'write', 'type', '', '', '' FROM n`, letterPage)
	r.exec(page)
	n := 0
	err := r.sink.Letters(t.Context(), r.setup, func(*flow.Letter) error {
		if n++; n%letterPage == 1 && n < 3*letterPage {
			r.exec(page)
		}
		return nil
	})
	if err != nil || n != letterPage {
		t.Errorf("%d letters were shown, %v, want %d", n, err, letterPage)
	}
}

// A table of an earlier version gets what jobs need.
func TestJobsWorkWithTheTableOfAnEarlierVersion(t *testing.T) {
	cfg := testConfig(t)
	flowRig := open1(t, cfg, telemetryFields)
	r := letterLog(t, cfg)
	r.exec("DROP INDEX penstock_dead_letter_position")
	r.exec("ALTER TABLE penstock_dead_letter DROP COLUMN job")
	r.keep(1)
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
