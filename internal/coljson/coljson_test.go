package coljson

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

func TestAppend(t *testing.T) {
	for _, c := range []struct {
		field flow.Field
		fill  func(c *flow.Column)
		want  string
		err   error
	}{
		{field: flow.Field{Kind: flow.KindInt64}, fill: func(c *flow.Column) { c.Ints[0] = -5 }, want: "-5"},
		{field: flow.Field{Kind: flow.KindInt64}, fill: func(c *flow.Column) { c.SetNull(0) }, want: "null"},
		{field: flow.Field{Kind: flow.KindBool}, fill: func(c *flow.Column) { c.Ints[0] = 1 }, want: "true"},
		{field: flow.Field{Kind: flow.KindFloat64}, fill: func(c *flow.Column) { c.Floats[0] = 1e30 }, want: "1e+30"},
		{field: flow.Field{Kind: flow.KindFloat64}, fill: func(c *flow.Column) { c.Floats[0] = math.NaN() }, err: ErrNumber},
		{field: flow.Field{Kind: flow.KindDecimal}, fill: func(c *flow.Column) { c.Bytes[0] = []byte("1.50") }, want: "1.50"},
		{field: flow.Field{Kind: flow.KindBytes}, fill: func(c *flow.Column) { c.Bytes[0] = []byte{1, 255} }, want: `"01ff"`},
		{field: flow.Field{Kind: flow.KindJSON}, fill: func(c *flow.Column) { c.Bytes[0] = []byte(`{"a":1}`) }, want: `{"a":1}`},
		{field: flow.Field{Kind: flow.KindDate, Type: "date"}, fill: func(c *flow.Column) { c.Ints[0] = -1 }, want: `"1969-12-31"`},
		{field: flow.Field{Kind: flow.KindTimestamp, Type: "timestamp"}, fill: func(c *flow.Column) { c.Ints[0] = 1 }, want: `"1970-01-01T00:00:00.000001"`},
		{field: flow.Field{Kind: flow.KindTimestamp, Type: "timestamptz"}, fill: func(c *flow.Column) { c.Ints[0] = 1 }, want: `"1970-01-01T00:00:00.000001Z"`},
		{field: flow.Field{Kind: flow.KindTimestamp, Type: "timestamptz"}, fill: func(c *flow.Column) { c.Ints[0] = math.MaxInt64 }, err: ErrTime},
		{field: flow.Field{Kind: flow.KindList, Elem: flow.KindDate, Type: "date[]"}, want: `["1970-01-01",null]`, fill: func(c *flow.Column) {
			c.Offsets[1], c.Elem.Ints, c.Elem.Nulls = 2, []int64{0, 0}, []uint64{2}
		}},
		{field: flow.Field{Kind: flow.KindList, Elem: flow.KindFloat64}, err: ErrNumber, fill: func(c *flow.Column) {
			c.Offsets[1], c.Elem.Floats = 1, []float64{math.Inf(1)}
		}},
	} {
		cols := flow.NewColumns([]flow.Field{c.field})
		cols.Reset(1)
		c.fill(&cols.Cols[0])
		got, err := Append(nil, &cols.Cols[0], 0)
		if !errors.Is(err, c.err) || err == nil && string(got) != c.want {
			t.Errorf("%+v: got %s, %v; want %s, %v", c.field, got, err, c.want, c.err)
		}
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a", "\"\\\x00\x1f\u2028\n", "\xff\xc3", "ü𝄞\xf0\x9d", "\xef\xbf\xbd"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		var got string
		text := AppendString(nil, s)
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if want := string([]rune(string(s))); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	})
}
