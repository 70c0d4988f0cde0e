package postgres

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/penstockdev/penstock/flow"
)

func itoa(n int) string { return strconv.Itoa(n) }

// allFields has a field of every type, its first key "i8".
func allFields() []flow.Field {
	return []flow.Field{
		field("i8", "int8", flow.KindInt64), field("i4", "int4", flow.KindInt64), field("i2", "int2", flow.KindInt64),
		field("f8", "float8", flow.KindFloat64), field("f4", "float4", flow.KindFloat64),
		field("num", "numeric", flow.KindDecimal), field("num2", "numeric(6,2)", flow.KindDecimal),
		field("b", "bool", flow.KindBool), field("txt", "text", flow.KindString),
		field("tstz", "timestamptz", flow.KindTimestamp), field("ts", "timestamp", flow.KindTimestamp), field("d", "date", flow.KindDate),
		field("u", "uuid", flow.KindString), field("bin", "bytea", flow.KindBytes), field("j", "json", flow.KindJSON), field("jb", "jsonb", flow.KindJSON),
		list("ai8", "int8", flow.KindInt64), list("ai2", "int2", flow.KindInt64), list("af8", "float8", flow.KindFloat64), list("ab", "bool", flow.KindBool),
		list("atxt", "text", flow.KindString), list("anum", "numeric", flow.KindDecimal), list("atstz", "timestamptz", flow.KindTimestamp),
		list("ad", "date", flow.KindDate), list("au", "uuid", flow.KindString), list("abin", "bytea", flow.KindBytes), list("ajb", "jsonb", flow.KindJSON),
	}
}

func TestAllTypes(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	d.exec("SET timezone = 'UTC'")
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t", CreateTable: true}}, allFields())
	const day = 86400 * 1_000_000
	rows := []any{
		row{
			int64(math.MinInt64), int64(math.MinInt32), int64(math.MinInt16), -math.MaxFloat64, -math.MaxFloat32,
			"-0.00012300", "-9999.994", true, "äöü \t\n\\ 😀", int64(minTimestamp + epochMicros), int64(-1), int64(minDate + epochDays),
			"{A0EEBC99-9c0b4ef8bb6d-6bb9bd380a11}", "\x00\xff", ` {"a": 1, "a": 2} `, `{"b": [1, null], "a": "\u00e4"}`,
			[]any{1, nil, int64(math.MaxInt64)},
			[]any{},
			[]any{1.5, nil},
			[]any{true, false, nil},
			[]any{"", "NULL", `a"b`, nil},
			[]any{"1e3", "-2.50"},
			[]any{int64(0)},
			[]any{int64(0), nil},
			[]any{"a0eebc999c0b4ef8bb6d6bb9bd380a11"},
			[]any{"\x01"},
			[]any{`{"a":1}`, "null"},
		},
		row{
			int64(math.MaxInt64), int64(math.MaxInt32), int64(math.MaxInt16), math.SmallestNonzeroFloat64, math.SmallestNonzeroFloat32,
			"123456789012345678901234567890.12345678901234567890", "0.005", false, "", int64(253402300799999999), int64(day), int64(2932896),
			"00000000-0000-0000-0000-000000000000", "", `null`, `null`,
		},
		row{1},
	}
	r.write(rows...)
	r.want("SELECT * FROM t ORDER BY i8",
		strings.Join([]string{
			"-9223372036854775808", "-2147483648", "-32768", "-1.7976931348623157e+308", "-3.4028235e+38",
			"-0.00012300", "-9999.99", "t", "äöü \t\n\\ 😀", "4714-11-24 00:00:00+00 BC", "1969-12-31 23:59:59.999999", "4714-11-24 BC",
			"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", `\x00ff`, ` {"a": 1, "a": 2} `, `{"a": "ä", "b": [1, null]}`,
			"{1,NULL,9223372036854775807}", "{}", "{1.5,NULL}", "{t,f,NULL}",
			`{"","NULL","a\"b",NULL}`, "{1000,-2.50}", `{"1970-01-01 00:00:00+00"}`, "{1970-01-01,NULL}", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", `{"\\x01"}`, `{"{\"a\": 1}","null"}`,
		}, "|"),
		"1"+strings.Repeat("|NULL", len(allFields())-1),
		strings.Join([]string{
			"9223372036854775807", "2147483647", "32767", "5e-324", "1e-45",
			"123456789012345678901234567890.12345678901234567890", "0.01", "f", "", "9999-12-31 23:59:59.999999+00", "1970-01-02 00:00:00", "9999-12-31",
			"00000000-0000-0000-0000-000000000000", `\x`, `null`, `null`,
		}, "|")+strings.Repeat("|NULL", 11))
}

// What the encoder makes of a number is what the server makes of its text.
func TestNumericAsTheServer(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	for i, typ := range []string{"numeric", "numeric(5,2)", "numeric(3)", "numeric(2,4)", "numeric(3,-2)", "numeric(1000,500)"} {
		table := "t" + itoa(i)
		d.flow = table
		r := d.open(SinkConfig{TableConfig: TableConfig{Table: table, CreateTable: true}},
			[]flow.Field{field("text", "text", flow.KindString), field("n", typ, flow.KindDecimal)})
		for _, text := range []string{
			"0", "-0", "0.000", "1", "-1", "9", "10", "99", "100", "999", "999.5", "999.4999", "9999", "10000", "10000.0001", "99999.99", "0.1", "0.01", "0.001",
			"0.005", "0.0049", "0.0099", "0.00995", "999.994", "999.995", "0.5", "0.4", "-0.5", "49", "50", "51", "99949", "99950", "12345678", "1e2", "1.5e3", "1.50e1", "15e-1",
			"1e-4", "1E+4", "1e-20", "123456789.987654321", "0e5", "0e-3", "1e130000", "1e131071", "1e131072", "1e-16383", "1e-16384", "-1e499", "1e500",
		} {
			b := r.batch(row{text, text})
			r.writeBatch(b)
			want, err := d.tryRows("SELECT '" + text + "'::" + typ)
			if err != nil {
				if typ != "numeric" && text == "1e-16384" {
					continue // the server refuses to read it, where rounding makes it 0
				}
				if len(b.DeadLetters()) != 1 {
					t.Errorf("%s as %s is accepted, and the server says %v", text, typ, err)
				}
				continue
			}
			if len(b.DeadLetters()) != 0 {
				t.Errorf("%s as %s is rejected (%s), and the server says %s", text, typ, b.DeadLetters()[0].Message, want[0])
				continue
			}
			if got := d.rows("SELECT n FROM " + table + " WHERE text = '" + text + "'"); len(got) != 1 || got[0] != want[0] {
				t.Errorf("%s as %s is %.60v, and the server says %.60s", text, typ, got, want[0])
			}
		}
	}
}

func FuzzNumeric(f *testing.F) {
	for _, s := range []string{"0", "-1.5", "1e10", "0.0001", "123456789.1234", "10000", "1E-5", "-", "1.", "00", "1e", "99999999e-3", "0e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Count(s, "")+20 > 300 {
			return
		}
		c := &column{name: "n", typmod: -1}
		out, err := appendNumeric(c, nil, []byte(s))
		digits, point, scale, _, valid := scanDecimal(nil, []byte(s))
		if err != nil {
			if valid && point <= maxNumericDigits && scale <= maxNumericScale && len(digits) > 0 {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if !valid {
			t.Fatalf("%q is encoded, but is not a number", s)
		}
		if point > 1000 || scale > 2000 {
			return // big.Rat would take its time
		}
		var n pgtype.Numeric
		plan := pgtype.NumericCodec{}.PlanScan(nil, pgtype.NumericOID, pgtype.BinaryFormatCode, &n)
		if err := plan.Scan(out[4:], &n); err != nil {
			t.Fatalf("%q: % x: %v", s, out, err)
		}
		want, ok := new(big.Rat).SetString(s)
		if !ok {
			t.Fatalf("%q is taken for a number", s)
		}
		got := new(big.Rat).SetInt(n.Int)
		exp := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(n.Exp, -n.Exp))), nil))
		if n.Exp < 0 {
			got.Quo(got, exp)
		} else {
			got.Mul(got, exp)
		}
		if got.Cmp(want) != 0 {
			t.Fatalf("%q became %s: % x", s, got, out)
		}
		if out[10] != byte(scale>>8) || out[11] != byte(scale) {
			t.Fatalf("%q: scale % x, want %d", s, out[10:12], scale)
		}
		if size := 4 + 16 + len(s); len(out) > size {
			t.Fatalf("%q takes %d bytes, more than the %d that are reckoned with", s, len(out), size)
		}
	})
}

// bench512 is a batch like that of the main benchmark: 512 bytes of JSON in five columns.
func bench512(n int) ([]flow.Field, *table, *flow.Batch) {
	fields := []flow.Field{
		field("device_id", "text", flow.KindString), field("seq", "int8", flow.KindInt64), field("ts", "timestamptz", flow.KindTimestamp),
		field("temp", "float8", flow.KindFloat64), field("payload", "text", flow.KindString),
	}
	tab := &table{tableName: tableName{"public", "telemetry"}, columns: []tableColumn{
		{name: "device_id", typ: "text", oid: oidText, notNull: true, typmod: -1},
		{name: "seq", typ: "bigint", oid: oidInt8, notNull: true, typmod: -1},
		{name: "ts", typ: "timestamp with time zone", oid: oidTimestamptz, typmod: -1},
		{name: "temp", typ: "double precision", oid: oidFloat8, typmod: -1},
		{name: "payload", typ: "text", oid: oidText, typmod: -1},
	}}
	payload := strings.Repeat("x", 400)
	rows := make([]any, n)
	for i := range rows {
		rows[i] = row{"device-" + itoa(i%1000), i, int64(1_700_000_000_000_000 + i), float64(i%400) / 10, payload}
	}
	return fields, tab, makeBatch(fields, flow.Checkpoint{Position: flow.Position{Partition: topicParts[0]}, Owner: 1}, rows...)
}

func drain(tb testing.TB, r *copyReader, buf []byte) (total int) {
	for {
		n, err := r.Read(buf)
		total += n
		if err != nil {
			return total
		}
		if n == 0 {
			tb.Fatal("nothing was read")
		}
	}
}

func BenchmarkEncode512(b *testing.B) {
	const n = 10_000
	fields, tab, batch := bench512(n)
	p, err := planOf(tab, fields, ModeAppend, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := copyReader{enc: newRowEncoder(p.columns)}
	buf := make([]byte, 65531)
	r.resetAll(batch)
	r.enc.bind(batch.Columns)
	drain(b, &r, buf)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r.enc.bind(batch.Columns)
		r.resetAll(batch)
		b.SetBytes(int64(drain(b, &r, buf)))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
}

func BenchmarkDeduplicate(b *testing.B) {
	const n = 10_000
	fields, tab, batch := bench512(n)
	p, err := planOf(tab, fields, ModeUpsert, []string{"device_id", "seq"})
	if err != nil {
		b.Fatal(err)
	}
	k := newKeyTable(p.keys)
	k.collect(batch, true)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		k.collect(batch, true)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
}

func TestEncodingAllocatesNothing(t *testing.T) {
	fields, tab, batch := bench512(2000)
	p, err := planOf(tab, fields, ModeUpsert, []string{"device_id", "seq"})
	if err != nil {
		t.Fatal(err)
	}
	r := copyReader{enc: newRowEncoder(p.columns)}
	k := newKeyTable(p.keys)
	buf := make([]byte, 65531)
	if n := testing.AllocsPerRun(10, func() {
		r.enc.bind(batch.Columns)
		r.resetAll(batch)
		drain(t, &r, buf)
		k.collect(batch, true)
	}); n > 0 {
		t.Errorf("%v allocations for 2000 records", n)
	}
}
