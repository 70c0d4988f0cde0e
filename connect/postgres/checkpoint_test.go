package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// second opens another sink of the same flow, as another process would.
func (r *rig) second() *rig {
	r.t.Helper()
	return r.open(r.cfg, r.setup.Fields)
}

func wantFenced(t testing.TB, err error, ps ...flow.Partition) {
	t.Helper()
	var f *flow.FencedError
	if !errors.As(err, &f) || len(f.Partitions) != len(ps) {
		t.Fatalf("got %v, want fenced of %v", err, ps)
	}
	for i := range ps {
		if f.Partitions[i] != ps[i] {
			t.Fatalf("got %v, want fenced of %v", err, ps)
		}
	}
}

func TestSuccessorFences(t *testing.T) {
	t.Parallel()
	old := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	old.write(row{"a", 1})
	next := old.second()
	if next.at[0].Offset != 1 || next.at[0].Owner != 2 || next.at[0].TopicID != "id" || next.at[0].LeaderEpoch != 1 {
		t.Fatalf("claimed %+v", next.at[0])
	}
	wantFenced(t, old.w.Write(t.Context(), old.batch(row{"zombie", 2})), topicParts[0])
	next.write(row{"b", 2})
	wantFenced(t, old.w.Write(t.Context(), old.batch(row{"zombie", 2})), topicParts[0])

	// The position alone fences as well: somebody restored the database.
	next.at[0].Offset = 1
	wantFenced(t, next.w.Write(t.Context(), next.batch(row{"again", 2})), topicParts[0])

	// Of two partitions only the moved one is named, and nothing is written.
	b := flow.NewBatch(nil, []flow.Part{
		{Partition: topicParts[1], From: 0, Next: 9, Owner: 2},
		{Partition: topicParts[0], From: 1, Next: 7, Owner: 2},
	})
	wantFenced(t, next.w.Write(t.Context(), b), topicParts[0])
	old.want("SELECT device_id, seq FROM t", "a|1", "b|2")
	old.want("SELECT partition, next_offset FROM penstock_checkpoint ORDER BY 1", "0|2", "1|0")
}

// A bad record of a writer that is fenced is no dead letter: the fence comes first.
func TestFenceComesBeforeData(t *testing.T) {
	t.Parallel()
	old := newDB(t, "CREATE TABLE t (device_id text, seq int8 PRIMARY KEY, temp float8)").open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	next := old.second()
	next.write(row{"a", 1})
	wantFenced(t, old.w.Write(t.Context(), old.batch(row{"a", 1})), topicParts[0])
}

// Two writers with the same ownership cannot both move the position.
func TestRace(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	other, err := r.sink.Writer(1)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 20 {
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, w := range []flow.Writer{r.w, other} {
			wg.Go(func() { errs[i] = w.Write(t.Context(), r.batch(row{"a", i})) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("not one of two: %v, %v", errs[0], errs[1])
		}
		r.at[0].Offset++
	}
	r.want("SELECT count(*) FROM t", "20")
}

func TestCheckpointRows(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	weird := flow.Partition{Topic: `it's \ a "topic"`, ID: 3}
	ctx := t.Context()
	got, err := r.sink.Claim(ctx, 0, []flow.Partition{weird, topicParts[1]})
	if err != nil || got[0].Offset != -1 || got[0].Owner != 0 || got[1].Owner != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for range 2 {
		if err := r.sink.Insert(ctx, []flow.Position{{Partition: weird, TopicID: "w", Offset: 1 << 40, LeaderEpoch: 7}, {Partition: topicParts[0], Offset: 99}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err = r.sink.Claim(ctx, 7, []flow.Partition{weird})
	want := flow.Checkpoint{Position: flow.Position{Partition: weird, TopicID: "w", Offset: 1 << 40, LeaderEpoch: 7}, Owner: 1}
	if err != nil || got[0] != want {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = r.sink.Read(ctx, []flow.Partition{{Topic: "x"}, topicParts[0], weird})
	if err != nil || got[0].Offset != -1 || got[1].Offset != 0 || got[1].Owner != 1 || got[2] != want {
		t.Fatalf("%+v, %v", got, err)
	}
	topics, err := r.sink.Topics(ctx)
	if err != nil || len(topics) != 2 || topics["telemetry"] != 2 || topics[weird.Topic] != 1 {
		t.Fatalf("%v, %v", topics, err)
	}
	b := flow.NewBatch(nil, []flow.Part{{Partition: weird, From: 1 << 40, Next: 1<<40 + 1, Owner: 1, LeaderEpoch: -1}})
	if err := r.w.Write(ctx, b); err != nil {
		t.Fatal(err)
	}
}

// hold runs a statement in a transaction of another session, which stays open
// until release.
func (d *db) hold(sql string) (pid string, release func()) {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(d.t.Context(), "BEGIN;"+sql); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return fmt.Sprint(conn.PgConn().PID()), func() {
		if _, err := conn.Exec(d.t.Context(), "ROLLBACK"); err != nil {
			d.t.Fatal(err)
		}
	}
}

// freeze writes a batch that has to wait for a row that somebody else holds: it stands in
// the middle of its data, with the checkpoint locked, as a frozen process does.
func freeze(t *testing.T, r *rig, b *flow.Batch) (thaw func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.w.Write(ctx, b) }()
	thawed := false
	t.Cleanup(func() {
		cancel()
		if !thawed {
			t.Log("thawed with the test: ", <-done)
		}
	})
	r.eventually("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock:test' AND datname = current_database() AND wait_event_type = 'Lock'", "1")
	return func() error {
		thawed = true
		return <-done
	}
}

func TestFrozenPredecessorIsRemoved(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"direct", "pgbouncer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDB(t, "CREATE TABLE t (device_id text, seq int8 PRIMARY KEY, temp float8)")
			cfg := SinkConfig{LockTimeout: 100e6, TableConfig: TableConfig{Table: "t"}}
			if name == "pgbouncer" {
				cfg.URL = testservice.PgBouncer(t, d.url)
			}
			old := d.open(cfg, simpleFields)
			_, release := d.hold("INSERT INTO t (seq) VALUES (2)")
			thaw := freeze(t, old, old.batch(row{"old", 1}, row{"old", 2}))

			next := d.second(cfg)
			if n := next.sink.Removed(); n != 1 {
				t.Errorf("%d predecessors were removed", n)
			}
			wantError(t, thaw(), flow.ClassTransient)
			release()
			next.write(row{"new", 1}, row{"new", 2})
			wantFenced(t, old.w.Write(t.Context(), old.batch(row{"old", 1}, row{"old", 2})), topicParts[0])
			d.want("SELECT device_id, seq FROM t", "new|1", "new|2")
		})
	}
}

func (d *db) second(cfg SinkConfig) *rig { return d.open(cfg, simpleFields) }

// A transaction that is not this flow's is not touched, and the error says whose it is.
func TestStrangerIsNotRemoved(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{LockTimeout: 50e6, TableConfig: TableConfig{Table: "t"}}, simpleFields)
	pid, release := r.hold("UPDATE penstock_checkpoint SET updated_at = now()")
	_, err := r.sink.Claim(t.Context(), 0, topicParts)
	wantError(t, err, flow.ClassTransient, "not this flow's", "pg_terminate_backend("+pid+")")
	r.wantErr(r.batch(row{"a"}), flow.ClassTransient, "pg_terminate_backend("+pid+")")
	release()
	r.write(row{"a", 1})
}

// One that was replaced waits for its successor, and does not remove it.
func TestZombieDoesNotRemoveItsSuccessor(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE TABLE t (device_id text, seq int8 PRIMARY KEY, temp float8)")
	cfg := SinkConfig{LockTimeout: 50e6, TableConfig: TableConfig{Table: "t"}}
	old := d.open(cfg, simpleFields)
	next := d.second(cfg)
	_, release := d.hold("INSERT INTO t (seq) VALUES (1)")
	thaw := freeze(t, next, next.batch(row{"new", 1}))
	old.wantErr(old.batch(row{"zombie", 3}), flow.ClassTransient, "lock timeout")
	release()
	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	if old.sink.Removed() != 0 {
		t.Error("the successor was removed")
	}
	wantFenced(t, old.w.Write(t.Context(), old.batch(row{"zombie", 3})), topicParts[0])
}

// viaProxy opens the flow through a proxy that fails on command.
func (d *db) viaProxy(proxy *testservice.TCPProxy, lock SinkConfig) *rig {
	d.t.Helper()
	lock.Table = "t"
	lock.URL = testservice.WithAddr(d.t, d.url, proxy.Addr())
	return d.open(lock, simpleFields)
}

func TestAnswerToCommitIsLost(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	proxy := testservice.Proxy(t, hostPort(t, d.url))
	r := d.viaProxy(proxy, SinkConfig{})
	for i := range 3 {
		r.write(row{"a", 2 * i})
		proxy.LoseAnswers([]byte("COMMIT\x00"), 1)
		r.write(row{"b", 2*i + 1}) // it was committed, and Write knows
	}
	if proxy.Lost() != 3 {
		t.Fatalf("%d answers were lost", proxy.Lost())
	}
	r.want("SELECT count(*), count(DISTINCT seq) FROM t", "6|6")
	r.want("SELECT next_offset FROM penstock_checkpoint WHERE partition = 0", "6")
}

// The database stays away after the COMMIT: the next Write finds out.
func TestAnswerIsLostAndServerGone(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		d := newDB(t, simpleTable)
		gone := make(chan struct{})
		proxy := newCutter(t, hostPort(t, d.url), "COMMIT\x00", true, gone)
		r := d.open(SinkConfig{URL: testservice.WithAddr(t, d.url, proxy.addr()), TableConfig: TableConfig{Table: "t"}}, simpleFields)
		r.write(row{"a", 1})
		proxy.arm(true)
		b := r.batch(row{"b", 2})
		r.wantErr(b, flow.ClassTransient, "the answer to COMMIT was lost")
		r.wantErr(b, flow.ClassTransient, "connect to PostgreSQL")
		proxy.arm(false)
		if same {
			r.writeBatch(b) // again: nothing is written twice
		} else {
			// The engine has let go and read the position instead.
			r.at[0].Offset++
			r.write(row{"c", 3})
		}
		r.want("SELECT count(*), count(DISTINCT seq) FROM t", map[bool]string{true: "2|2", false: "3|3"}[same])
	}
}

// The COMMIT did not arrive: the transaction still holds its locks when the
// writer asks.
func TestCommitIsLostBeforeItArrives(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	proxy := newCutter(t, hostPort(t, d.url), "COMMIT\x00", false, nil)
	r := d.open(SinkConfig{LockTimeout: 50e6, URL: testservice.WithAddr(t, d.url, proxy.addr()), TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1})
	proxy.arm(true)
	b := r.batch(row{"b", 2})
	r.wantErr(b, flow.ClassTransient, "it was rolled back")
	if n := r.sink.Removed(); n != 1 {
		t.Errorf("%d backends were removed", n)
	}
	r.writeBatch(b)
	r.want("SELECT device_id, seq FROM t", "a|1", "b|2")
}

// A context that ends in the COMMIT leaves a doubt, too.
func TestContextEndsInCommit(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable, "CREATE TABLE u (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
		// Locks are awaited in the COMMIT.
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$`,
		"CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()")
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	d.exec("SELECT pg_advisory_lock(1)")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	b := r.batch(row{"a", 1})
	go func() { done <- r.w.Write(ctx, b) }()
	d.eventually("SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted", "1")
	cancel()
	wantError(t, <-done, flow.ClassTransient, "the answer to COMMIT was lost")
	d.exec("SELECT pg_advisory_unlock(1)")
	r.writeBatch(b)
	d.want("SELECT device_id, seq FROM t", "a|1")
}

// The connection breaks while the data is sent: nothing is read after Write,
// and the next one goes on.
func TestConnectionBreaksInCopy(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	proxy := newCutter(t, hostPort(t, d.url), "MARKER", false, nil)
	r := d.open(SinkConfig{LockTimeout: 50e6, URL: testservice.WithAddr(t, d.url, proxy.addr()), TableConfig: TableConfig{Table: "t"}}, simpleFields)
	var rows []any
	for i := range 3000 {
		rows = append(rows, row{strings.Repeat("x", 1000), i})
	}
	rows[1500] = row{"MARKER", 1500}
	proxy.arm(true)
	b := r.batch(rows...)
	r.wantErr(b, flow.ClassTransient)
	clear(b.Records)
	r.writeBatch(r.batch(rows...))
	d.want("SELECT count(*), count(DISTINCT seq) FROM t", "3000|3000")
}

func TestServerRestarts(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	d := &db{t: t, url: server.URL(), flow: "test"}
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", CreateTable: true}}
	r := d.open(cfg, simpleFields)
	r.write(row{"a", 1})
	server.StopImmediately()
	b := r.batch(row{"b", 2})
	r.wantErr(b, flow.ClassTransient)
	if _, err := r.sink.Claim(t.Context(), 0, topicParts); flow.ClassOf(err) != flow.ClassTransient {
		t.Fatalf("Claim without a server: %v", err)
	}
	server.Start()
	r.writeBatch(b)
	if at, err := r.sink.Claim(t.Context(), 0, topicParts); err != nil || at[0].Offset != 2 {
		t.Fatalf("%+v, %v", at, err)
	}
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{ModeAppend, ModeIgnore, ModeUpsert} {
		d := newDB(t)
		r := d.open(SinkConfig{URL: testservice.PgBouncer(t, d.url), TableConfig: TableConfig{Table: "t", Mode: mode, Key: []string{"seq"}, CreateTable: true}}, simpleFields)
		other, err := r.sink.Writer(1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close() })
		at := r.at[1]
		for i := range 5 {
			r.write(row{"a", i}, row{nil, nil})
			b := makeBatch(simpleFields, at, row{"b", 100 + i})
			if err := other.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			at.Offset++
		}
		d.want("SELECT count(*) FROM t", "10")
		d.want("SELECT class, count(*) FROM penstock_dead_letter GROUP BY 1", "null|5")
	}
}

// PgBouncer gives most of what it says the SQLSTATE of a protocol violation.
func TestOutageBehindPgBouncerIsTransient(t *testing.T) {
	t.Parallel()
	d, admin := newDB(t, simpleTable), newDB(t)
	name := d.conn.Config().Database
	cfg := SinkConfig{URL: testservice.PgBouncer(t, d.url), TableConfig: TableConfig{Table: "t"}}
	r := d.open(cfg, simpleFields)
	r.write(row{"a", 1, 1.0})
	w, ok := r.w.(*writer)
	if !ok {
		t.Fatalf("%T", r.w)
	}
	b := r.batch(row{"a", 2, 1.0})
	w.sortParts(b)
	if err := w.begin(t.Context(), b, w.route(b)); err != nil {
		t.Fatal(err)
	}

	// To PgBouncer, a server that takes no connections is one that is down.
	admin.exec("ALTER DATABASE " + name + " ALLOW_CONNECTIONS false")
	admin.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'")
	admin.eventually("SELECT count(*) FROM pg_stat_activity WHERE datname = '"+name+"'", "0")
	wantError(t, w.data(t.Context(), b, w.route(b)), flow.ClassTransient)
	w.drop(t.Context())
	cfg.ConnectTimeout = time.Second // the first to connect may have to wait for PgBouncer to notice
	var err error
	for range 30 {
		s, newErr := NewSink(cfg)
		if newErr != nil {
			t.Fatal(newErr)
		}
		err = s.Open(t.Context(), r.setup)
		wantError(t, err, flow.ClassTransient)
		start := time.Now()
		if err := s.Close(t.Context()); err != nil || time.Since(start) > 10*time.Second {
			t.Errorf("closing has taken %s: %v", time.Since(start), err)
		}
		if sqlState(err) == "08P01" {
			return
		}
	}
	t.Fatalf("PgBouncer has not given 08P01: %v", err)
}

func TestBeforeCommitError(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	// A batch without columns cannot have rows; without rows it moves the position.
	b := r.batch(row{"a", 1})
	b.Columns = nil
	r.wantErr(b, flow.ClassFatal, "the batch has none")
	r.write(row{"a", 1})
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]flow.Class{
		"40P01": flow.ClassTransient, "53100": flow.ClassTransient, "53300": flow.ClassTransient, "57P01": flow.ClassTransient, "08006": flow.ClassTransient,
		"22003": flow.ClassData, "23505": flow.ClassData, "54000": flow.ClassData, "P0001": flow.ClassData,
		"42501": flow.ClassFatal, "28P01": flow.ClassFatal, "22P04": flow.ClassFatal, "XX000": flow.ClassUnknown,
	} {
		if got := flow.ClassOf(classify("x", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s is %s, want %s", code, got, want)
		}
	}
	const line = "COPY t, line 2"
	for _, c := range []struct {
		pe   pgconn.PgError
		want flow.Class
	}{
		{pgconn.PgError{Code: "08P01", Severity: "FATAL", Message: "query_wait_timeout"}, flow.ClassTransient}, // PgBouncer
		{pgconn.PgError{Code: "08P01", Severity: "FATAL", Message: "server conn crashed?", Where: line}, flow.ClassTransient},
		{pgconn.PgError{Code: "08P01", Severity: "ERROR"}, flow.ClassTransient},
		{pgconn.PgError{Code: "08P01", Severity: "FEHLER", SeverityUnlocalized: "ERROR", Where: line}, flow.ClassFatal},
		{pgconn.PgError{Code: "25P04", Severity: "FATAL"}, flow.ClassTransient},
		{pgconn.PgError{Code: "AA001", Severity: "ERROR"}, flow.ClassUnknown},
		{pgconn.PgError{Code: "AA001", Severity: "FATAL", Where: line}, flow.ClassUnknown},
		{pgconn.PgError{Code: "AA001", Severity: "ERROR", Where: line}, flow.ClassData},
		{pgconn.PgError{Code: "54001", Severity: "ERROR", Where: line}, flow.ClassData},
		{pgconn.PgError{Code: "AA001", Severity: "ERROR", Where: "PL/pgSQL function f() line 3 at RAISE"}, flow.ClassData},
		{pgconn.PgError{Code: "XX002", Severity: "ERROR", Where: line}, flow.ClassUnknown}, // a corrupt index
		{pgconn.PgError{Code: "58P01", Severity: "ERROR", Where: line}, flow.ClassUnknown},
	} {
		err := classifyRows("x", &c.pe)
		if got := flow.ClassOf(err); got != c.want {
			t.Errorf("%+v is %s, want %s", c.pe, got, c.want)
		}
	}
	if got := flow.ClassOf(classify("x", &net.OpError{Op: "read", Err: errors.New("reset")})); got != flow.ClassTransient {
		t.Error(got)
	}
	for where, want := range map[string]int{
		"COPY t, line 17": 17, `COPY t, line 3, column temp: "x"`: 3, "PL/pgSQL function f() line 4 at RAISE\nCOPY t, line 9": 9, "line 4": 0, "": 0, "COPY t, line 9\nSQL function": 0,
	} {
		if got := copyLine(&pgconn.PgError{Where: where}); got != want {
			t.Errorf("%q: line %d", where, got)
		}
	}
}

// Errors are logged, and shown where the flow's status is asked for.
func TestAViolationDoesNotShowTheRecord(t *testing.T) {
	t.Parallel()
	for _, constraint := range []string{"CHECK (device_id <> 'Jane Secret')", "UNIQUE (device_id)", "EXCLUDE USING btree (device_id WITH =)"} {
		r := newDB(t, simpleTable, "ALTER TABLE t ADD "+constraint).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
		if err := r.dataErr(r.batch(row{"Jane Secret", 1, 1.5}, row{"Jane Secret", 2, 1.5}), "constraint"); strings.Contains(err.Error(), "Secret") {
			t.Errorf("%s: %v", constraint, err)
		}
	}
}
