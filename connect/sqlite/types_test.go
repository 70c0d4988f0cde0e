package sqlite

import (
	"math"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

var typedFields = []flow.Field{
	{Name: "text", Type: "text", Kind: flow.KindString},
	{Name: "int", Type: "int4", Kind: flow.KindInt64},
	{Name: "float", Type: "float8", Kind: flow.KindFloat64},
	{Name: "num", Type: "numeric(20,4)", Kind: flow.KindDecimal},
	{Name: "bool", Type: "bool", Kind: flow.KindBool},
	{Name: "tstz", Type: "timestamptz", Kind: flow.KindTimestamp},
	{Name: "ts", Type: "timestamp", Kind: flow.KindTimestamp},
	{Name: "date", Type: "date", Kind: flow.KindDate},
	{Name: "bytes", Type: "bytea", Kind: flow.KindBytes},
	{Name: "json", Type: "jsonb", Kind: flow.KindJSON},
	{Name: "ints", Type: "int8[]", Kind: flow.KindList, Elem: flow.KindInt64},
	{Name: "texts", Type: "text[]", Kind: flow.KindList, Elem: flow.KindString},
	{Name: "times", Type: "timestamptz[]", Kind: flow.KindList, Elem: flow.KindTimestamp},
}

// typedBatch has two rows: one of values, one of nulls.
func typedBatch(at flow.Checkpoint) *flow.Batch {
	cols := flow.NewColumns(typedFields)
	cols.Reset(2)
	us := time.Date(2026, 1, 31, 12, 0, 0, 7000, time.UTC).UnixMicro()
	cols.Cols[0].Bytes[0] = []byte("ünï")
	cols.Cols[1].Ints[0] = -5
	cols.Cols[2].Floats[0] = math.Inf(1)
	cols.Cols[3].Bytes[0] = []byte("1234567890123456.7890")
	cols.Cols[4].Ints[0] = 1
	cols.Cols[5].Ints[0] = us
	cols.Cols[6].Ints[0] = -1
	cols.Cols[7].Ints[0] = 20_484
	cols.Cols[8].Bytes[0] = []byte{0, 0xff}
	cols.Cols[9].Bytes[0] = []byte(`{"a":[1]}`)
	lists := cols.Cols[10:]
	lists[0].Elem.Ints = []int64{1, 0, -2}
	lists[0].Elem.Nulls = []uint64{0b010}
	lists[1].Elem.Bytes = [][]byte{[]byte("a\"\n\\"), []byte("ü"), {}}
	lists[2].Elem.Ints = []int64{us, us, us}
	for i := range lists {
		lists[i].Offsets[1], lists[i].Offsets[2] = 3, 3
	}
	for i := range cols.Cols {
		cols.Cols[i].SetNull(1)
	}
	records := []flow.Record{{Value: []byte("v"), Offset: at.Offset}, {Value: []byte("v"), Offset: at.Offset + 1}}
	b := flow.NewBatch(records, []flow.Part{{Partition: part0, From: at.Offset, Next: at.Offset + 2, Owner: at.Owner, End: 2}})
	b.Columns = cols
	return b
}

func TestTypes(t *testing.T) {
	const read = `SELECT text, int, float, num, bool, tstz, ts, date, hex(bytes), json, ints, texts, times FROM telemetry`
	const want = `ünï|-5|+Inf|1234567890123456.7890|1|2026-01-31T12:00:00.000007Z|1969-12-31T23:59:59.999999|2026-01-31|00FF|{"a":[1]}|` +
		`[1,null,-2]|["a\"\n\\","ü",""]|["2026-01-31T12:00:00.000007Z","2026-01-31T12:00:00.000007Z","2026-01-31T12:00:00.000007Z"]`
	for _, strict := range []bool{false, true} {
		cfg := testConfig(t)
		cfg.Strict = strict
		r := open1(t, cfg, typedFields)
		r.writeBatch(typedBatch(r.at))
		r.want(read+" WHERE rowid = 1", want)
		r.want("SELECT count(*) FROM telemetry WHERE coalesce(text, int, float, num, bool, tstz, ts, date, bytes, json, ints, texts, times) IS NULL", "1")
		// SQLite's own functions read what we write.
		r.want("SELECT strftime('%Y %H', tstz), date(ts), json_extract(texts, '$[1]'), typeof(bool), typeof(bytes) FROM telemetry WHERE rowid = 1",
			"2026 12|1969-12-31|ü|integer|blob")
	}
}

func TestTimesInIntegerColumns(t *testing.T) {
	cfg := testConfig(t)
	cfg.CreateTable = false
	create(t, cfg.Path, `CREATE TABLE telemetry (text, int, float, num, bool, tstz BIGINT, ts INTEGER, date INT, bytes, json, ints, texts, times)`)
	r := open1(t, cfg, typedFields)
	r.writeBatch(typedBatch(r.at))
	r.want("SELECT tstz, ts, date, typeof(num) FROM telemetry WHERE rowid = 1", "1769860800000007|-1|20484|text")
}

var (
	minTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() - 1
)

const microsPerDay = 24 * 60 * 60 * 1_000_000

func TestValuesThatDoNotFit(t *testing.T) {
	r := open1(t, testConfig(t), typedFields)
	write := func(change func(cols []flow.Column)) {
		b := typedBatch(r.at)
		change(b.Columns.Cols)
		r.writeBatch(b)
	}
	write(func(c []flow.Column) { c[2].Floats[0] = math.NaN() })
	write(func(c []flow.Column) { c[5].Ints[0] = math.MaxInt64 })
	write(func(c []flow.Column) { c[6].Ints[0] = minTime - 1 })
	write(func(c []flow.Column) { c[7].Ints[0] = maxTime/microsPerDay + 1 })
	write(func(c []flow.Column) { c[12].Elem.Ints[2] = maxTime + 1 })
	write(func(c []flow.Column) {
		c[5].Ints[0], c[6].Ints[0], c[7].Ints[0] = maxTime, minTime, minTime/microsPerDay
	})
	r.want("SELECT class, column_name FROM penstock_dead_letter ORDER BY id", "range|float", "range|tstz", "range|ts", "range|date", "range|times")
	r.want("SELECT tstz, ts, date FROM telemetry WHERE tstz NOTNULL", "9999-12-31T23:59:59.999999Z|0000-01-01T00:00:00.000000|0000-01-01")
}

func TestStrictTypeMismatch(t *testing.T) {
	cfg := testConfig(t)
	cfg.CreateTable = false
	create(t, cfg.Path, `CREATE TABLE telemetry (device_id INTEGER, seq INTEGER, temp REAL) STRICT`)
	r := open1(t, cfg, telemetryFields)
	r.write(row{device: "a", seq: 1}, row{device: "12", seq: 2})
	r.want(allRows, "12|2|0")
	r.want("SELECT class, column_name FROM penstock_dead_letter", "type|device_id")
}
