package redrive

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
)

const (
	partitions = 4
	// badEvery makes every so many-th record one that fails every time.
	badEvery = 100
)

// world is a flow of which every record has become a dead letter, because its file was wrong.
type world struct {
	t       *testing.T
	name    string // of flow, topic and group
	n       int
	brokers string
	client  *kgo.Client // writes to partitions by number
	admin   *kadm.Client
	db      *sql.DB // of rows and positions; nil if these are in Kafka
	path    string  // of the flow file
	// rest is the file's sink and what follows.
	rest string
}

func newWorld(t *testing.T, n int) *world {
	t.Helper()
	w := &world{t: t, name: testservice.Name(t), n: n, brokers: testservice.Kafka(t)}
	w.path = filepath.Join(t.TempDir(), "flow.yaml")
	var err error
	if w.client, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(w.brokers, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	if _, err := w.admin.CreateTopic(t.Context(), partitions, -1, nil, w.name); err != nil {
		t.Fatal(err)
	}
	testservice.AwaitTopic(t, w.admin, w.name, partitions)
	return w
}

// postgres makes the sink a table, and returns the database's URL.
func (w *world) postgres() string {
	w.t.Helper()
	url := testservice.Postgres(w.t)
	var err error
	if w.db, err = sql.Open("pgx", url); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.db.Close() })
	if _, err := w.db.ExecContext(w.t.Context(), "CREATE TABLE t (seq bigint, part int, off bigint)"); err != nil {
		w.t.Fatal(err)
	}
	w.rest = fmt.Sprintf("sink: {postgres: {url: %q, table: public.t}}\n", url)
	return url
}

// file writes the flow file. With the wrong one the decoder finds no number.
func (w *world) file(path string) {
	w.t.Helper()
	text := fmt.Sprintf(`flow: %[1]s
source: {kafka: {brokers: [%[2]s], topics: [%[1]s], start: earliest, group: %[1]s}}
decode:
  json:
    columns:
      seq: {type: int8, path: %[3]s, required: true}
      part: {type: int4, from: partition}
      off: {type: int8, from: offset}
%[4]sbatch: {records: %[6]d}
retry: {initial: 20ms, max: 500ms}
admin: {address: "127.0.0.1:%[5]d"}
`, w.name, w.brokers, path, w.rest, testservice.Port(w.t), w.n/20)
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// fail lets every record become a dead letter, and corrects the file.
func (w *world) fail() {
	w.t.Helper()
	records := make([]*kgo.Record, w.n)
	for i := range records {
		value := fmt.Appendf(nil, `{"seq":%d}`, i)
		if i%badEvery == badEvery-1 {
			value = fmt.Appendf(nil, `{"seq":"no. %d"}`, i)
		}
		records[i] = &kgo.Record{Topic: w.name, Partition: int32(i % partitions), Value: value} //nolint:gosec // few
	}
	if err := w.client.ProduceSync(w.t.Context(), records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	w.file("number")
	p := start(w.t, "", "run", w.path)
	poll(w.t, "the flow reads everything", func() bool { return w.position() == w.n })
	p.stop()
	w.file("seq")
}

// position is how many records the flow has behind it.
func (w *world) position() (n int) {
	if w.db != nil {
		// There is no such table at first.
		_ = w.db.QueryRowContext(w.t.Context(), "SELECT coalesce(sum(next_offset), 0) FROM penstock_checkpoint WHERE flow = $1", w.name).Scan(&n)
		return n
	}
	offsets, err := w.admin.FetchOffsets(w.t.Context(), w.name)
	if err != nil {
		return 0
	}
	offsets.Each(func(o kadm.OffsetResponse) { n += int(max(0, o.At)) })
	return n
}

func (w *world) rows() (n int) {
	w.t.Helper()
	if err := w.db.QueryRowContext(w.t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// redrive kills a redrive at each of the failpoints, one after the other, and once at any moment,
// and lets the last one come to its end.
func (w *world) redrive(failpoints ...string) {
	w.t.Helper()
	command := []string{"dlq", "redrive", w.path, "--yes", "-o", "json"}
	for _, point := range failpoints {
		name, _, _ := strings.Cut(point, "=")
		p := start(w.t, point, command...)
		if !p.wait() || !strings.Contains(p.stderr.String(), "failpoint "+name) {
			w.t.Fatalf("killed at %s: it was not: %v\n%s%s", point, p.err, p.stdout.String(), p.stderr.String())
		}
		if name == "redrive.after_take" && w.db != nil {
			w.killAnywhere(command)
		}
	}
	var report struct {
		Plan   struct{ Job string }
		Result struct {
			Left int
			Dead map[string]int `json:"dead_again"`
		}
	}
	w.unmarshal(done(w.t, command...), &report)
	if report.Plan.Job == "" || report.Result.Left != 0 {
		w.t.Errorf("the last process has not gone on with the job: %+v", report)
	}
}

// killAnywhere kills processes while the rows grow.
func (w *world) killAnywhere(command []string) {
	w.t.Helper()
	for range 2 {
		before := w.rows()
		p := start(w.t, "", append(command, fmt.Sprintf("--rate=%d", w.n/10))...)
		poll(w.t, "rows grow", func() bool { return w.rows() > before })
		p.kill()
		if !p.wait() {
			w.t.Fatalf("it ended before it was killed: %v\n%s", p.err, p.stderr.String())
		}
	}
}

func (w *world) unmarshal(b []byte, to any) {
	w.t.Helper()
	if err := json.Unmarshal(b, to); err != nil {
		w.t.Fatalf("%v:\n%s", err, b)
	}
}

// quarantine redrives what fails every time until it is left alone.
func (w *world) quarantine() {
	w.t.Helper()
	bad := w.n / badEvery
	for n := 2; n <= 4; n++ {
		var report struct {
			Plan   struct{ Letters, Quarantined int }
			Result *struct {
				Redriven int
				Dead     map[string]int `json:"dead_again"`
			}
		}
		w.unmarshal(done(w.t, "dlq", "redrive", w.path, "--yes", "-o", "json"), &report)
		switch {
		case n <= 3 && (report.Plan.Letters != bad || report.Result == nil || report.Result.Redriven != 0 || report.Result.Dead["type"] != bad):
			w.t.Errorf("redrive %d: %+v, %+v; want %d letters that fail", n, report.Plan, report.Result, bad)
		case n > 3 && (report.Plan.Letters != 0 || report.Plan.Quarantined != bad || report.Result != nil):
			w.t.Errorf("redrive %d: %+v, %+v; want %d in quarantine", n, report.Plan, report.Result, bad)
		}
	}
	w.listed(bad)
}

// listed checks that there are the letters that fail every time, so many of them in quarantine, and no job.
func (w *world) listed(quarantined int) {
	w.t.Helper()
	var list struct {
		Letters, Quarantined int
		Jobs                 []struct{} `json:"unfinished_jobs"`
	}
	w.unmarshal(done(w.t, "dlq", "list", w.path, "-o", "json"), &list)
	if list.Letters != w.n/badEvery || list.Quarantined != quarantined || len(list.Jobs) != 0 {
		w.t.Errorf("listed: %+v; want %d letters, %d of them quarantined, and no job", list, w.n/badEvery, quarantined)
	}
}

// verify checks that every letter is one row, with the position of its record, or fails every time.
func (w *world) verify() {
	w.t.Helper()
	var rows, seqs, places, wrong, checkpoints int
	err := w.db.QueryRowContext(w.t.Context(), `SELECT count(*), count(DISTINCT seq), count(DISTINCT (part, off)),
		count(*) FILTER (WHERE seq % $1 = $1 - 1 OR seq NOT BETWEEN 0 AND $2 - 1 OR part <> seq % $3 OR off <> seq / $3),
		(SELECT count(*) FROM penstock_checkpoint WHERE flow <> $4) FROM t`, badEvery, w.n, partitions, w.name).Scan(&rows, &seqs, &places, &wrong, &checkpoints)
	if err != nil {
		w.t.Fatal(err)
	}
	if want := w.n - w.n/badEvery; rows != want || seqs != want || places != want || wrong != 0 {
		w.t.Errorf("%d rows, %d different, %d places, %d wrong; want %d of each and 0", rows, seqs, places, wrong, want)
	}
	if checkpoints != 0 {
		w.t.Errorf("%d rows of checkpoints of redrives are left", checkpoints)
	}
}

func TestLettersOfATopicIntoATable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100_000)
	w.postgres()
	w.rest += fmt.Sprintf("dead_letters: {kafka: {topic: %s.dead, create: true}}\n", w.name)
	w.fail()
	w.redrive("redrive.after_take=kill", "sink.before_commit=kill@3", "redrive.after_put=kill")
	w.listed(0)
	w.verify()
}

func TestLettersOfATableIntoATable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10_000)
	w.postgres()
	w.fail()
	w.redrive("redrive.after_take=kill", "sink.before_commit=kill@2", "sink.after_commit=kill@2", "redrive.before_put=kill", "redrive.after_put=kill", "redrive.before_remove=kill")
	w.quarantine()
	w.verify()
	var left int
	if err := w.db.QueryRowContext(t.Context(), "SELECT count(*) FROM penstock_dead_letter").Scan(&left); err != nil || left != w.n/badEvery {
		t.Errorf("%d rows of dead letters, %v; want %d", left, err, w.n/badEvery)
	}
}

func TestDropKilledInTheMiddleHasExportedAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1_000)
	w.postgres()
	w.fail()
	export := filepath.Join(t.TempDir(), "letters.ndjson")
	command := []string{"dlq", "drop", w.path, "--yes", "--export", export}
	for _, point := range []string{"drop.after_take", "drop.before_remove"} {
		if p := start(t, point+"=kill", command...); !p.wait() {
			t.Fatalf("killed at %s: it was not: %v\n%s", point, p.err, p.stderr.String())
		}
		if _, err := os.Stat(export); (err == nil) != (point == "drop.before_remove") {
			t.Errorf("killed at %s: the file of the export: %v", point, err)
		}
	}
	// A topic's letters are removed partition by partition. It is killed between two.
	if _, err := w.db.ExecContext(t.Context(), "DELETE FROM penstock_dead_letter WHERE partition < 2"); err != nil {
		t.Fatal(err)
	}
	done(t, command...)
	lines, err := os.ReadFile(export)
	if n := strings.Count(string(lines), "\n"); err != nil || n != w.n {
		t.Errorf("%d letters were exported, want %d: %v", n, w.n, err)
	}
	if left := done(t, "dlq", "list", w.path); !strings.Contains(string(left), "no such dead letters") {
		t.Errorf("listed in the end: %s", left)
	}
}

func TestLettersOfATopicIntoATopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5_000)
	copied := w.name + ".copy"
	w.rest = fmt.Sprintf("sink: {kafka: {topic: %s, dead_letter_topic: %s.dead, create: true}}\n", copied, w.name)
	w.fail()
	w.redrive("redrive.after_take=kill", "sink.before_offsets=kill@2", "sink.before_commit=kill@2", "sink.after_commit=kill@1", "redrive.after_put=kill", "redrive.before_remove=kill")
	w.quarantine()

	ends, err := w.admin.ListCommittedOffsets(t.Context(), copied)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(w.brokers, ",")...), kgo.ConsumeTopics(copied), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	seen := map[int]int{}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left++
		}
	})
	for left > 0 {
		fetches := reader.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := ends.Lookup(copied, r.Partition); r.Offset == end.Offset-1 {
				left--
			}
			if r.Attrs.IsControl() {
				return
			}
			var v struct{ Seq int }
			if err := json.Unmarshal(r.Value, &v); err != nil || int(r.Partition) != v.Seq%partitions {
				t.Errorf("%s in partition %d: %v", r.Value, r.Partition, err)
			}
			seen[v.Seq]++
		})
	}
	for i := range w.n {
		if want := min(1, (i+1)%badEvery); seen[i] != want {
			t.Errorf("%d is there %d times, want %d", i, seen[i], want)
		}
	}
	groups, err := w.admin.ListGroups(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for name := range groups {
		if strings.HasPrefix(name, w.name+".redrive.") {
			t.Errorf("group %s is left", name)
		}
	}
}
