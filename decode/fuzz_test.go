package decode

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// fuzzPlans read the same few keys in many ways.
var fuzzPlans = []struct {
	name    string
	columns []Column
}{
	{"scalars", []Column{
		{Name: "a", Type: "text"},
		{Name: "b", Type: "int8"},
		{Name: "c", Type: "float8"},
		{Name: "d", Type: "bool"},
		{Name: "e", Type: "timestamptz"},
		{Name: "f", Type: "numeric(6,2)"},
		{Name: "g", Type: "jsonb"},
	}},
	{"others", []Column{
		{Name: "a", Type: "bytea"},
		{Name: "b", Type: "int2"},
		{Name: "c", Type: "float4"},
		{Name: "d", Type: "uuid"},
		{Name: "e", Type: "timestamp"},
		{Name: "f", Type: "numeric"},
		{Name: "g", Type: "date"},
		{Name: "h", Type: "int4", Required: true},
	}},
	{"counted", []Column{
		{Name: "b", Type: "timestamptz", Format: "unix_ms"},
		{Name: "c", Type: "timestamp", Format: "unix"},
		{Name: "f", Type: "date", Format: "unix_ns"},
		{Name: "n", Type: "numeric(3,4)", Path: "c"},
		{Name: "h", Type: "timestamptz", Format: "unix_us"},
		{Name: "i", Type: "int4", Format: "string", Path: "a"},
		{Name: "j", Type: "float8", Format: "string", Path: "d"},
	}},
	{"nested", []Column{
		{Name: "w", Type: "text", Path: "a.b.c"},
		{Name: "x", Type: "int4", Path: "a.b.0"},
		{Name: "y", Type: "float8", Path: "a.1"},
		{Name: "z", Type: "json", Path: "g.a"},
		{Name: "v", Type: "text", Path: `"a.b".""`},
	}},
	{"shared", []Column{
		{Name: "all", Type: "json", Path: "$"},
		{Name: "a", Type: "json"},
		{Name: "ab", Type: "json", Path: "a.b"},
		{Name: "b", Type: "text"},
		{Name: "b2", Type: "text", Path: "b"},
	}},
	{"lists", []Column{
		{Name: "a", Type: "text[]"},
		{Name: "b", Type: "int4[]"},
		{Name: "c", Type: "float8[]"},
		{Name: "g", Type: "jsonb[]"},
		{Name: "f", Type: "numeric(6,2)[]"},
		{Name: "e", Type: "timestamptz[]", Path: "e.f"},
	}},
	{"root", []Column{{Name: "a", Type: "int8[]", Path: "$"}}},
	{"nothing", []Column{{Name: "not there", Type: "text"}}},
}

var fuzzSeeds = []string{
	`{"a":"x","b":1,"c":1.5,"d":true,"e":"2026-03-01T12:34:56.789Z","f":12.34,"g":{"a":[1,2,{}]}}`,
	`{"g":"2026-02-29","f":1e5,"e":"2026-03-01 12:34:56","d":"123e4567-e89b-12d3-a456-426614174000","c":3.4028235677973366e38,"b":-32768,"a":"AAEC","h":1.0}`,
	`{"a":{"b":{"c":"x"}},"g":{"a":null}}`,
	`{"a":{"b":[1,2]},"a":[1,2.5]}`,
	`{"a":[1,2.5,"x"],"a.b":{"":"\u0041\n\ud83d\ude00"}}`,
	`{"a":["x",null,"\u00e9"],"b":[1,2e2,null],"c":[],"g":[{},[],"",null],"f":[9999.99,9999.995],"e":{"f":["2026-03-01T00:00:00+14:00"]}}`,
	`[1,2,null,9223372036854775807,-9223372036854775808]`,
	`{"b":1772368496789,"c":1772368496.789,"f":-1,"h":-62135596800000000,"a":"12","d":"1e400"}`,
	`{"a":"\u0000","g":"\u0000","g":1}`,
	"{ \"b\" : 2 ,\r\n\t\"a\" : \"Zürich 東京\" , \"zz\":[{\"x\":[[]]}] }",
	`{"\u0061":"escaped key","b":1,"b":"x","b":3}`,
	`{"c":0.1234567890123456789,"b":-0,"f":-0.00}`,
	`{"c":1e23,"f":1e-20000}`,
	`null`, `5`, `"x"`, `[]`, ``, `{`,
}

// FuzzJSONAgainstEncodingJSON compares acceptance, classes and all values with the
// reference decoder. The other document in between teaches another order
// of keys, and must leave no traces.
func FuzzJSONAgainstEncodingJSON(f *testing.F) {
	for i, s := range fuzzSeeds {
		f.Add([]byte(s), []byte(fuzzSeeds[(i+1)%len(fuzzSeeds)]))
	}
	for i, s := range suite {
		if len(s.doc) < 1000 {
			f.Add([]byte(s.doc), []byte(fuzzSeeds[i%len(fuzzSeeds)]))
		}
	}
	decoders := make([]*JSON, len(fuzzPlans))
	for i, p := range fuzzPlans {
		var err error
		if decoders[i], err = NewJSON(JSONConfig{Columns: p.columns}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, doc, other []byte) {
		docs := [][]byte{doc, other, doc, doc}
		records := make([]flow.Record, len(docs))
		for i, d := range docs {
			records[i] = flow.Record{Value: append([]byte{}, d...), Offset: int64(i)}
		}
		for i, p := range fuzzPlans {
			b := processWith(t, decoders[i], records...)
			for k, d := range docs {
				if !bytes.Equal(records[k].Value, d) {
					t.Fatalf("%s: the record was modified", p.name)
				}
			}
			compare(t, p.name, p.columns, b)
		}
	})
}

// FuzzTime compares the hand-written time parser with package time.
func FuzzTime(f *testing.F) {
	for _, s := range []string{
		"2026-03-01T12:34:56Z", "2026-03-01t12:34:56.789z", "2024-02-29 23:59:59.9999999+23:59", "2023-02-29T00:00:00Z",
		"1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01",
		"1900-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-00T00:00:00Z",
		"2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-12-31T23:59:60Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00",
		"2026-01-01T00:00:00+0100", "2026-01-01", "2026-1-1T0:0:0Z", "2026/01/01T00:00:00Z", "2026-01-01T00:00:00,5Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, zoneless := range []bool{false, true} {
			want, err := referenceTime(s, zoneless)
			got, fault := parseTimestamp([]byte(s), zoneless)
			wantFault := fine
			if errors.Is(err, errClass(classType)) {
				wantFault = wrongType
			} else if err != nil {
				wantFault = outOfRange
			}
			if fault != wantFault || (fault == fine && got != want) {
				t.Fatalf("%q: %d, fault %d; package time: %v, %v", s, got, fault, want, err)
			}
			// Whatever is strict RFC 3339 is a time to package time as well.
			if std, err := time.Parse(time.RFC3339Nano, s); fault == fine && err == nil && got != std.UnixMicro() {
				t.Fatalf("%q: %d; package time: %d", s, got, std.UnixMicro())
			}
		}
		want, err := time.Parse("2006-01-02", s)
		got, fault := parseDate([]byte(s))
		if year := want.Year(); (fault == fine) != (err == nil && year > 0) || (fault == fine && got != floorDiv(want.Unix(), 86400)) {
			t.Fatalf("date %q: %d, fault %d; package time: %v, %v", s, got, fault, want, err)
		}
	})
}
