package decode

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		columns    []Column
		path, says string
	}{
		{nil, "columns", "no columns"},
		{[]Column{{Type: "text"}}, "columns.name", "column 1 has no name"},
		{[]Column{{Name: "a", Type: "text"}, {Name: "a", Type: "text"}}, "columns.a.name", "two columns"},
		{[]Column{{Name: "a"}}, "columns.a.type", "missing"},
		{[]Column{{Name: "a", Type: "bigint"}}, "columns.a.type", "write int8"},
		{[]Column{{Name: "a", Type: "txt"}}, "columns.a.type", "one of text,"},
		{[]Column{{Name: "a", Type: "text[][]"}}, "columns.a.type", "not a type"},
		{[]Column{{Name: "a", Type: "numeric(0,2)"}}, "columns.a.type", "precision p of 1 to 1000"},
		{[]Column{{Name: "a", Type: "numeric(5"}}, "columns.a.type", "numeric(p,s)"},
		{[]Column{{Name: "a", Type: "numeric(5,x)"}}, "columns.a.type", "numeric(p,s)"},
		{[]Column{{Name: "a", Type: "text", From: "body"}}, "columns.a.from", "one of value, key"},
		{[]Column{{Name: "a", Type: "text", From: "header:"}}, "columns.a.from", "name of the header"},
		{[]Column{{Name: "a", Type: "text", Format: "hex"}}, "columns.a.format", "no formats"},
		{[]Column{{Name: "a", Type: "int4", Format: "hex"}}, "columns.a.format", "only string"},
		{[]Column{{Name: "a", Type: "bytea", Format: "base32"}}, "columns.a.format", "base64url"},
		{[]Column{{Name: "a", Type: "timestamptz", Format: "rfc3399"}}, "columns.a.format", "unix_ms"},
		{[]Column{{Name: "a", Type: "date", Format: "YYYY-MM-DD"}}, "columns.a.format", "2006-01-02"},
		{[]Column{{Name: "a", Type: "text", Path: "a..b"}}, "columns.a.path", "empty key"},
		{[]Column{{Name: "a", Type: "text", Path: "a."}}, "columns.a.path", "empty key"},
		{[]Column{{Name: "a", Type: "text", Path: "a[0]"}}, "columns.a.path", "a.0.b"},
		{[]Column{{Name: "a", Type: "text", Path: `"a`}}, "columns.a.path", "closing quote"},
		{[]Column{{Name: "a", Type: "text", Path: `"a\n"`}}, "columns.a.path", "backslash"},
		{[]Column{{Name: "a", Type: "text", Path: `"a"b`}}, "columns.a.path", "dot is missing"},
		{[]Column{{Name: "a", Type: "text", Path: strings.Repeat("a.", 600) + "a"}}, "columns.a.path", "512 deep"},
		{[]Column{{Name: "a", Type: "text", From: "topic", Path: "b"}}, "columns.a.path", "read from topic"},
		{[]Column{{Name: "a", Type: "int4", From: "topic"}}, "columns.a.type", "it can be text"},
		{[]Column{{Name: "a", Type: "text", From: "offset"}}, "columns.a.type", "int2, int4 and int8"},
		{[]Column{{Name: "a", Type: "text", From: "timestamp"}}, "columns.a.type", "timestamptz"},
		{[]Column{{Name: "a", Type: "int8", From: "timestamp", Format: "rfc3339"}}, "columns.a.format", "one of unix"},
		{[]Column{{Name: "a", Type: "timestamptz", From: "timestamp", Format: "unix"}}, "columns.a.format", "no formats"},
		{[]Column{{Name: "a", Type: "text[]", From: "header:x"}}, "columns.a.type", "any type but arrays"},
		{[]Column{{Name: "a", Type: "int4", From: "raw"}}, "columns.a.type", "text, bytea, json and jsonb"},
		{[]Column{{Name: "a", Type: "bytea", From: "raw", Format: "hex"}}, "columns.a.format", "no formats"},
		{[]Column{{Name: "a", Type: "text", From: "topic", Default: "x"}}, "columns.a.default", "never be used"},
		{[]Column{{Name: "a", Type: "text", From: "raw", Default: "x"}}, "columns.a.default", "never be used"},
		{[]Column{{Name: "a", Type: "int4", Default: "x"}}, "columns.a.default", "want int4"},
		{[]Column{{Name: "a", Type: "int2", Default: "40000"}}, "columns.a.default", "want int2"},
		{[]Column{{Name: "a", Type: "text", Default: "\xff"}}, "columns.a.default", "want text"},
		{[]Column{{Name: "a", Type: "jsonb", Default: "{"}}, "columns.a.default", "ends where"},
		{[]Column{{Name: "a", Type: "jsonb", Default: "{} x"}}, "columns.a.default", "end of the document"},
		{[]Column{{Name: "a", Type: "jsonb", Default: " "}}, "columns.a.default", "ends where"},
		{[]Column{{Name: "a", Type: "int4[]", Default: `[1,"x"]`}}, "columns.a.default", `found "x"`},
		{[]Column{{Name: "a", Type: "timestamptz", Default: "now"}}, "columns.a.default", "want timestamptz"},
	} {
		cfg := JSONConfig{Columns: c.columns}
		err := cfg.Validate()
		var fe *connect.FieldError
		if !errors.As(err, &fe) {
			t.Errorf("%+v: %v, want a FieldError", c.columns, err)
			continue
		}
		if fe.Path != c.path || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v:\n%v\nwant %s: …%s…", c.columns, err, c.path, c.says)
		}
		if _, err := NewJSON(cfg); err == nil {
			t.Errorf("%+v: NewJSON accepts what Validate refuses", c.columns)
		}
	}
}

func TestValidateNamesEveryColumn(t *testing.T) {
	t.Parallel()
	cfg := JSONConfig{Columns: []Column{{Name: "a", Type: "x"}, {Name: "b", Type: "text"}, {Name: "c", Type: "int4", Default: "x"}}}
	err := cfg.Validate()
	if err == nil || !strings.Contains(err.Error(), "columns.a.type: ") || !strings.Contains(err.Error(), "columns.c.default: ") {
		t.Error(err)
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	j, err := NewJSON(JSONConfig{Columns: []Column{
		{Name: "a", Type: " numeric( 10 , 2 )[]"},
		{Name: "b", Type: "numeric(10)", Required: true},
		{Name: "c", Type: "uuid"},
		{Name: "d", Type: "timestamp", From: "timestamp"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []flow.Field{
		{Name: "a", Type: "numeric(10,2)[]", Kind: flow.KindList, Elem: flow.KindDecimal},
		{Name: "b", Type: "numeric(10,0)", Kind: flow.KindDecimal, Required: true},
		{Name: "c", Type: "uuid", Kind: flow.KindString},
		{Name: "d", Type: "timestamp", Kind: flow.KindTimestamp},
	}
	if !slices.Equal(j.Fields(), want) {
		t.Errorf("%+v", j.Fields())
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ, def string
		want     any
	}{
		{"text", "x", "x"},
		{"text", `""`, ""},
		{"text", `"a\u00e9"`, "aé"},
		{"int4", "1e3", int64(1000)},
		{"float8", "1.5", 1.5},
		{"numeric", "1.50", "1.50"},
		{"bool", "true", int64(1)},
		{"timestamptz", "1970-01-01T00:00:01Z", int64(1e6)},
		{"date", "1970-01-02", int64(1)},
		{"uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"},
		{"bytea", "AAE=", "\x00\x01"},
		{"jsonb", `{"a":[]}`, `{"a":[]}`},
		{"text[]", `["a",null,"\n"]`, []any{"a", nil, "\n"}},
		{"float4[]", ` [] `, []any{}},
		{"bool[]", `[true]`, []any{int64(1)}},
	} {
		columns := []Column{{Name: "v", Type: c.typ, Default: c.def, Required: true}}
		b := process(t, columns, flow.Record{Value: []byte(`{}`)}, flow.Record{Value: []byte(`{"v":null}`)})
		if b.Rows() != 2 {
			t.Errorf("%s: %v", c.typ, b.DeadLetters())
			continue
		}
		for row := range 2 {
			if got := valueAt(&b.Columns.Cols[0], row); !same(got, c.want) {
				t.Errorf("%s, row %d: %#v, want %#v", c.typ, row, got, c.want)
			}
		}
	}
}
