package demo

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/flow"
)

// childArg makes this test binary what the demo kills: a program that runs a
// flow file.
const childArg = "run-flow-for-the-demo"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		if err := runFlow(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func runFlow(file string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	registry, err := all.Registry()
	if err != nil {
		return err
	}
	f, err := config.LoadFile(file, config.Options{Registry: registry})
	if err != nil {
		return err
	}
	cfg, err := f.Build(nil, nil)
	if err != nil {
		return err
	}
	fl, err := flow.New(cfg)
	if err != nil {
		return err
	}
	return fl.Run(ctx)
}

func testOptions(t *testing.T, out *output) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return Options{
		Dir: filepath.Join(dir, "data"), File: filepath.Join(dir, "telemetry.yaml"), Records: 12_000, Port: 22092,
		Command: []string{self, childArg}, Program: "penstock", Out: out,
	}
}

// output collects what is shown, and tells when a text appears.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	seen chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b)
	if o.want != "" && strings.Contains(o.text.String(), o.want) {
		close(o.seen)
		o.want = ""
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out output
	o := testOptions(t, &out)
	if err := Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Log(out.String())
	for _, want := range []string{"Verified", "SIGKILL", "out of order          0", "lost                  0", "penstock run " + o.File, "malformed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	// Again, with a file that was edited: it starts over, and leaves the file alone.
	text, err := os.ReadFile(o.File)
	if err != nil {
		t.Fatal(err)
	}
	edited := slices.Concat(text, []byte("# mine\n"))
	if err := os.WriteFile(o.File, edited, 0o644); err != nil { //nolint:gosec // a test's file
		t.Fatal(err)
	}
	execute(t, o.database(), "CREATE TABLE mine (a TEXT)", "INSERT INTO mine VALUES ('precious')",
		"INSERT INTO penstock_checkpoint SELECT 'other', cluster_id, topic, partition, topic_id, 1000000000, leader_epoch, owner_epoch, owner_backend, updated_at FROM penstock_checkpoint",
		`INSERT INTO penstock_dead_letter SELECT id + 1000000, 'other', cluster_id, topic, topic_id, partition, "offset", timestamp, "key", value, headers, stage, class, column_name, message, created_at, job FROM penstock_dead_letter`)
	var second output
	o.Out = &second
	if err := Run(ctx, o); err != nil {
		t.Fatalf("again: %v\n%s", err, &second)
	}
	if got, err := os.ReadFile(o.File); err != nil || !bytes.Equal(got, edited) {
		t.Errorf("the edited file was changed: %v\n%s", err, got)
	}
	if !strings.Contains(second.String(), "has been edited") {
		t.Errorf("nothing is said about the edited file:\n%s", &second)
	}
	for _, want := range []string{"Replaced  the last demo", "penstock run " + filepath.Join(o.Dir, "demo.yaml")} {
		if !strings.Contains(second.String(), want) {
			t.Errorf("the second report does not say %q:\n%s", want, &second)
		}
	}
	for query, want := range map[string]int{
		"SELECT count(*) FROM mine": 1, "SELECT count(*) FROM telemetry": 12_000 - 60,
		"SELECT count(*) FROM penstock_checkpoint WHERE flow = 'other'":  partitions,
		"SELECT count(*) FROM penstock_dead_letter WHERE flow = 'other'": 60,
	} {
		if got := count(t, o.database(), query); got != want {
			t.Errorf("after the second demo %s gives %d, want %d", query, got, want)
		}
	}
}

func execute(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func count(t *testing.T, path, query string) (n int) {
	t.Helper()
	db, err := openReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestForgetLeavesWhatIsNotOfTheDemo(t *testing.T) {
	const flows = "CREATE TABLE penstock_flow (flow TEXT, target TEXT)"
	for name, c := range map[string]struct {
		make []string
		want string
	}{
		"a table of somebody else":  {[]string{"CREATE TABLE telemetry (a)", "INSERT INTO telemetry VALUES (1)"}, "are yours"},
		"another flow of the name":  {[]string{flows, "INSERT INTO penstock_flow VALUES ('telemetry', 'vehicles')", "CREATE TABLE vehicles (a)"}, "writes to table vehicles"},
		"rows that no flow wrote":   {[]string{flows, "CREATE TABLE telemetry (a)", "INSERT INTO telemetry VALUES (1)"}, "are yours"},
		"other tables, and no demo": {[]string{"CREATE TABLE mine (a)"}, ""},
		"a table without rows":      {[]string{flows, "CREATE TABLE telemetry (a)"}, ""},
	} {
		path := filepath.Join(t.TempDir(), "x.db")
		execute(t, path, c.make...)
		before := count(t, path, "SELECT count(*) FROM sqlite_master WHERE name <> 'telemetry'")
		left, err := forget(t.Context(), path)
		if c.want == "" && (err != nil || left) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, %v, want %q", name, left, err, c.want)
		}
		if after := count(t, path, "SELECT count(*) FROM sqlite_master WHERE name <> 'telemetry'"); after != before {
			t.Errorf("%s: %d tables of %d are left", name, after, before)
		}
		if c.want != "" && strings.Contains(strings.Join(c.make, ";"), "INTO telemetry") && count(t, path, "SELECT count(*) FROM telemetry") != 1 {
			t.Errorf("%s: the row is gone", name)
		}
	}
	path := filepath.Join(t.TempDir(), "x.db")
	text := []byte(strings.Repeat("not a database at all\n", 100))
	if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // a test's file
		t.Fatal(err)
	}
	if _, err := forget(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is not a SQLite database") {
		t.Errorf("a file that is no database: got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestRunStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := output{want: "producing", seen: make(chan struct{})}
	o := testOptions(t, &out)
	go func() {
		<-out.seen
		cancel()
	}()
	if err := Run(ctx, o); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v, want ErrStopped", err)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Port: 99_999}, {Port: -1}, {Records: 10}} {
		if err := o.Validate(); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestTheEditedFileIsComparedWithThePort(t *testing.T) {
	var out output
	o := testOptions(t, &out)
	if err := os.WriteFile(o.File, []byte("brokers: [127.0.0.1:1]\n"), 0o644); err != nil { //nolint:gosec // a test's file
		t.Fatal(err)
	}
	o.warnOfAddress(newDisplay(&out), "127.0.0.1:1")
	if out.String() != "" {
		t.Errorf("the right address: %s", &out)
	}
	if o.warnOfAddress(newDisplay(&out), "127.0.0.1:2"); !strings.Contains(out.String(), "127.0.0.1:2") {
		t.Errorf("another address: %q", &out)
	}
}

func TestRunSaysWhyTheFlowEnded(t *testing.T) {
	var out output
	o := testOptions(t, &out)
	o.Records = 1000
	o.Command = []string{"sh", "-c", "echo no such thing >&2; exit 3"}
	err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "no such thing") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the child's last words", err)
	}
}

func TestDev(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := output{want: "Ctrl-C", seen: make(chan struct{})}
	o := testOptions(t, &out)
	done := make(chan error, 1)
	go func() { done <- Dev(ctx, o) }()
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("ended at once: %v", err)
	}
	if err := Dev(ctx, o); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second one in the same directory: got %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAuditFindsWhatIsWrong(t *testing.T) {
	l := &ledger{ids: []string{"a", "b"}, partitions: make([][]sent, 2)}
	l.add(0, 0, sent{vehicle: 0, seq: 1})
	l.add(0, 1, sent{vehicle: 0, seq: 2})
	l.add(0, 2, sent{vehicle: 0, seq: 3, malformed: true})
	l.add(1, 0, sent{vehicle: 1, seq: 1})
	good := func(a *audit) {
		a.row(0, 0, "a", 1)
		a.row(1, 0, "b", 1)
		a.row(0, 1, "a", 2)
		a.deadLetter(0, 2, "type")
	}
	for name, c := range map[string]struct {
		feed func(a *audit)
		want string
	}{
		"right":        {good, ""},
		"lost":         {func(a *audit) { a.row(0, 0, "a", 1); a.row(1, 0, "b", 1); a.deadLetter(0, 2, "type") }, "1 records lost"},
		"doubled":      {func(a *audit) { good(a); a.row(1, 0, "b", 1) }, "1 records doubled"},
		"out of order": {func(a *audit) { a.row(0, 1, "a", 2); a.row(0, 0, "a", 1); a.row(1, 0, "b", 1); a.deadLetter(0, 2, "t") }, "1 rows out of order"},
		"misplaced":    {func(a *audit) { a.row(0, 0, "a", 1); a.row(0, 1, "a", 2); a.row(0, 2, "a", 3); a.row(1, 0, "b", 1) }, "malformed ones among the rows"},
		"good as dead": {func(a *audit) {
			a.row(0, 0, "a", 1)
			a.row(0, 1, "a", 2)
			a.deadLetter(0, 2, "t")
			a.deadLetter(1, 0, "t")
		}, "good records among"},
		"strange":   {func(a *audit) { good(a); a.row(5, 0, "a", 9) }, "nobody produced"},
		"other row": {func(a *audit) { a.row(0, 0, "b", 1); a.row(0, 1, "a", 2); a.row(1, 0, "b", 1); a.deadLetter(0, 2, "t") }, "nobody produced"},
	} {
		a := newAudit(l)
		c.feed(a)
		err := a.verdict()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestFleet(t *testing.T) {
	f, again := newFleet(7, time.UnixMilli(0)), newFleet(7, time.UnixMilli(0))
	size, bad, last := 0, 0, map[int]int64{}
	const n = 6000
	for range n {
		r := f.next()
		if other := again.next(); !bytes.Equal(r.value, other.value) {
			t.Fatalf("the same seed made %s and %s", r.value, other.value)
		}
		if r.seq <= last[r.vehicle] {
			t.Fatalf("vehicle %d: sequence %d after %d", r.vehicle, r.seq, last[r.vehicle])
		}
		last[r.vehicle] = r.seq
		if r.malformed {
			bad++
			continue
		}
		if size += len(r.value); !json.Valid(r.value) {
			t.Fatalf("not JSON: %s", r.value)
		}
	}
	if mean := size / (n - bad); mean < 480 || mean > 560 {
		t.Errorf("records have %d bytes, want about 512", mean)
	}
	if bad != n/malformedEvery {
		t.Errorf("%d malformed records, want %d", bad, n/malformedEvery)
	}
}

func TestComma(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100_000: "100,000"} {
		if got := comma(n); got != want {
			t.Errorf("comma(%d) = %s, want %s", n, got, want)
		}
	}
}
