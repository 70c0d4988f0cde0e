package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// db is the database of one test.
type db struct {
	t    testing.TB
	url  string
	conn *pgx.Conn
	flow string // of the rigs to come
}

func newDB(t testing.TB, statements ...string) *db {
	t.Helper()
	d := &db{t: t, url: testservice.Postgres(t), flow: "test"}
	var err error
	if d.conn, err = pgx.Connect(t.Context(), d.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close(context.Background()) })
	for _, s := range statements {
		d.exec(s)
	}
	return d
}

func (d *db) exec(sql string) {
	d.t.Helper()
	if _, err := d.conn.Exec(d.t.Context(), sql); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// rows are the result as psql shows it with -At.
func (d *db) rows(sql string) []string {
	d.t.Helper()
	out, err := d.tryRows(sql)
	if err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func (d *db) tryRows(sql string) ([]string, error) {
	res, err := d.conn.PgConn().Exec(d.t.Context(), sql).ReadAll()
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, r := range res[0].Rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = string(c)
			if c == nil {
				cells[i] = "NULL"
			}
		}
		out = append(out, strings.Join(cells, "|"))
	}
	return out, nil
}

func (d *db) want(sql string, want ...string) {
	d.t.Helper()
	if diff := cmp.Diff(slices.Concat([]string{}, want), d.rows(sql)); diff != "" {
		d.t.Fatalf("%s (-want +got):\n%s", sql, diff)
	}
}

// eventually polls until the query gives what is wanted.
func (d *db) eventually(sql string, want ...string) {
	d.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		got := d.rows(sql)
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			d.t.Fatalf("%s: still %q after 20 s, want %q", sql, got, want)
		}
	}
}

var topicParts = []flow.Partition{{Topic: "telemetry", ID: 0}, {Topic: "telemetry", ID: 1}}

// rig is an open sink that has claimed the partitions for lane 0.
type rig struct {
	*db
	cfg   SinkConfig
	setup flow.Setup
	sink  *Sink
	w     flow.Writer
	at    []flow.Checkpoint
}

func (d *db) open(cfg SinkConfig, fields []flow.Field) *rig {
	d.t.Helper()
	r, err := d.tryOpen(cfg, fields)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *db) tryOpen(cfg SinkConfig, fields []flow.Field) (*rig, error) {
	d.t.Helper()
	if cfg.URL == "" {
		cfg.URL = d.url
	}
	r := &rig{db: d, cfg: cfg, setup: flow.Setup{Flow: d.flow, ClusterID: "c1", Source: "group g, topics telemetry", Fields: fields, Lanes: 2}}
	s, err := NewSink(cfg)
	if err != nil {
		return nil, err
	}
	r.sink = s
	d.t.Cleanup(func() { _ = s.Close(context.Background()) })
	if err := s.Open(d.t.Context(), r.setup); err != nil {
		return nil, err
	}
	err = s.Init(d.t.Context(), func(context.Context) ([]flow.Position, error) {
		var ps []flow.Position
		for _, p := range topicParts {
			ps = append(ps, flow.Position{Partition: p, TopicID: "id", LeaderEpoch: -1})
		}
		return ps, nil
	})
	if err != nil {
		return nil, err
	}
	r.claim()
	r.w, err = s.Writer(0)
	d.t.Cleanup(func() { _ = r.w.Close() })
	return r, err
}

func (r *rig) claim() {
	r.t.Helper()
	at, err := r.sink.Claim(r.t.Context(), 0, topicParts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.at = at
}

// row is the values of a record in the order of the fields: nil, bool, int64,
// float64, string (for all kinds that are Bytes), or a slice of these. No values at
// all make a tombstone with only its key.
type row []any

type tombstone []any

// batch makes a batch of the records for partition 0.
func (r *rig) batch(rows ...any) *flow.Batch {
	return makeBatch(r.setup.Fields, r.at[0], rows...)
}

func makeBatch(fields []flow.Field, at flow.Checkpoint, rows ...any) *flow.Batch {
	records := make([]flow.Record, len(rows))
	cols := flow.NewColumns(fields)
	cols.Reset(len(rows))
	for i, one := range rows {
		records[i] = flow.Record{Key: []byte("k"), Value: []byte("v"), Offset: at.Offset + int64(i), Timestamp: 1_700_000_000_000_000}
		values, ok := one.(row)
		if !ok {
			values = row(one.(tombstone)) //nolint:errcheck // a wrong type in a test is to panic
			records[i].Value = nil
		}
		for k := range cols.Cols {
			if k < len(values) {
				set(&cols.Cols[k], i, values[k])
			} else {
				set(&cols.Cols[k], i, nil)
			}
		}
	}
	b := flow.NewBatch(records, []flow.Part{{
		Partition: at.Partition, TopicID: "id", From: at.Offset, Next: at.Offset + int64(len(rows)),
		LeaderEpoch: 1, Owner: at.Owner, First: 0, End: len(rows),
	}})
	b.Columns = cols
	return b
}

//nolint:errcheck // a wrong type in a test is to panic
func set(c *flow.Column, i int, v any) {
	if c.Kind == flow.KindList {
		n := int(c.Offsets[i])
		if v == nil {
			c.SetNull(i)
		} else {
			for _, e := range v.([]any) {
				grow(c.Elem, n)
				if e == nil {
					c.Elem.SetNull(n)
				} else {
					put(c.Elem, n, e)
				}
				n++
			}
		}
		c.Offsets[i+1] = int32(n)
		return
	}
	if v == nil {
		c.SetNull(i)
		return
	}
	put(c, i, v)
}

func grow(c *flow.Column, n int) {
	if n>>6 >= len(c.Nulls) {
		c.Nulls = append(c.Nulls, 0)
	}
	c.Ints = append(c.Ints, 0)
	c.Floats = append(c.Floats, 0)
	c.Bytes = append(c.Bytes, nil)
}

func put(c *flow.Column, i int, v any) {
	switch v := v.(type) {
	case bool:
		c.Ints[i] = 0
		if v {
			c.Ints[i] = 1
		}
	case int:
		c.Ints[i] = int64(v)
	case int64:
		c.Ints[i] = v
	case float64:
		c.Floats[i] = v
	case string:
		c.Bytes[i] = []byte(v)
	default:
		panic(fmt.Sprintf("%T", v))
	}
}

// write writes the rows and moves on, as the engine does.
func (r *rig) write(rows ...any) {
	r.t.Helper()
	r.writeBatch(r.batch(rows...))
}

func (r *rig) writeBatch(b *flow.Batch) {
	r.t.Helper()
	if err := r.w.Write(r.t.Context(), b); err != nil {
		r.t.Fatal(err)
	}
	r.at[0].Offset = b.Parts[0].Next
}

func (r *rig) wantErr(b *flow.Batch, class flow.Class, words ...string) {
	r.t.Helper()
	wantError(r.t, r.w.Write(r.t.Context(), b), class, words...)
}

// dataErr writes a batch that the server refuses for its data.
func (r *rig) dataErr(b *flow.Batch, words ...string) error {
	r.t.Helper()
	err := r.w.Write(r.t.Context(), b)
	wantError(r.t, err, flow.ClassData, words...)
	return err
}

func wantError(t testing.TB, err error, class flow.Class, words ...string) {
	t.Helper()
	if flow.ClassOf(err) != class || err == nil {
		t.Fatalf("got %v (%s), want an error of class %s", err, flow.ClassOf(err), class)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("the error does not say %q:\n%v", w, err)
		}
	}
}

func dataRows(t testing.TB, err error) []int {
	t.Helper()
	var d *flow.DataError
	if !errors.As(err, &d) {
		t.Fatalf("got %v, want a data error", err)
	}
	return d.Rows
}

func field(name, typ string, kind flow.Kind) flow.Field {
	return flow.Field{Name: name, Type: typ, Kind: kind}
}

func list(name, typ string, elem flow.Kind) flow.Field {
	return flow.Field{Name: name, Type: typ + "[]", Kind: flow.KindList, Elem: elem}
}

var simpleFields = []flow.Field{
	field("device_id", "text", flow.KindString),
	field("seq", "int8", flow.KindInt64),
	field("temp", "float8", flow.KindFloat64),
}

const simpleTable = "CREATE TABLE t (device_id text, seq int8, temp float8)"

func planOf(t *table, fields []flow.Field, mode string, key []string) (*plan, error) {
	return newPlan(&target{TableConfig: &TableConfig{Mode: mode, Key: key}, name: t.tableName, fields: fields, table: t})
}

func hostPort(t testing.TB, url string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
