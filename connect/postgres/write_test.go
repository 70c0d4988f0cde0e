package postgres

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1, 1.5}, row{"b", 2, nil})
	r.write(row{"", nil, -0.25})
	r.want("SELECT * FROM t", "a|1|1.5", "b|2|NULL", "|NULL|-0.25")
	r.want("SELECT topic, partition, topic_id, next_offset, leader_epoch, owner_epoch FROM penstock_checkpoint ORDER BY partition",
		"telemetry|0|id|3|1|1", "telemetry|1|id|0|-1|1")
	r.want("SELECT count(*) FROM penstock_checkpoint WHERE owner_backend ~ '^[0-9]+@[0-9]{16}$' AND partition = 0", "1")
}

func TestPositionsOnly(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	b := flow.NewBatch(nil, []flow.Part{
		{Partition: topicParts[1], From: 0, Next: 9, Owner: 1},
		{Partition: topicParts[0], From: 0, Next: 7, Owner: 1},
	})
	r.writeBatch(b)
	r.want("SELECT partition, next_offset FROM penstock_checkpoint ORDER BY partition", "0|7", "1|9")
}

// Rows larger than pgconn's buffer, and rows that end at every place in it.
func TestRowsAcrossBuffers(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	var rows []any
	for i := range 300 {
		n := i * 37 % 2000
		if i%97 == 0 {
			n = 200_000 + i
		}
		rows = append(rows, row{strings.Repeat("x", n), i, nil})
	}
	r.write(rows...)
	r.want("SELECT count(*), sum(length(device_id)), count(DISTINCT seq) FROM t", func() string {
		sum := 0
		for _, x := range rows {
			sum += len(x.(row)[0].(string)) //nolint:errcheck // a wrong type in a test is to panic
		}
		return fmt.Sprintf("300|%d|300", sum)
	}())
}

func TestBadValuesAlone(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{
		field("n", "int8", flow.KindInt64),
		field("i2", "int2", flow.KindInt64), field("i4", "int4", flow.KindInt64), field("f4", "float4", flow.KindFloat64),
		field("num", "numeric", flow.KindDecimal), field("vc", "text", flow.KindString), field("u", "uuid", flow.KindString),
		field("j", "jsonb", flow.KindJSON), field("ts", "timestamptz", flow.KindTimestamp), field("d", "date", flow.KindDate),
		list("ints", "int2", flow.KindInt64),
	}
	r := newDB(t, `CREATE TABLE t (n int8 NOT NULL, i2 int2, i4 int4, f4 float4, num numeric(4,2), vc varchar(3), u uuid, j jsonb, ts timestamptz, d date, ints int2[])`).
		open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, fields)
	one := func(n int, column string, v any) row {
		out := row{n}
		for _, f := range fields[1:] {
			if f.Name == column {
				out = append(out, v)
			} else {
				out = append(out, nil)
			}
		}
		return out
	}
	bad := []struct {
		column, class string
		row           row
	}{
		{"n", "null", row{nil}},
		{"i2", "range", one(1, "i2", 32768)},
		{"i4", "range", one(3, "i4", math.MinInt32-1)},
		{"f4", "range", one(5, "f4", 1e300)},
		{"f4", "range", one(7, "f4", 1e-300)},
		{"num", "range", one(9, "num", "99.995")},
		{"num", "range", one(11, "num", "1e999999999999")},
		{"vc", "range", one(13, "vc", "äöüß")},
		{"u", "type", one(15, "u", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1")},
		{"j", "encoding", one(17, "j", `{"a":"\u0000"}`)},
		{"ts", "range", one(19, "ts", int64(math.MinInt64))},
		{"d", "range", one(21, "d", int64(math.MaxInt32)*2)},
		{"ints", "range", one(23, "ints", []any{1, 70000})},
	}
	var rows []any
	var want []string
	for i, x := range bad {
		rows = append(rows, x.row, one(2*i, "vc", "äöü"))
		want = append(want, fmt.Sprintf("%d|äöü", 2*i))
	}
	rows = append(rows, tombstone{}, one(100, "j", `{"a":"\\u0000"}`), one(101, "vc", "abc   "), one(102, "num", "99.994"))
	r.write(rows...)
	r.want("SELECT n, vc FROM t WHERE n < 100 ORDER BY n", want...)
	r.want("SELECT j, vc, num FROM t WHERE n >= 100 ORDER BY n", `{"a": "\\u0000"}|NULL|NULL`, "NULL|abc|NULL", "NULL|NULL|99.99")
	want = nil
	for i, x := range bad {
		want = append(want, fmt.Sprintf("%d|%s|%s|write", 2*i, x.class, x.column))
	}
	want = append(want, fmt.Sprintf("%d|tombstone||write", 2*len(bad)))
	r.want(`SELECT "offset", class, column_name, stage FROM penstock_dead_letter ORDER BY id`, want...)
}

func TestDeadLetterIsWhole(t *testing.T) {
	t.Parallel()
	r := newDB(t, simpleTable).open(SinkConfig{DeadLetterTable: `"Dead Letters"`, TableConfig: TableConfig{Table: "t"}}, simpleFields)
	b := r.batch(row{"a", 1, nil}, row{"b", 2, nil}, row{"c", 3, nil})
	rec := &b.Records[1]
	rec.Key, rec.Value = []byte{0, 255}, []byte(strings.Repeat("x", 3_000_000))
	rec.Headers = []flow.Header{{Key: "h\x00\xff", Value: []byte{1, 0, 255}}, {Key: "h", Value: nil}, {Key: "h", Value: []byte{}}}
	rec.Timestamp = math.MinInt64
	b.Reject(1, flow.StageDecode, &flow.RecordError{Class: "malformed", Column: "x", Err: fmt.Errorf("bad \x00 \xff")})
	b.Records[2].Key, b.Records[2].Value = nil, nil
	b.Reject(2, flow.StageTransform, fmt.Errorf("no"))
	r.writeBatch(b)
	r.want("SELECT device_id FROM t", "a")
	r.want(`SELECT flow, cluster_id, topic, topic_id, partition, "offset", key, length(value), headers, stage, class, column_name, message FROM "Dead Letters" ORDER BY id`,
		`test|c1|telemetry|id|0|1|\x00ff|3000000|[{"key": "h`+"\uFFFD\uFFFD"+`", "value": "AQD/"}, {"key": "h", "value": null}, {"key": "h", "value": ""}]|decode|malformed|x|column x: bad `+"\uFFFD \uFFFD",
		`test|c1|telemetry|id|0|2|NULL|NULL|[]|transform|rejected||no`)
	r.want("SELECT next_offset FROM penstock_checkpoint WHERE partition = 0", "3")
}

// The server names the line; rows that were rejected before do not count.
func TestViolationsAreLocated(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("id", "int2", flow.KindInt64), field("mood", "text", flow.KindString), field("pos", "int4", flow.KindInt64)}
	d := newDB(t,
		"CREATE TYPE mood AS ENUM ('good', 'bad')",
		"CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)",
		"CREATE TABLE t (id int2 PRIMARY KEY, mood mood, pos positive, CHECK (id <> 500))",
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 501 THEN RAISE EXCEPTION 'no 501'; END IF; IF NEW.id = 502 THEN RAISE EXCEPTION 'no 502' USING ERRCODE = 'AA001'; END IF; RETURN NEW; END $$`,
		"CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id > 499) EXECUTE FUNCTION refuse()")
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, fields)
	for _, c := range []struct {
		name  string
		bad   row
		class string
		words string
	}{
		{"unique", row{7}, "constraint", "t_pkey"},
		{"check", row{500}, "constraint", "t_id_check"},
		{"enum", row{600, "ugly"}, "type", "ugly"},
		{"domain", row{601, "good", -1}, "constraint", "positive"},
		{"trigger", row{501}, "constraint", "no 501"},
		{"trigger with its own SQLSTATE", row{502}, "rejected", "no 502"},
	} {
		var rows []any
		for i := range 300 {
			rows = append(rows, row{i, "good", 1})
		}
		rows[10], rows[20] = row{-40000}, row{40000} // rejected at encoding
		rows = append(rows[:200:200], append([]any{c.bad}, rows[200:]...)...)
		b := r.batch(rows...)
		err := r.dataErr(b, c.words)
		if got := dataRows(t, err); !slices.Equal(got, []int{200}) {
			t.Errorf("%s: rows %v are said to be at fault, want 200: %v", c.name, got, err)
		}
		b.Reject(200, flow.StageWrite, err)
		if got := b.DeadLetters(); len(got) != 3 || got[2].Class != c.class {
			t.Errorf("%s: dead letters %+v", c.name, got)
		}
		r.want("SELECT count(*) FROM t", "0")
		r.want("SELECT sum(next_offset) FROM penstock_checkpoint", "0")
	}
}

func TestDeferredConstraintHasNoRow(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE TABLE device (id text PRIMARY KEY)", "INSERT INTO device VALUES ('a')",
		"CREATE TABLE t (device_id text REFERENCES device DEFERRABLE INITIALLY DEFERRED, seq int8, temp float8)",
		"CREATE TABLE now (device_id text REFERENCES device, seq int8, temp float8)")
	for _, table := range []string{"t", "now"} {
		d.flow = table
		r := d.open(SinkConfig{TableConfig: TableConfig{Table: table}}, simpleFields)
		err := r.dataErr(r.batch(row{"a"}, row{"b"}), "violates foreign key")
		if rows := dataRows(t, err); rows != nil {
			t.Fatalf("%s: rows %v are said to be at fault", table, rows)
		}
		d.want("SELECT count(*) FROM "+table, "0")
		r.write(row{"a"}) // the connection is fit for the next batch
		d.want("SELECT device_id FROM "+table, "a")
	}
}

func TestTriggersOwnSQLSTATEIsTheDatas(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"AA001", "27000", "38000", "39004", "P0002"} {
		for _, c := range []struct {
			mode, trigger string
			rows          []int // said to be at fault
		}{
			{ModeAppend, "TRIGGER", []int{1}},
			{ModeIgnore, "TRIGGER", nil},
			{ModeUpsert, "TRIGGER", nil},
			{ModeAppend, "CONSTRAINT TRIGGER", nil}, // fails at COMMIT
		} {
			d := newDB(t, "CREATE TABLE t (device_id text, seq int8 PRIMARY KEY, temp float8)",
				"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.seq = 3 THEN RAISE EXCEPTION 'no 3' USING ERRCODE = '"+code+"'; END IF; RETURN NEW; END $$")
			when, deferred := "BEFORE", ""
			if c.trigger != "TRIGGER" {
				when, deferred = "AFTER", "DEFERRABLE INITIALLY DEFERRED"
			}
			d.exec("CREATE " + c.trigger + " x " + when + " INSERT ON t " + deferred + " FOR EACH ROW EXECUTE FUNCTION refuse()")
			r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: c.mode, Key: []string{"seq"}}}, simpleFields)
			err := r.dataErr(r.batch(row{"a", 1, 1.0}, row{"b", 3, 2.0}), "no 3", code)
			if got := dataRows(t, err); !slices.Equal(got, c.rows) {
				t.Errorf("%s, mode %s, %s: rows %v are said to be at fault, want %v", code, c.mode, c.trigger, got, c.rows)
			}
			r.write(row{"a", 1, 1.0})
		}
	}
}
