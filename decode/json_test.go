package decode

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func micros(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UnixMicro()
}

// TestValues decodes one value v per case.
func TestValues(t *testing.T) {
	t.Parallel()
	cases := []struct {
		typ, format, json string
		want              any // or a class, as errClass
	}{
		{"text", "", `"x"`, "x"},
		{"text", "", `""`, ""},
		{"text", "", `"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"`, "a\"\\/\b\f\n\r\té😀z"},
		{"text", "", `"Zürich 東京 😀"`, "Zürich 東京 😀"},
		{"text", "", `1`, errClass(classType)},
		{"text", "", `{}`, errClass(classType)},
		{"text", "", `null`, nil},
		{"text", "", `"a\u0000b"`, errClass(classEncoding)},

		{"int2", "", `-32768`, int64(-32768)},
		{"int2", "", `32767`, int64(32767)},
		{"int2", "", `32768`, errClass(classRange)},
		{"int4", "", `2147483647`, int64(math.MaxInt32)},
		{"int4", "", `-2147483649`, errClass(classRange)},
		{"int8", "", `9223372036854775807`, int64(math.MaxInt64)},
		{"int8", "", `-9223372036854775808`, int64(math.MinInt64)},
		{"int8", "", `9223372036854775808`, errClass(classRange)},
		{"int8", "", `-9223372036854775809`, errClass(classRange)},
		{"int8", "", `1e99999999999999999999`, errClass(classRange)},
		{"int8", "", `1e-99999999999999999999`, errClass(classType)},
		{"int8", "", `0e99999999999999999999`, int64(0)},
		{"int8", "", `1e3`, int64(1000)},
		{"int8", "", `1.0`, int64(1)},
		{"int8", "", `-12.50e1`, int64(-125)},
		{"int8", "", `0.000000000000000000001e21`, int64(1)},
		{"int8", "", `100000000000000000000000e-22`, int64(10)},
		{"int8", "", `1.5`, errClass(classType)},
		{"int8", "", `-0`, int64(0)},
		{"int8", "", `"1"`, errClass(classType)},
		{"int8", "", `true`, errClass(classType)},
		{"int8", "string", `"12"`, int64(12)},
		{"int8", "string", `12`, int64(12)},
		{"int8", "string", `" 12"`, errClass(classType)},
		{"int8", "string", `""`, errClass(classType)},
		{"int8", "string", `"012"`, errClass(classType)},

		{"float8", "", `1.5`, 1.5},
		{"float8", "", `-0.0`, math.Copysign(0, -1)},
		{"float8", "", `9007199254740993`, 9007199254740992.0},
		{"float8", "", `0.1234567890123456789`, 0.1234567890123456789},
		{"float8", "", `1.7976931348623157e308`, math.MaxFloat64},
		{"float8", "", `1.7976931348623159e308`, errClass(classRange)},
		{"float8", "", `5e-324`, math.SmallestNonzeroFloat64},
		{"float8", "", `1e-400`, 0.0},
		{"float8", "", `1e22`, 1e22},
		{"float8", "", `1e23`, 1e23},
		{"float8", "", `"1.5"`, errClass(classType)},
		{"float8", "string", `"1.5e1"`, 15.0},
		{"float8", "string", `"NaN"`, errClass(classType)},
		{"float4", "", `3.4028234663852886e38`, float64(math.MaxFloat32)},
		{"float4", "", `3.4028235677973366e38`, float64(math.MaxFloat32)}, // a little below the middle
		{"float4", "", `3.4028235677973367e38`, errClass(classRange)},
		{"float4", "", `0.1`, float64(float32(0.1))},
		{"float4", "", `1.00000017881393432617187499`, float64(float32(1.0000001))}, // rounding twice would be wrong
		{"float4", "", `1e-46`, 0.0},

		{"numeric", "", `123456789012345678901234567890.123`, "123456789012345678901234567890.123"},
		{"numeric", "", `-1.50E+3`, "-1.50E+3"},
		{"numeric", "", `1e131071`, "1e131071"},
		{"numeric", "", `1e131072`, errClass(classRange)},
		{"numeric", "", `1e-16383`, "1e-16383"},
		{"numeric", "", `1e-16384`, errClass(classRange)},
		{"numeric", "", `"1"`, errClass(classType)},
		{"numeric", "string", `"1.10"`, "1.10"},
		{"numeric(5,2)", "", `999.99`, "999.99"},
		{"numeric(5,2)", "", `999.994`, "999.994"},
		{"numeric(5,2)", "", `999.995`, errClass(classRange)},
		{"numeric(5,2)", "", `-1000`, errClass(classRange)},
		{"numeric(5,2)", "", `0.0001e7`, errClass(classRange)},
		{"numeric(5,2)", "", `0.0001e6`, "0.0001e6"},
		{"numeric(5,2)", "", `0000`, errClass(classMalformed)},
		{"numeric(3)", "", `999.4`, "999.4"},
		{"numeric(3)", "", `999.5`, errClass(classRange)},
		{"numeric(2,4)", "", `0.0099`, "0.0099"},
		{"numeric(2,4)", "", `0.01`, errClass(classRange)},
		{"numeric(2,-2)", "", `9949`, "9949"},
		{"numeric(2,-2)", "", `9950`, errClass(classRange)},

		{"bool", "", `true`, int64(1)},
		{"bool", "", `false`, int64(0)},
		{"bool", "", `1`, errClass(classType)},
		{"bool", "", `"true"`, errClass(classType)},
		{"bool", "string", `"true"`, int64(1)},
		{"bool", "string", `false`, int64(0)},

		{"timestamptz", "", `"2026-03-01T12:34:56Z"`, micros("2026-03-01T12:34:56Z")},
		{"timestamptz", "rfc3339", `"2026-03-01T12:34:56.1234567+01:30"`, micros("2026-03-01T11:04:56.123456Z")},
		{"timestamptz", "", `"1969-12-31T23:59:59.9999999Z"`, int64(-1)},
		{"timestamptz", "", `"2026-03-01T12:34:56"`, errClass(classType)},
		{"timestamptz", "", `"2026-02-29T12:34:56Z"`, errClass(classRange)},
		{"timestamptz", "", `"yesterday"`, errClass(classType)},
		{"timestamptz", "", `1772368496`, errClass(classType)},
		{"timestamptz", "", `"2026-03-01\u004012:34:56Z"`, errClass(classType)},
		{"timestamptz", "", `"2026-03-01\u005412:34:56Z"`, micros("2026-03-01T12:34:56Z")},
		{"timestamp", "", `"2026-03-01 12:34:56.5"`, micros("2026-03-01T12:34:56.5Z")},
		{"timestamp", "", `"2026-03-01T12:34:56+02:00"`, micros("2026-03-01T10:34:56Z")},
		{"timestamptz", "unix", `1772368496`, int64(1772368496000000)},
		{"timestamptz", "unix", `1772368496.1234567`, int64(1772368496123456)},
		{"timestamptz", "unix", `-0.0000001`, int64(-1)},
		{"timestamptz", "unix", `"1772368496"`, int64(1772368496000000)},
		{"timestamptz", "unix", `"x"`, errClass(classType)},
		{"timestamptz", "unix", `1e15`, errClass(classRange)},
		{"timestamptz", "unix", `9223372036854775807`, errClass(classRange)},
		{"timestamptz", "unix_ms", `1.772368496123e12`, int64(1772368496123000)},
		{"timestamptz", "unix_ms", `-62135596800000`, int64(minMicros)},
		{"timestamptz", "unix_ms", `-62135596800001`, errClass(classRange)},
		{"timestamptz", "unix_us", `253402300799999999`, int64(maxMicros)},
		{"timestamptz", "unix_us", `253402300800000000`, errClass(classRange)},
		{"timestamptz", "unix_ns", `1772368496123456789`, int64(1772368496123456)},
		{"timestamptz", "unix_ns", `-1`, int64(-1)},
		{"timestamptz", "02 Jan 2006 15:04 -0700", `"01 Mar 2026 12:34 +0100"`, micros("2026-03-01T11:34:00Z")},
		{"timestamptz", "2006-01-02 15:04:05", `"2026-03-01 12:34:56"`, micros("2026-03-01T12:34:56Z")},
		{"timestamptz", "2006-01-02 15:04:05", `"2026-03-01"`, errClass(classType)},
		{"timestamptz", "2006-01-02", `"0000-03-01"`, errClass(classRange)},
		{"timestamptz", "2006-01-02", `20260301`, errClass(classType)},

		{"date", "", `"1970-01-02"`, int64(1)},
		{"date", "", `"0001-01-01"`, int64(-719162)},
		{"date", "", `"2026-03-01T00:00:00Z"`, errClass(classType)},
		{"date", "rfc3339", `"1970-01-02T00:00:00+00:01"`, int64(0)},
		{"date", "unix", `86400`, int64(1)},
		{"date", "unix_ms", `-1`, int64(-1)},
		{"date", "01/02/2006", `"01/02/1970"`, int64(1)},

		{"uuid", "", `"123e4567-E89B-12d3-a456-426614174000"`, "123e4567-E89B-12d3-a456-426614174000"},
		{"uuid", "", `"123e4567e89b12d3a456426614174000"`, errClass(classType)},
		{"uuid", "", `"123e4567-e89b-12d3-a456-42661417400g"`, errClass(classType)},
		{"uuid", "", `"123e4567-e89b-12d3-a456-4266141740000"`, errClass(classType)},

		{"bytea", "", `"AAEC/w=="`, "\x00\x01\x02\xff"},
		{"bytea", "", `"AAEC/w"`, "\x00\x01\x02\xff"},
		{"bytea", "", `"AAEC\/w=="`, "\x00\x01\x02\xff"},
		{"bytea", "", `"AAEC_w=="`, errClass(classType)},
		{"bytea", "", `"A"`, errClass(classType)},
		{"bytea", "", `"AAE\n"`, errClass(classType)},
		{"bytea", "base64url", `"AAEC_w"`, "\x00\x01\x02\xff"},
		{"bytea", "hex", `"00fF"`, "\x00\xff"},
		{"bytea", "hex", `"\\x00ff"`, "\x00\xff"},
		{"bytea", "hex", `"0"`, errClass(classType)},
		{"bytea", "", `""`, ""},

		{"json", "", ` {"a": [1, 2]} `, `{"a": [1, 2]}`},
		{"json", "", `"\u0000"`, `"\u0000"`},
		{"json", "", `null`, nil},
		{"json", "", `nul`, errClass(classMalformed)},
		{"jsonb", "", `{"a":"\u0000"}`, errClass(classEncoding)},
		{"jsonb", "", `{"\u0000":1}`, errClass(classEncoding)},
		{"jsonb", "", `"\\u0000"`, `"\\u0000"`},

		{"text[]", "", `["a", null, "\u0062" ]`, []any{"a", nil, "b"}},
		{"text[]", "", `[]`, []any{}},
		{"text[]", "", `"a"`, errClass(classType)},
		{"text[]", "", `["a", 1]`, errClass(classType)},
		{"text[]", "", `[["a"]]`, errClass(classType)},
		{"text[]", "", `["a",]`, errClass(classMalformed)},
		{"text[]", "", `null`, nil},
		{"int2[]", "", `[1,-2,32767]`, []any{int64(1), int64(-2), int64(32767)}},
		{"int2[]", "", `[1,32768]`, errClass(classRange)},
		{"float4[]", "", `[1,0.1]`, []any{1.0, float64(float32(0.1))}},
		{"numeric(3,1)[]", "", `[1,99.9]`, []any{"1", "99.9"}},
		{"bool[]", "", `[true,false,null]`, []any{int64(1), int64(0), nil}},
		{"timestamptz[]", "unix", `[1,"2"]`, []any{int64(1e6), int64(2e6)}},
		{"date[]", "", `["1970-01-02"]`, []any{int64(1)}},
		{"uuid[]", "", `["123e4567-e89b-12d3-a456-426614174000"]`, []any{"123e4567-e89b-12d3-a456-426614174000"}},
		{"bytea[]", "hex", `["00","ff"]`, []any{"\x00", "\xff"}},
		{"jsonb[]", "", `[{},null,"x"]`, []any{`{}`, nil, `"x"`}},
	}
	for _, c := range cases {
		t.Run(c.typ+" "+c.format+" "+c.json, func(t *testing.T) {
			t.Parallel()
			b := process(t, []Column{{Name: "v", Type: c.typ, Format: c.format}}, flow.Record{Value: []byte(`{"v":` + c.json + `}`)})
			if b.Rejected(0) {
				if class := classOf(t, b); c.want != errClass(class) {
					t.Errorf("class %s (%s), want %v", class, b.DeadLetters()[0].Message, c.want)
				}
				return
			}
			if got := valueAt(&b.Columns.Cols[0], 0); !same(got, c.want) {
				t.Errorf("%#v, want %#v", got, c.want)
			}
		})
	}
}

func TestRecordParts(t *testing.T) {
	t.Parallel()
	columns := []Column{
		{Name: "device", Type: "text", From: "key"},
		{Name: "number", Type: "int4", From: "header:n", Default: "5"},
		{Name: "trace", Type: "bytea", From: "header:trace"},
		{Name: "meta", Type: "jsonb", From: "header:meta"},
		{Name: "topic", Type: "text", From: "topic"},
		{Name: "part", Type: "int4", From: "partition"},
		{Name: "pos", Type: "int8", From: "offset"},
		{Name: "at", Type: "timestamptz", From: "timestamp"},
		{Name: "day", Type: "date", From: "timestamp"},
		{Name: "ms", Type: "int8", From: "timestamp"},
		{Name: "text", Type: "text", From: "raw"},
		{Name: "bytes", Type: "bytea", From: "raw"},
		{Name: "doc", Type: "jsonb", From: "raw"},
		{Name: "v", Type: "int4", Required: true},
		{Name: "w", Type: "int4", Default: "3", Required: true},
	}
	b := process(
		t, columns,
		flow.Record{
			Key: []byte("dev-1"), Value: []byte(` {"v":1} `), Timestamp: -1, Offset: 41,
			Headers: []flow.Header{{Key: "n", Value: []byte("1")}, {Key: "trace", Value: []byte{0xff}}, {Key: "n", Value: []byte("2")}, {Key: "meta", Value: []byte(` {"x":1}`)}},
		},
		flow.Record{Timestamp: 86400_001_999, Offset: 42},
	)
	if b.Rows() != 2 {
		t.Fatal(b.DeadLetters())
	}
	want := [][]any{
		{"dev-1", int64(2), "\xff", ` {"x":1}`, "telemetry", int64(7), int64(41), int64(-1), int64(-1), int64(-1), ` {"v":1} `, ` {"v":1} `, `{"v":1}`, int64(1), int64(3)},
		// A tombstone: what is read from the value is null, required or not.
		{nil, int64(5), nil, nil, "telemetry", int64(7), int64(42), int64(86400_001_999), int64(1), int64(86400_001), nil, nil, nil, nil, nil},
	}
	for row := range want {
		for i := range columns {
			if got := valueAt(&b.Columns.Cols[i], row); got != want[row][i] {
				t.Errorf("row %d, column %s: %#v, want %#v", row, columns[i].Name, got, want[row][i])
			}
		}
	}
}

func TestRecordPartsRejected(t *testing.T) {
	t.Parallel()
	header := func(v string) flow.Record {
		return flow.Record{Value: []byte(`{}`), Headers: []flow.Header{{Key: "h", Value: []byte(v)}}}
	}
	key := func(k string) flow.Record { return flow.Record{Value: []byte(`{}`), Key: []byte(k)} }
	cases := []struct {
		column Column
		rec    flow.Record
		class  string
	}{
		{Column{Type: "int4", From: "header:h"}, header("x"), classType},
		{Column{Type: "int2", From: "header:h"}, header("40000"), classRange},
		{Column{Type: "text", From: "header:h"}, header("\xff"), classEncoding},
		{Column{Type: "text", From: "header:h"}, header("a\x00"), classEncoding},
		{Column{Type: "json", From: "header:h"}, header("{"), classMalformed},
		{Column{Type: "jsonb", From: "header:h"}, header(`"\u0000"`), classEncoding},
		{Column{Type: "jsonb", From: "header:h", Required: true}, header(` null`), classNull},
		{Column{Type: "text", From: "header:i", Required: true}, header("x"), classNull},
		{Column{Type: "text", From: "key", Required: true}, header("x"), classNull},
		{Column{Type: "text", From: "key", Path: "id", Required: true}, header("x"), classNull},
		{Column{Type: "text", From: "key", Path: "id", Required: true}, key(`{"id":null}`), classNull},
		{Column{Type: "text", From: "key", Path: "id"}, key(`{"id":1}`), classType},
		{Column{Type: "text", From: "key", Path: "id"}, key(`x`), classMalformed},
		{Column{Type: "uuid", From: "key"}, key("x"), classType},
		{Column{Type: "int2", From: "offset"}, flow.Record{Offset: 40000}, classRange},
		{Column{Type: "int4", From: "timestamp"}, flow.Record{Timestamp: math.MaxInt64}, classRange},
		{Column{Type: "date", From: "timestamp"}, flow.Record{Timestamp: math.MaxInt64}, classRange},
		{Column{Type: "int8", From: "timestamp", Format: "unix_ns"}, flow.Record{Timestamp: math.MaxInt64}, classRange},
	}
	for _, c := range cases {
		c.column.Name = "c"
		b := process(t, []Column{c.column}, c.rec)
		if !b.Rejected(0) {
			t.Errorf("%+v: not rejected", c.column)
			continue
		}
		if class := classOf(t, b); class != c.class {
			t.Errorf("%+v: class %s, want %s", c.column, class, c.class)
		}
	}
	b := process(t, []Column{{Name: "id", Type: "text", From: "key", Path: "id"}, {Name: "q", Type: "text", From: "key"}}, key(`{"id":"x"}`))
	if got := valueAt(&b.Columns.Cols[0], 0); got != "x" {
		t.Errorf("path into the key: %v", got)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	const doc = `{"a":{"b":{"c":"deep"},"0":"key zero"},"l":[1,{"x":"in array"},[[5]]],"p.q":"dotted","":"empty","\u0071":"escaped","ke\"y":"quoted","n":null,"s":"x"}`
	for _, c := range []struct {
		path string
		want any
	}{
		{"a.b.c", "deep"},
		{"a.0", "key zero"},
		{"l.1.x", "in array"},
		{"l.9.x", nil},
		{"a.z.z", nil},
		{"n.a.b", nil},
		{`"p.q"`, "dotted"},
		{`""`, "empty"},
		{"q", "escaped"},
		{`"ke\"y"`, "quoted"},
		{"p.q", nil},
		{"s.t", errClass(classType)},
		{"l.x", errClass(classType)},
	} {
		b := process(t, []Column{{Name: "v", Type: "text", Path: c.path}}, flow.Record{Value: []byte(doc)}, flow.Record{Value: []byte(doc)})
		for row := range 2 {
			if b.Rejected(row) {
				if class := recordError(t, errorAt(b, row)).Class; c.want != errClass(class) {
					t.Errorf("%s: class %s, want %v", c.path, class, c.want)
				}
			} else if got := valueAt(&b.Columns.Cols[0], row); got != c.want {
				t.Errorf("%s: %v, want %v", c.path, got, c.want)
			}
		}
	}
	// The default path is the name as one key, dots and all.
	b := process(t, []Column{{Name: "p.q", Type: "text"}}, flow.Record{Value: []byte(doc)})
	if got := valueAt(&b.Columns.Cols[0], 0); got != "dotted" {
		t.Errorf("default path: %v", got)
	}
}

func TestPathsFromTheRoot(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"$.a": "write a", "$.a.b": "write a.b", "$[0]": "a.0.b", "$": "", `"$".a`: "", "$a": "", "a.$": ""} {
		_, err := parsePath(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestDocumentThatIsNoObject(t *testing.T) {
	t.Parallel()
	a, whole := Column{Name: "a", Type: "int4"}, Column{Name: "doc", Type: "jsonb", Path: rootPath}
	for _, doc := range []string{"null", " null ", "[]", `"s"`, "1", "true"} {
		b := process(t, []Column{a}, flow.Record{Value: []byte(doc)})
		if !b.Rejected(0) || classOf(t, b) != classType {
			t.Errorf("%s: rejected %v, want class type", doc, b.Rejected(0))
		}
	}
	for _, columns := range [][]Column{{whole}, {a, whole}} {
		if b := process(t, columns, flow.Record{Value: []byte("null")}); b.Rejected(0) {
			t.Errorf("null with a column for the whole document: %v", errorAt(b, 0))
		}
	}
	key := process(t, []Column{{Name: "k", Type: "int4", From: "key", Path: "k"}}, flow.Record{Key: []byte("null"), Value: []byte("{}")})
	if !key.Rejected(0) {
		t.Error("a key that is null was accepted")
	}
}

// errorAt is why a row was rejected, as flow keeps it.
func errorAt(b *flow.Batch, row int) error {
	for _, d := range b.DeadLetters() {
		if d.Record == &b.Records[row] {
			return &flow.RecordError{Class: d.Class, Column: d.Column, Err: fmt.Errorf("%s", d.Message)}
		}
	}
	return nil
}

func TestMessages(t *testing.T) {
	t.Parallel()
	columns := []Column{
		{Name: "temp", Type: "float8", Path: "meta.temp"},
		{Name: "n", Type: "int2"},
		{Name: "at", Type: "timestamptz"},
		{Name: "id", Type: "text", Required: true},
		{Name: "l", Type: "int4[]"},
	}
	for doc, want := range map[string]string{
		`{"meta":{"temp":"hot"}}`:          `column temp: found "hot" at path meta.temp of the value, byte 16, want float8`,
		`{"meta":[]}`:                      `column temp: found [] at path meta.temp of the value, byte 8: "meta" in the value is an array, not an object`,
		`5`:                                `column temp: found 5 at path meta.temp of the value, byte 0: the value is a number, not an object`,
		`{"n":40000}`:                      `column n: found 40000 at path n of the value, byte 5: out of range for int2 (-32768 to 32767)`,
		`{"at":"noon"}`:                    `column at: found "noon" at path at of the value, byte 6, want timestamptz written like 2006-01-02T15:04:05Z`,
		`{"id":null}`:                      `column id: found null at path id of the value, and the column is required`,
		`{"n":1}`:                          `column id: found nothing at path id of the value, and the column is required`,
		`{"id":"a\u0000"}`:                 `column id: found "a\u0000" at path id of the value, byte 6: text cannot hold the character U+0000`,
		`{"id":1,"id":2,"n":"x","id":"y"}`: `column n: found "x" at path n of the value, byte 19, want int2`,
		`{"l":[1,"two"]}`:                  `column l: found "two" at path l of the value, byte 8, want int4`,
		`{"n":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24]}`: `column n: found [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19… at path n of the value, byte 5, want int2`,
		`{"n":1`:                `the value at byte 6: not JSON: the document ends where a comma or } after a value should be`,
		`{"n":01}`:              `the value at byte 6: not JSON: found 1}, want a digit (numbers are written like -12.5e3, without leading zeros)`,
		`{"n":tru}`:             `the value at byte 5: not JSON: found tru}, want a value`,
		``:                      `the value at byte 0: it is empty, not JSON`,
		"\xef\xbb\xbf{}":        `the value at byte 0: not JSON: it begins with a byte order mark`,
		`{"x":"\ud800"}`:        `the value at byte 6: the surrogate \ud800 has none after it to make a pair`,
		"{\"x\":\"\xff\"}":      `the value at byte 6: a string is not valid UTF-8 (byte 0xff)`,
		"{\"x\":\"\n\"}":        `the value at byte 6: a control character (byte 0x0a) in a string; it must be escaped`,
		"{\"n\":\"\x7f\u200b\"": `the value at byte 11: not JSON: the document ends where a comma or } after a value should be`,
	} {
		b := process(t, columns, flow.Record{Value: []byte(doc)})
		dead := b.DeadLetters()
		if len(dead) != 1 {
			t.Errorf("%q: not rejected", doc)
			continue
		}
		if dead[0].Message != want {
			t.Errorf("%q:\n%s\nwant\n%s", doc, dead[0].Message, want)
		}
	}
}

// TestNeighbours mixes good, bad and rejected rows: whatever happens to one leaves
// the others as they are, in lists too, and batches reuse their columns.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	columns := []Column{
		{Name: "a", Type: "text"},
		{Name: "l", Type: "int4[]", Default: "[7,null]"},
		{Name: "n", Type: "int4"},
	}
	docs := []string{
		`{"a":"0","l":[1,2,3]}`,
		`{"l":[4,5,"x"]}`,
		`{"l":[4,5`,
		`{"a":"3","l":[6,null],"n":3}`,
		`{"l":[9,9],"l":[8],"a":1,"a":"4","n":"x","n":4}`,
		`{"l":[9,9],"l":null,"n":5,"n":null}`,
		`{"a":"rejected before"}`,
		`{"n":7,"l":[null,null],"a":"\t7"}`,
	}
	want := [][]any{
		{"0", []any{int64(1), int64(2), int64(3)}, nil},
		nil, nil,
		{"3", []any{int64(6), nil}, int64(3)},
		{"4", []any{int64(8)}, int64(4)},
		{nil, []any{int64(7), nil}, nil},
		nil,
		{"\t7", []any{nil, nil}, int64(7)},
	}
	records := make([]flow.Record, len(docs))
	for i, d := range docs {
		records[i] = flow.Record{Value: []byte(d)}
	}
	j, err := NewJSON(JSONConfig{Columns: columns})
	if err != nil {
		t.Fatal(err)
	}
	j.generation = math.MaxUint32 - 3 // so that it begins again in the middle
	var reused *flow.Columns
	for range 3 {
		b := flow.NewBatch(records, []flow.Part{{End: len(records)}})
		b.Columns = reused
		b.Reject(6, flow.StageTransform, fmt.Errorf("by an earlier transform"))
		if err := j.Process(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if reused != nil && b.Columns != reused {
			t.Error("the columns were not reused")
		}
		reused = b.Columns
		for row := range want {
			if b.Rejected(row) != (want[row] == nil) {
				t.Fatalf("row %d: rejected is %v (%v)", row, b.Rejected(row), b.DeadLetters())
			}
			for i := range columns {
				if want[row] == nil {
					continue
				}
				if got := valueAt(&b.Columns.Cols[i], row); !reflect.DeepEqual(got, want[row][i]) {
					t.Errorf("row %d, column %s: %#v, want %#v", row, columns[i].Name, got, want[row][i])
				}
			}
		}
	}
}

// TestViews checks that text without escapes is not copied, and that no record
// is written to.
func TestViews(t *testing.T) {
	t.Parallel()
	value := []byte(`{"a":"plain","b":"esc\naped"}`)
	b := process(t, []Column{{Name: "a", Type: "text"}, {Name: "b", Type: "text"}}, flow.Record{Value: value})
	if a := b.Columns.Cols[0].Bytes[0]; &a[0] != &value[6] || cap(a) != len(a) {
		t.Error("plain text is not a view of its own capacity")
	}
	if got := string(b.Columns.Scratch); got != "esc\naped" {
		t.Errorf("scratch holds %q", got)
	}
}

// TestLearningIsBounded feeds keys that never repeat.
func TestLearningIsBounded(t *testing.T) {
	t.Parallel()
	j, err := NewJSON(JSONConfig{Columns: []Column{{Name: "a", Type: "int4"}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		doc := fmt.Sprintf(`{"key-%d":1,"%s":2,"\u0061":%d}`, i, strings.Repeat("x", 100+i), i)
		b := processWith(t, j, flow.Record{Value: []byte(doc)})
		if got := valueAt(&b.Columns.Cols[0], 0); got != int64(i) {
			t.Fatalf("%v, want %d", got, i)
		}
	}
	if n := len(j.value.root.object.seen); n > maxLearned+1 {
		t.Errorf("%d keys learned", n)
	}
}

// TestNoAllocations covers what the fast paths leave, too.
func TestNoAllocations(t *testing.T) {
	columns := append([]Column{{Name: "esc", Type: "text", Default: "none"}, {Name: "topic", Type: "text", From: "topic"}, {Name: "extra", Type: "int8"}}, nestedColumns...)
	records := nested(64)
	for i := range records {
		tail := [...]string{`,"esc":"a\u00e9\n"}`, `,"extra":1.0e3,"unknown":[{"x":"ü"}]}`, `,"battery":{"soc":0.1234567890123456789}}`}[i%3]
		records[i].Value = append(records[i].Value[:len(records[i].Value)-1], tail...)
	}
	j, err := NewJSON(JSONConfig{Columns: columns})
	if err != nil {
		t.Fatal(err)
	}
	b := flow.NewBatch(records, []flow.Part{{End: len(records)}})
	run := func() {
		if err := j.Process(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if b.Rows() != len(records) {
		t.Fatal(b.DeadLetters()[0].Message)
	}
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}
