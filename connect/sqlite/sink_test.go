package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) {
	if crashChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

var part0 = flow.Partition{Topic: "telemetry", ID: 0}

var telemetryFields = []flow.Field{
	{Name: "device_id", Type: "text", Kind: flow.KindString, Required: true},
	{Name: "seq", Type: "int8", Kind: flow.KindInt64, Required: true},
	{Name: "temp", Type: "float8", Kind: flow.KindFloat64},
}

// row is one record of telemetryFields; a null device or seq is "" or -1.
type row struct {
	device    string
	seq       int64
	temp      float64
	tombstone bool
}

func (r row) String() string { return fmt.Sprintf("%s/%d/%g", r.device, r.seq, r.temp) }

// rig is an open sink with one claimed partition.
type rig struct {
	t    testing.TB
	sink *Sink
	w    flow.Writer
	at   flow.Checkpoint
}

func testSetup(fields []flow.Field) flow.Setup {
	return flow.Setup{Flow: "f", ClusterID: "c1", Source: "group g, topics telemetry", Fields: fields, Lanes: 1}
}

func testConfig(t testing.TB) SinkConfig {
	return SinkConfig{Path: filepath.Join(t.TempDir(), "x.db"), BusyTimeout: 100 * time.Millisecond, TableConfig: TableConfig{Table: "telemetry", CreateTable: true}}
}

func newSink(t testing.TB, cfg SinkConfig, fields []flow.Field) *Sink {
	t.Helper()
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context(), testSetup(fields)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func open1(t testing.TB, cfg SinkConfig, fields []flow.Field) *rig {
	t.Helper()
	s := newSink(t, cfg, fields)
	start := func(context.Context) ([]flow.Position, error) {
		return []flow.Position{{Partition: part0, TopicID: "id", LeaderEpoch: -1}}, nil
	}
	if err := s.Init(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, sink: s}
	r.claim()
	w, err := s.Writer(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	r.w = w
	return r
}

func (r *rig) claim() {
	r.t.Helper()
	got, err := r.sink.Claim(r.t.Context(), 0, []flow.Partition{part0})
	if err != nil {
		r.t.Fatal(err)
	}
	r.at = got[0]
}

// batch makes a batch that follows the rig's position.
func (r *rig) batch(rows ...row) *flow.Batch {
	return batchAt(r.at, rows...)
}

func batchAt(at flow.Checkpoint, rows ...row) *flow.Batch {
	cols := flow.NewColumns(telemetryFields)
	cols.Reset(len(rows))
	records := make([]flow.Record, len(rows))
	for i, row := range rows {
		records[i] = flow.Record{
			Key: []byte(row.device), Value: []byte("raw"), Offset: at.Offset + int64(i), Timestamp: 1_700_000_000_000_000,
			Headers: []flow.Header{{Key: "h", Value: []byte{0xff}}},
		}
		if row.tombstone {
			records[i].Value = nil
		}
		cols.Cols[0].Bytes[i], cols.Cols[1].Ints[i], cols.Cols[2].Floats[i] = []byte(row.device), row.seq, row.temp
		if row.device == "" {
			cols.Cols[0].SetNull(i)
		}
		if row.seq < 0 {
			cols.Cols[1].SetNull(i)
		}
	}
	b := flow.NewBatch(records, []flow.Part{{
		Partition: part0, TopicID: "id", From: at.Offset, Next: at.Offset + int64(len(rows)), LeaderEpoch: 3, Owner: at.Owner, End: len(rows),
	}})
	b.Columns = cols
	return b
}

func (r *rig) write(rows ...row) {
	r.t.Helper()
	r.writeBatch(r.batch(rows...))
}

// writeBatch writes as the engine does: rows at fault are rejected, and the
// rest is tried again.
func (r *rig) writeBatch(b *flow.Batch) {
	r.t.Helper()
	for {
		err := r.w.Write(r.t.Context(), b)
		var data *flow.DataError
		if errors.As(err, &data) && len(data.Rows) > 0 {
			for _, i := range data.Rows {
				b.Reject(i, flow.StageWrite, data.Err)
			}
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.at.Offset = b.Parts[0].Next
		return
	}
}

// query reads the database as another program would.
func query(t testing.TB, path, q string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		vals, ptrs := make([]any, len(names)), make([]any, len(names))
		for i := range vals {
			ptrs[i] = &vals[i]
		}
		if err := rows.Scan(ptrs...); err != nil {
			t.Fatal(err)
		}
		texts := make([]string, len(vals))
		for i, v := range vals {
			texts[i] = fmt.Sprint(v)
		}
		out = append(out, strings.Join(texts, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *rig) want(q string, want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, query(r.t, r.sink.cfg.Path, q)); diff != "" {
		r.t.Errorf("%s (-want +got):\n%s", q, diff)
	}
}

const allRows = "SELECT device_id, seq, temp FROM telemetry ORDER BY rowid"

func TestConfigSpec(t *testing.T) {
	if _, err := connect.SpecOf[SinkConfig](); err != nil {
		t.Fatal(err)
	}
}

func TestConfigRefused(t *testing.T) {
	for path, cfg := range map[string]SinkConfig{
		"path":              {TableConfig: TableConfig{Table: "t"}},
		"table":             {Path: "x.db", TableConfig: TableConfig{Table: "penstock_flow"}},
		"mode":              {Path: "x.db", TableConfig: TableConfig{Table: "t", Mode: "replace"}},
		"key":               {Path: "x.db", TableConfig: TableConfig{Table: "t", Mode: ModeUpsert}},
		"dead_letter_table": {Path: "x.db", DeadLetterTable: "T", TableConfig: TableConfig{Table: "t"}},
		"synchronous":       {Path: "x.db", Synchronous: "off", TableConfig: TableConfig{Table: "t"}},
	} {
		_, err := NewSink(cfg)
		var field *connect.FieldError
		if !errors.As(err, &field) || field.Path != path {
			t.Errorf("%+v: got %v, want an error about %s", cfg, err, path)
		}
	}
	for _, path := range []string{":memory:", "file:x.db?mode=memory"} {
		if _, err := NewSink(SinkConfig{Path: path, TableConfig: TableConfig{Table: "t"}}); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
}

func TestConfigNamesAllFaults(t *testing.T) {
	c := SinkConfig{Synchronous: "off", BusyTimeout: -1, Cache: -1, TableConfig: TableConfig{Table: "sqlite_x", Mode: "replace", Key: []string{"a", "a"}}}
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, path := range []string{"path", "table", "mode", "key[1]", "synchronous", "busy_timeout", "cache"} {
		if !strings.Contains("\n"+err.Error(), "\n"+path+": ") {
			t.Errorf("nothing about %s in:\n%v", path, err)
		}
	}
}

func TestFileThatIsNoDatabase(t *testing.T) {
	cfg := testConfig(t)
	text := []byte(strings.Repeat("not a database\n", 100))
	if err := os.WriteFile(cfg.Path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, inspected := s.Inspect(t.Context(), flow.Setup{Flow: "f"})
	for what, err := range map[string]error{"open": s.Open(t.Context(), flow.Setup{Flow: "f", Fields: telemetryFields}), "inspect": inspected} {
		if err == nil || flow.ClassOf(err) != flow.ClassFatal || !strings.Contains(err.Error(), cfg.Path+" is not a SQLite database") {
			t.Errorf("%s: got %v (class %s)", what, err, flow.ClassOf(err))
		}
	}
	if got, err := os.ReadFile(cfg.Path); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestLockFileThatMayNotBeMade(t *testing.T) {
	s, err := NewSink(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for errno, want := range map[syscall.Errno]flow.Class{syscall.EACCES: flow.ClassFatal, syscall.EROFS: flow.ClassFatal, syscall.ENOSPC: flow.ClassUnknown} {
		err := s.lockError(fmt.Errorf("making the lock file: %w", &os.PathError{Op: "open", Path: "x", Err: errno}))
		if got := flow.ClassOf(err); got != want {
			t.Errorf("%v: class %s, want %s", err, got, want)
		}
	}
}

func TestAppend(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	r.write(row{device: "a", seq: 1, temp: 1.5}, row{device: "b", seq: 1}, row{device: "a", seq: 1, temp: 2})
	r.write(row{device: "c", seq: 7})
	r.want(allRows, "a|1|1.5", "b|1|0", "a|1|2", "c|7|0")
	r.want("SELECT flow, cluster_id, topic, partition, topic_id, next_offset, leader_epoch, owner_epoch FROM penstock_checkpoint",
		"f|c1|telemetry|0|id|4|3|1")
}

// After Close the file alone holds everything, a reader or not.
func TestCloseEmptiesTheWAL(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	reader, err := open(r.sink.cfg.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.close()
	r.write(row{device: "a", seq: 1})
	if err := reader.exec("SELECT count(*) FROM telemetry"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.w.Close(), r.sink.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(r.sink.cfg.Path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the WAL after Close: %v, %v", info, err)
	}
}

func TestIgnoreAndUpsert(t *testing.T) {
	for _, mode := range []string{ModeIgnore, ModeUpsert} {
		t.Run(mode, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Mode, cfg.Key = mode, []string{"seq", "device_id"}
			r := open1(t, cfg, telemetryFields)
			r.write(row{device: "a", seq: 1, temp: 1}, row{device: "a", seq: 1, temp: 2}, row{device: "b", seq: 1, temp: 3},
				row{device: "", seq: 2}, row{device: "b", seq: 1, tombstone: true})
			if mode == ModeIgnore {
				r.want(allRows, "a|1|1", "b|1|3")
				r.want("SELECT class, column_name FROM penstock_dead_letter", "null|device_id", "tombstone|")
			} else {
				r.want(allRows, "a|1|2")
				r.want("SELECT class, column_name FROM penstock_dead_letter", "null|device_id")
			}
		})
	}
}

func TestConstraintViolationsAreLocated(t *testing.T) {
	cfg := testConfig(t)
	cfg.CreateTable = false
	create(t, cfg.Path, `CREATE TABLE telemetry (device_id TEXT NOT NULL, seq INTEGER NOT NULL, temp REAL CHECK (temp < 100), PRIMARY KEY (device_id, seq))`)
	r := open1(t, cfg, telemetryFields)
	b := r.batch(row{device: "a", seq: 1}, row{device: "a", seq: 1}, row{device: "", seq: 2}, row{device: "a", seq: 3, temp: 200}, row{device: "a", seq: 1}, row{device: "b", seq: 9})
	err := r.w.Write(t.Context(), b)
	var data *flow.DataError
	if !errors.As(err, &data) || !slices.Equal(data.Rows, []int{1, 4}) {
		t.Fatalf("first attempt: got %v, want rows 1 and 4 at fault", err)
	}
	r.want("SELECT count(*) FROM telemetry", "0")
	r.writeBatch(b)
	r.want(allRows, "a|1|0", "b|9|0")
	r.want(`SELECT "offset", class, column_name, stage, value, headers FROM penstock_dead_letter`,
		`1|constraint||write|[114 97 119]|[{"key":"h","value":"/w=="}]`,
		`2|null|device_id|write|[114 97 119]|[{"key":"h","value":"/w=="}]`,
		`3|constraint||write|[114 97 119]|[{"key":"h","value":"/w=="}]`,
		`4|constraint||write|[114 97 119]|[{"key":"h","value":"/w=="}]`)
	r.want("SELECT next_offset FROM penstock_checkpoint", "6")
}

func TestDeferredConstraintIsDataWithoutRows(t *testing.T) {
	cfg := testConfig(t)
	cfg.CreateTable = false
	create(t, cfg.Path, `CREATE TABLE device (id TEXT PRIMARY KEY)`,
		`CREATE TABLE telemetry (device_id TEXT REFERENCES device DEFERRABLE INITIALLY DEFERRED, seq INTEGER, temp REAL)`)
	r := open1(t, cfg, telemetryFields)
	err := r.w.Write(t.Context(), r.batch(row{device: "nobody", seq: 1}))
	var data *flow.DataError
	if !errors.As(err, &data) || len(data.Rows) != 0 {
		t.Fatalf("got %v, want a data error without rows", err)
	}
	r.want("SELECT next_offset FROM penstock_checkpoint", "0")
}

func TestTriggerThatRollsBack(t *testing.T) {
	cfg := testConfig(t)
	cfg.CreateTable = false
	create(t, cfg.Path, `CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL)`,
		`CREATE TRIGGER no BEFORE INSERT ON telemetry WHEN new.seq = 13 BEGIN SELECT RAISE(ROLLBACK, 'unlucky'); END`)
	r := open1(t, cfg, telemetryFields)
	r.write(row{device: "a", seq: 1}, row{device: "a", seq: 13}, row{device: "a", seq: 2})
	r.want(allRows, "a|1|0", "a|2|0")
	r.want("SELECT class, message FROM penstock_dead_letter", "constraint|SQLite: unlucky")
}

func create(t testing.TB, path string, ddl ...string) {
	t.Helper()
	c, err := open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, d := range ddl {
		if err := c.exec(d); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTombstoneInAppend(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	r.write(row{device: "a", seq: 1, tombstone: true}, row{device: "a", seq: 2})
	r.want(allRows, "a|2|0")
	r.want("SELECT class, key, value IS NULL FROM penstock_dead_letter", "tombstone|[97]|1")
}

func TestPositionsOnly(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	b := r.batch()
	b.Parts[0].Next = 17
	r.writeBatch(b)
	r.want("SELECT next_offset FROM penstock_checkpoint", "17")
}

func TestFenced(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	r.write(row{device: "a", seq: 1})
	stale := r.batch(row{device: "a", seq: 2})
	r.claim() // somebody takes over
	err := r.w.Write(t.Context(), stale)
	var fenced *flow.FencedError
	if !errors.As(err, &fenced) || !slices.Equal(fenced.Partitions, []flow.Partition{part0}) {
		t.Fatalf("a write under the old epoch: got %v, want a fence", err)
	}
	r.write(row{device: "a", seq: 3})
	moved := batchAt(flow.Checkpoint{Position: flow.Position{Partition: part0, Offset: 1}, Owner: r.at.Owner}, row{device: "a", seq: 4})
	if err := r.w.Write(t.Context(), moved); flow.ClassOf(err) != flow.ClassFenced {
		t.Fatalf("a write from an old position: got %v, want a fence", err)
	}
	r.want(allRows, "a|1|0", "a|3|0")
}

func TestWriteEndsWithContext(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.w.Write(ctx, r.batch(row{device: "a", seq: 1})); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
	r.want("SELECT count(*) FROM telemetry", "0")
	r.write(row{device: "a", seq: 1})
	r.want(allRows, "a|1|0")
}

func TestLockedDatabaseIsTransient(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	r.write(row{device: "a", seq: 1})
	c, err := open(r.sink.cfg.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	b := r.batch(row{device: "a", seq: 2})
	if err := r.w.Write(t.Context(), b); !flow.IsTransient(err) {
		t.Fatalf("got %v, want a transient error", err)
	}
	c.rollback()
	r.writeBatch(b)
	r.want(allRows, "a|1|0", "a|2|0")
}

func TestInitOnce(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	r.write(row{device: "a", seq: 1})
	never := func(context.Context) ([]flow.Position, error) {
		t.Error("the start was resolved again")
		return nil, nil
	}
	if err := r.sink.Init(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	p1 := flow.Partition{Topic: "telemetry", ID: 1}
	if err := r.sink.Insert(t.Context(), []flow.Position{{Partition: part0, Offset: 99}, {Partition: p1, TopicID: "id", Offset: 5, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	got, err := r.sink.Read(t.Context(), []flow.Partition{p1, part0, {Topic: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []flow.Checkpoint{
		{Position: flow.Position{Partition: p1, TopicID: "id", Offset: 5, LeaderEpoch: -1}},
		{Position: flow.Position{Partition: part0, TopicID: "id", Offset: 1, LeaderEpoch: 3}, Owner: 1},
		{Position: flow.Position{Partition: flow.Partition{Topic: "other"}, Offset: -1, LeaderEpoch: -1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}
	claimed, err := r.sink.Claim(t.Context(), 0, []flow.Partition{{Topic: "other"}})
	if err != nil || claimed[0].Offset != -1 || claimed[0].Owner != 0 {
		t.Errorf("claiming an unknown partition: got %+v, %v", claimed, err)
	}
	topics, err := r.sink.Topics(t.Context())
	if diff := cmp.Diff(map[string]int32{"telemetry": 2}, topics); err != nil || diff != "" {
		t.Errorf("Topics: %v (-want +got):\n%s", err, diff)
	}
}

func TestOtherFingerprintIsRefused(t *testing.T) {
	cfg := testConfig(t)
	r := open1(t, cfg, telemetryFields)
	_ = r.w.Close()
	_ = r.sink.Close(t.Context())
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	setup := testSetup(telemetryFields)
	setup.ClusterID = "c2"
	if err := s.Open(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	if err := s.Init(t.Context(), nil); flow.ClassOf(err) != flow.ClassFatal {
		t.Fatalf("got %v, want a fatal error", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	cfg := testConfig(t)
	r := open1(t, cfg, telemetryFields)
	other, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = other.Open(t.Context(), testSetup(telemetryFields))
	if flow.ClassOf(err) != flow.ClassFatal || !strings.Contains(err.Error(), "process") {
		t.Fatalf("got %v, want a fatal error that names the process", err)
	}
	another := testSetup(telemetryFields)
	another.Flow = "g"
	if err := other.Open(t.Context(), another); err != nil {
		t.Fatalf("another flow into the same file: %v", err)
	}
	_ = other.Close(t.Context())
	_ = r.sink.Close(t.Context())
	if err := other.Open(t.Context(), testSetup(telemetryFields)); err != nil {
		t.Fatalf("after the first has closed: %v", err)
	}
	_ = other.Close(t.Context())
	_ = other.Close(t.Context())
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		ddl    string
		change func(*SinkConfig)
		fields []flow.Field
		want   string
	}{
		"no table":        {change: func(c *SinkConfig) { c.CreateTable = false }, want: "CREATE TABLE"},
		"missing column":  {ddl: "CREATE TABLE telemetry (device_id TEXT, seq INTEGER)", want: "ADD COLUMN \"temp\" REAL"},
		"no unique index": {ddl: "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL)", change: func(c *SinkConfig) { c.Mode, c.Key = ModeUpsert, []string{"seq"} }, want: "CREATE UNIQUE INDEX"},
		"not null":        {ddl: "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL, site TEXT NOT NULL)", want: `"site"`},
		"generated":       {ddl: "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL AS (seq * 2))", want: "computed"},
		"key not decoded": {change: func(c *SinkConfig) { c.Mode, c.Key = ModeUpsert, []string{"id"} }, want: `"id"`},
		"nothing decoded": {fields: []flow.Field{}, want: "decode"},
		"no directory":    {change: func(c *SinkConfig) { c.Path = filepath.Join(filepath.Dir(c.Path), "none", "x.db") }, want: "is not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			if c.ddl != "" {
				create(t, cfg.Path, c.ddl)
			}
			if c.change != nil {
				c.change(&cfg)
			}
			if c.fields == nil {
				c.fields = telemetryFields
			}
			s, err := NewSink(cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Open(t.Context(), testSetup(c.fields))
			if flow.ClassOf(err) != flow.ClassFatal || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want a fatal error that says %s", err, c.want)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
