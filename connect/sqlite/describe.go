package sqlite

import (
	"context"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var _ connect.Describer = (*Sink)(nil)

// Describe implements connect.Describer. Of a flow with routes it is the first table.
func (s *Sink) Describe(context.Context) (*connect.Table, error) {
	c, err := s.peek()
	if err != nil || c == nil {
		return nil, err
	}
	defer c.close()
	name := s.cfg.tables()[0].Table
	cols, err := tableColumns(c, name)
	if err != nil || len(cols) == 0 {
		return nil, s.notDatabase(err)
	}
	t := &connect.Table{Name: name}
	for i := range cols {
		t.Columns = append(t.Columns, connect.TableColumn{
			Name: cols[i].name, Type: cols[i].declared, Field: cols[i].field(), Supported: !cols[i].generated,
			NotNull: cols[i].notNull, Filled: cols[i].filled(),
		})
	}
	t.Keys, err = uniqueKeys(c, name, cols)
	return t, err
}

// uniqueKeys are the columns of the primary key, and of the other unique keys.
func uniqueKeys(c *conn, table string, cols []tableColumn) ([][]string, error) {
	var primary []string
	for n := 1; n <= len(cols); n++ {
		if i := slices.IndexFunc(cols, func(c tableColumn) bool { return c.pk == n }); i >= 0 {
			primary = append(primary, cols[i].name)
		}
	}
	var keys [][]string
	if len(primary) > 0 {
		keys = append(keys, primary)
	}
	last := ""
	err := c.run(func(r *stmt) error {
		if r.text(0) != last {
			last, keys = r.text(0), append(keys, nil)
		}
		keys[len(keys)-1] = append(keys[len(keys)-1], r.text(1))
		return nil
	}, `SELECT l.name, i.name FROM pragma_index_list(?1) l, pragma_index_info(l.name) i
		WHERE l."unique" AND NOT l.partial AND l.origin <> 'pk' AND NOT EXISTS (SELECT 1 FROM pragma_index_info(l.name) WHERE name IS NULL)
		ORDER BY l.name, i.seqno`, table)
	return keys, err
}

// declaredKinds are what a decoder makes for a column, by what its declared type contains. The order
// matters: it is SQLite's own for its affinities, after the names that mean more to people.
var declaredKinds = []struct {
	part, typ string
	kind      flow.Kind
}{
	{"BOOL", "bool", flow.KindBool},
	{"TIMESTAMP", "timestamptz", flow.KindTimestamp},
	{"DATETIME", "timestamptz", flow.KindTimestamp},
	{"DATE", "date", flow.KindDate},
	{"JSON", "json", flow.KindJSON},
	{"UUID", "uuid", flow.KindString},
	{"INT", "int8", flow.KindInt64},
	{"CHAR", "text", flow.KindString},
	{"CLOB", "text", flow.KindString},
	{"TEXT", "text", flow.KindString},
	{"BLOB", "bytea", flow.KindBytes},
	{"REAL", "float8", flow.KindFloat64},
	{"FLOA", "float8", flow.KindFloat64},
	{"DOUB", "float8", flow.KindFloat64},
	{"NUM", "numeric", flow.KindDecimal},
	{"DEC", "numeric", flow.KindDecimal},
}

// field is what a decoder is to make for the column; text where the declaration says nothing.
func (c *tableColumn) field() flow.Field {
	f := flow.Field{Name: c.name, Type: "text", Kind: flow.KindString, Required: c.notNull && !c.filled()}
	declared := strings.ToUpper(c.declared)
	for _, k := range declaredKinds {
		if strings.Contains(declared, k.part) {
			f.Type, f.Kind = k.typ, k.kind
			break
		}
	}
	return f
}
