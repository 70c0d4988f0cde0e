package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var _ connect.Describer = (*Sink)(nil)

// Describe implements connect.Describer. Of a flow with routes it is the first table.
func (s *Sink) Describe(ctx context.Context) (*connect.Table, error) {
	c, err := s.dialAs(ctx, "penstock:describe")
	if err != nil {
		return nil, err
	}
	defer s.hangUp(ctx, c.pg)
	facts, err := readFacts(ctx, c.pg)
	if err != nil {
		return nil, classify("look at the server", err)
	}
	t := target{TableConfig: &s.cfg.tables()[0]}
	if err := t.locate(ctx, c.pg, facts); err != nil || t.table == nil {
		return nil, err
	}
	out := &connect.Table{Name: t.name.String()}
	for i := range t.table.columns {
		c := &t.table.columns[i]
		field, ok := c.field()
		out.Columns = append(out.Columns, connect.TableColumn{
			Name: c.name, Type: c.typ, Field: field, Supported: ok, NotNull: c.notNull, Filled: c.filled(),
		})
	}
	for i := range t.table.indexes {
		switch ix := &t.table.indexes[i]; {
		case ix.primary:
			out.Keys = slices.Insert(out.Keys, 0, ix.columns)
		case ix.usable:
			out.Keys = append(out.Keys, ix.columns)
		}
	}
	return out, nil
}

// fieldKinds are what a decoder makes for a type.
var fieldKinds = map[uint32]struct {
	typ  string
	kind flow.Kind
}{
	oidBool: {"bool", flow.KindBool}, oidBytea: {"bytea", flow.KindBytes}, oidUUID: {"uuid", flow.KindString},
	oidInt2: {"int2", flow.KindInt64}, oidInt4: {"int4", flow.KindInt64}, oidInt8: {"int8", flow.KindInt64},
	oidFloat4: {"float4", flow.KindFloat64}, oidFloat8: {"float8", flow.KindFloat64}, oidNumeric: {"numeric", flow.KindDecimal},
	oidText: {"text", flow.KindString}, oidVarchar: {"text", flow.KindString}, oidBpchar: {"text", flow.KindString},
	oidJSON: {"json", flow.KindJSON}, oidJSONB: {"jsonb", flow.KindJSON}, oidDate: {"date", flow.KindDate},
	oidTimestamp: {"timestamp", flow.KindTimestamp}, oidTimestamptz: {"timestamptz", flow.KindTimestamp},
}

// field is what a decoder is to make for the column; false: it cannot be written.
func (c *tableColumn) field() (flow.Field, bool) {
	f := flow.Field{Name: c.name, Required: c.notNull && !c.filled()}
	oid, isText := c.oid, c.enum || c.text
	if c.elem != 0 {
		oid, isText = c.elem, c.elemIsText
	}
	if isText {
		oid = oidText
	}
	k, ok := fieldKinds[oid]
	if !ok {
		return f, false
	}
	f.Type, f.Kind = k.typ, k.kind
	if scale := (c.typmod - 4) & 0x7ff; oid == oidNumeric && c.typmod >= 4 && scale < 0x400 { // 0x400 is the sign
		f.Type = fmt.Sprintf("numeric(%d,%d)", (c.typmod-4)>>16&0xffff, scale)
	}
	if c.elem != 0 {
		f.Type, f.Kind, f.Elem = f.Type+"[]", flow.KindList, f.Kind
	}
	_, err := newColumn(0, &f, c)
	return f, err == nil
}
