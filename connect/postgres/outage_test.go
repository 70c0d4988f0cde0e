package postgres

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

// onServer is newDB on a server of the test's own.
func onServer(t *testing.T, s *testservice.Server, statements ...string) *db {
	t.Helper()
	return connectDB(t, s.URL(), statements...)
}

func connectDB(t *testing.T, url string, statements ...string) *db {
	t.Helper()
	d := &db{t: t, url: url, flow: "test"}
	var err error
	if d.conn, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close(context.Background()) })
	for _, s := range statements {
		d.exec(s)
	}
	return d
}

// within writes the batch until it succeeds; errors must be transient.
func (r *rig) within(d time.Duration, b *flow.Batch) {
	r.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(d)
	for {
		err := r.w.Write(r.t.Context(), b)
		if err == nil {
			r.at[0].Offset = b.Parts[0].Next
			return
		}
		wantError(r.t, err, flow.ClassTransient)
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("after %s: %v", d, err)
		}
	}
}

func TestAFullDiskIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgresOnDisk(t, 120)
	r := onServer(t, server, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1, 1.5})
	server.FillDisk()
	rows := make([]any, 20_000)
	for i := range rows {
		rows[i] = row{"b", i, 2.5}
	}
	b := r.batch(rows...)
	r.wantErr(b, flow.ClassTransient, "No space left on device", "free space, or make it larger", "goes on by itself")
	server.FreeDisk()
	r.within(30*time.Second, b)
	r.want("SELECT count(*) FROM t", "20001")
}

func TestMemoryThatRunsOutIsWaitedFor(t *testing.T) {
	t.Parallel()
	// The lock table is memory of the whole server.
	server := testservice.StartPostgres(t)
	r := onServer(t, server, simpleTable,
		`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(g) FROM generate_series(1, 500000) g; RETURN NEW; END $$`,
		"CREATE TRIGGER hold BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.seq = 13) EXECUTE FUNCTION hold()",
	).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	b := r.batch(row{"a", 13, 1.5})
	r.wantErr(b, flow.ClassTransient, "53200", "max_locks_per_transaction", "fewer lanes or smaller batches")
	r.exec("DROP TRIGGER hold ON t")
	r.writeBatch(b)
}

func TestNoFreeConnectionIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	role, url := d.role()
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	d.exec("GRANT CREATE, USAGE ON SCHEMA public TO " + role)
	d.exec("ALTER TABLE t OWNER TO " + role)
	r := d.open(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}}, simpleFields)
	b := r.batch(row{"a", 1, 1.5})
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 1") // the control connection's
	r.wantErr(b, flow.ClassTransient, "53300", "use fewer lanes, or raise it")
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 10")
	r.writeBatch(b)
}

func TestAServerThatStopsIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	r := onServer(t, server, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1, 1.5})
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock:test'")
	r.wantErr(r.batch(row{"b", 2, 2.5}), flow.ClassTransient, "57P01", "goes on by itself")
	r.write(row{"b", 2, 2.5})

	b := r.batch(row{"c", 3, 3.5})
	server.StopImmediately() // a crash: it recovers at the next start
	r.wantErr(b, flow.ClassTransient)
	r.wantErr(b, flow.ClassTransient, "check that the server runs")
	started := make(chan struct{})
	go func() {
		defer close(started)
		server.Start()
	}()
	r.within(60*time.Second, b)
	<-started
	connectDB(t, r.url).want("SELECT device_id FROM t ORDER BY 1", "a", "b", "c")
}

// After a failover the url leads to the new primary, or to a standby for a while.
func TestAServerThatIsReadOnlyIsWaitedFor(t *testing.T) {
	t.Parallel()
	primary := testservice.StartPostgres(t)
	d := onServer(t, primary, simpleTable)
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1, 1.5})
	standby := primary.StartStandby()
	lsn := d.rows("SELECT pg_current_wal_lsn()")
	s := connectDB(t, testservice.WithAddr(t, d.url, standby.Addr()))
	s.eventually("SELECT pg_last_wal_replay_lsn() >= '"+lsn[0]+"'", "t")

	_, err := s.tryOpen(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassTransient, "25006", "This is a standby", "target_session_attrs=read-write")
	_, err = s.tryOpen(SinkConfig{URL: s.url + "&target_session_attrs=read-write", TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassTransient, "this is a standby, or read only, and must be promoted")
	if !isUnreachable(err) {
		t.Errorf("not asked every second: %v", err)
	}
	primary.StopImmediately()
	standby.Promote()
	next := s.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	if next.at[0].Offset != 1 {
		t.Errorf("the new primary is at %d, want 1", next.at[0].Offset)
	}
	next.write(row{"b", 2, 2.5})
	s.want("SELECT device_id FROM t ORDER BY 1", "a", "b")
}

// isUnreachable says that the flow asks at least every second. The type is flow's own.
func isUnreachable(err error) bool {
	return errors.As(err, reflect.New(reflect.TypeOf(flow.Unreachable(io.EOF))).Interface())
}

func TestAServerThatIsAwayIsAskedEverySecond(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&pgconn.PgError{Code: "57P01", Severity: "FATAL"}: true,  // shuts down
		&pgconn.PgError{Code: "57P02", Severity: "FATAL"}: true,  // crashes
		&pgconn.PgError{Code: "57P03", Severity: "FATAL"}: true,  // starts
		&pgconn.PgError{Code: "25006", Severity: "ERROR"}: true,  // a standby, until it is promoted
		&pgconn.PgError{Code: "08P01", Severity: "FATAL"}: true,  // PgBouncer has no server
		&pgconn.PgError{Code: "08P01", Severity: "ERROR"}: false, // the server answers
		&pgconn.PgError{Code: "53300", Severity: "FATAL"}: false,
		&pgconn.PgError{Code: "40P01", Severity: "ERROR"}: false,
		io.ErrUnexpectedEOF:      true,
		context.DeadlineExceeded: false, // of a statement: it may have waited for a lock
	} {
		err := classify("x", err)
		if wantError(t, err, flow.ClassTransient); isUnreachable(err) != want {
			t.Errorf("%v: asked every second is %v, want %v", err, !want, want)
		}
	}
	if err := connectError(context.DeadlineExceeded); !isUnreachable(err) {
		t.Errorf("connecting takes too long: %v", err)
	}
}

// deviceDecoder fills device_id with the record's key.
type deviceDecoder struct{}

func (deviceDecoder) Fields() []flow.Field { return simpleFields[:1] }

func (d deviceDecoder) Process(_ context.Context, b *flow.Batch) error {
	b.Columns = flow.NewColumns(d.Fields())
	b.Columns.Reset(b.Len())
	for i := range b.Records {
		b.Columns.Cols[0].Bytes[i] = b.Records[i].Key
	}
	return nil
}

// The waits between other attempts are so long that the flow comes back only if
// every error of an outage is one after which it asks soon.
func TestAFlowIsBackSoonAfterItsDatabase(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	proxy := testservice.Proxy(t, hostPort(t, d.url))
	sink, err := NewSink(SinkConfig{URL: testservice.WithAddr(t, d.url, proxy.Addr()), TableConfig: TableConfig{Table: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	log := flowtest.NewLog()
	log.Create("t", 1)
	f, err := flow.New(flow.Config{
		Name: "f", Source: log.Source(flowtest.LogOptions{Topics: []string{"t"}}), Sink: sink, Logger: slog.New(slog.DiscardHandler),
		Transforms: func(int) ([]flow.Transform, error) { return []flow.Transform{deviceDecoder{}}, nil },
		Retry:      flow.Retry{Initial: time.Hour, Max: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	put := func(key string) { log.Append("t", 0, flow.Record{Key: []byte(key), Value: []byte("v")}) }
	put("a")
	d.eventually("SELECT device_id FROM t", "a")

	proxy.Cut()
	put("b")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for f.Status().Retries == 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("nothing is tried again: %+v", f.Status())
		}
	}
	proxy.Restore()
	d.eventually("SELECT device_id FROM t ORDER BY 1", "a", "b")
}

// An attempt that is over says for what it has waited, and the next one succeeds.
func TestALockedTableIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode, hold string
		words      []string
	}{
		{ModeAppend, "ALTER TABLE t ALTER device_id SET DEFAULT 'x'", []string{"copy into public.t", "a lock (RowExclusiveLock) on table public.t"}},
		{ModeUpsert, "DELETE FROM t WHERE seq = 1", []string{"into public.t", "a row that another transaction has written"}},
	} {
		table := tableWithKey
		if c.mode == ModeAppend {
			table = simpleTable
		}
		d := newDB(t, table)
		r := d.open(modeConfig(c.mode), simpleFields)
		r.write(row{"a", 1, 1.5})
		d.exec("BEGIN; " + c.hold)
		b := r.batch(row{"b", 1, 2.5})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := r.w.Write(ctx, b)
		cancel()
		pid := itoa(int(d.conn.PgConn().PID()))
		wantError(t, err, flow.ClassTransient, append(c.words, "held by process "+pid+" of role postgres", "idle in transaction", "last run: BEGIN; "+c.hold,
			"The flow goes on by itself", "SELECT pg_terminate_backend("+pid+");")...)
		d.exec("COMMIT")
		r.writeBatch(b)
		d.want("SELECT count(*) FROM t WHERE device_id = 'b'", "1")
	}
}

func TestAServerThatDoesNotAnswerIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	proxy := testservice.Proxy(t, hostPort(t, d.url))
	r := d.open(SinkConfig{URL: testservice.WithAddr(t, d.url, proxy.Addr()), ConnectTimeout: time.Second, TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1, 1.5})
	proxy.HalfOpen()
	b := r.batch(row{"b", 2, 2.5})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	wantError(t, r.w.Write(ctx, b), flow.ClassTransient, "the server has not answered for 1s", "does not on another connection", "check that it is not stopped, frozen or overloaded")
	proxy.Restore()
	r.within(20*time.Second, b)
}
