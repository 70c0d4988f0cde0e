package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// table is the target table as the catalog describes it.
type table struct {
	tableName
	oid      uint32
	kind     byte // pg_class.relkind
	unlogged bool
	// rowSecurity says that there are policies for rows.
	rowSecurity bool
	// anyOrder says that the order in which rows of different keys are written makes no
	// difference: there is no trigger, no sequence, and no constraint on several rows but the key.
	anyOrder bool
	columns  []tableColumn
	indexes  []uniqueIndex
}

type tableColumn struct {
	name string
	// typ is the type as SQL writes it; domains are under their own name.
	typ string
	// oid and typmod are those of the type under all domains.
	oid    uint32
	typmod int32
	// declared is the type itself, which may be a domain; attribute is how pg_attribute has the
	// column: type, typmod and whether it is NOT NULL.
	declared  uint32
	attribute string
	enum      bool
	text      bool // an extension's type with the wire form of text (citext)
	// elem is the element type of an array, 0 for others.
	elem       uint32
	elemIsText bool
	// citext says that the type, or that of the elements, is citext.
	citext bool
	// nondeterministic says that the collation takes different texts as equal.
	nondeterministic bool

	notNull    bool
	hasDefault bool
	identity   string // "", a (always) or d (by default)
	generated  bool
}

type uniqueIndex struct {
	oid     uint32
	columns []string
	primary bool
	// usable for ON CONFLICT: valid, immediate, neither partial nor on expressions.
	usable bool
	// nondeterministic says that a collation of the index takes different texts as equal.
	nondeterministic bool

	name string
}

func (t *table) column(name string) *tableColumn {
	for i := range t.columns {
		if t.columns[i].name == name {
			return &t.columns[i]
		}
	}
	return nil
}

// readTable reads the description of a table, or nil if there is none.
func readTable(ctx context.Context, pg *pgconn.PgConn, name tableName) (*table, error) {
	rows, err := query(ctx, pg, `
		SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relrowsecurity,
			NOT EXISTS (
				SELECT FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) part(oid)
				WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = part.oid AND NOT t.tgisinternal)
					OR EXISTS (SELECT FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
						WHERE a.attrelid = part.oid AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE '%nextval(%'))
					OR (SELECT count(*) FROM pg_index i WHERE i.indrelid = part.oid AND (i.indisunique OR i.indisexclusion)) > 1)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`, name.String())
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	r := rows[0]
	t := &table{
		tableName: tableName{schema: string(r[1]), name: string(r[2])}, oid: parseOID(r[0]),
		kind: r[3][0], unlogged: string(r[4]) == "u", rowSecurity: isTrue(r[5]), anyOrder: isTrue(r[6]),
	}
	rows, err = query(ctx, pg, `
		WITH RECURSIVE base AS (
			SELECT attnum, atttypid AS oid, atttypmod AS typmod, attnotnull AS notnull
			FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
			UNION ALL
			SELECT b.attnum, t.typbasetype, t.typtypmod, b.notnull OR t.typnotnull
			FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
		)
		SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.oid, b.typmod, t.typtype, t.typname,
			CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, coalesce(e.typtype = 'e' OR e.typname = 'citext', false),
			b.notnull, a.atthasdef OR d.typdefault IS NOT NULL, a.attidentity, a.attgenerated,
			'citext' IN (t.typname, e.typname), coalesce(NOT l.collisdeterministic, false), a.atttypid,
			format('%s, %s, %s', a.atttypid, a.atttypmod, a.attnotnull::text)
		FROM base b
		JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
		JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attnum = b.attnum
		JOIN pg_type d ON d.oid = a.atttypid
		LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
		LEFT JOIN pg_collation l ON l.oid = a.attcollation
		ORDER BY a.attnum`, string(r[0]))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		t.columns = append(t.columns, tableColumn{
			name: string(r[0]), typ: string(r[1]), oid: parseOID(r[2]), typmod: parseInt32(r[3]),
			enum: string(r[4]) == "e", text: string(r[5]) == "citext",
			elem: parseOID(r[6]), elemIsText: isTrue(r[7]),
			notNull: isTrue(r[8]), hasDefault: isTrue(r[9]), identity: string(r[10]), generated: len(r[11]) > 0,
			citext: isTrue(r[12]), nondeterministic: isTrue(r[13]), declared: parseOID(r[14]), attribute: string(r[15]),
		})
	}
	rows, err = query(ctx, pg, `
		SELECT i.indexrelid::regclass, i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL, a.attname,
			coalesce(NOT l.collisdeterministic, false), i.indexrelid::oid, i.indisprimary
		FROM pg_index i
		CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
		LEFT JOIN pg_collation l ON l.oid = i.indcollation[k.n - 1]
		WHERE i.indrelid = $1::oid AND i.indisunique AND k.n <= i.indnkeyatts
		ORDER BY 1, k.n`, string(r[0]))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if n := len(t.indexes); n == 0 || t.indexes[n-1].name != string(r[0]) {
			t.indexes = append(t.indexes, uniqueIndex{oid: parseOID(r[4]), name: string(r[0]), usable: isTrue(r[1]), primary: isTrue(r[5])})
		}
		ix := &t.indexes[len(t.indexes)-1]
		ix.columns = append(ix.columns, string(r[2]))
		ix.nondeterministic = ix.nondeterministic || isTrue(r[3])
	}
	return t, nil
}

// fault is what keeps a flow from writing a table.
type fault struct {
	// column is the flow's or the table's column at fault; empty if it is the table.
	column string
	text   string
	// mend says how; empty if the text does.
	mend string
}

func (f *fault) Error() string {
	if f.mend == "" {
		return f.text
	}
	return f.text + ": " + f.mend
}

func faultf(column, mend, format string, args ...any) *fault {
	return &fault{column: column, text: fmt.Sprintf(format, args...), mend: mend}
}

// check lists everything that keeps the flow from writing the fields into the
// table, each with the SQL that would mend it.
func (t *table) check(fields []flow.Field, mode string, key []string) error {
	var errs []error
	for _, f := range t.faults(fields, mode, key) {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

func (t *table) faults(fields []flow.Field, mode string, key []string) []*fault {
	switch {
	case t.kind == 'v' || t.kind == 'm':
		return []*fault{faultf("", "", "%s is a view; give the table behind it", t.tableName)}
	case t.kind == 'f':
		return []*fault{faultf("", "", "%s is a foreign table: its rows and the flow's positions could not be committed together", t.tableName)}
	case t.kind != 'r' && t.kind != 'p':
		return []*fault{faultf("", "", "%s is not a table", t.tableName)}
	}
	var faults []*fault
	for i := range fields {
		if f := t.checkField(&fields[i], mode, key); f != nil {
			faults = append(faults, f)
		}
	}
	for i := range t.columns {
		c := &t.columns[i]
		if c.notNull && !c.filled() && !hasField(fields, c.name) {
			faults = append(faults, faultf(c.name, fmt.Sprintf("decode it, or ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL;", t.tableName, quoteName(c.name)),
				"column %s is NOT NULL without a default, and the flow has no such column", quoteName(c.name)))
		}
	}
	if mode != ModeAppend {
		if f := t.checkKey(fields, mode, key); f != nil {
			faults = append(faults, f)
		}
	}
	return faults
}

// filled says that the database fills the column by itself.
func (c *tableColumn) filled() bool { return c.hasDefault || c.identity != "" || c.generated }

func hasField(fields []flow.Field, name string) bool {
	return slices.ContainsFunc(fields, func(f flow.Field) bool { return f.Name == name })
}

func (t *table) checkField(f *flow.Field, mode string, key []string) *fault {
	name := quoteName(f.Name)
	c := t.column(f.Name)
	if c == nil {
		for i := range t.columns {
			if strings.EqualFold(t.columns[i].name, f.Name) {
				return faultf(f.Name, "write the name like that", "there is no column %s, but one that is called %s", name, t.columns[i].name)
			}
		}
		typ, err := ddlType(f)
		if err != nil {
			return faultf(f.Name, "", "%v", err)
		}
		return faultf(f.Name, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s;", t.tableName, name, typ), "there is no column %s", name)
	}
	if c.generated {
		return faultf(f.Name, "leave it out of the flow's columns", "column %s is generated and cannot be written", name)
	}
	if c.identity == "a" && mode == ModeUpsert && !slices.Contains(key, f.Name) {
		return faultf(f.Name, fmt.Sprintf("leave it out of the flow's columns, or ALTER TABLE %s ALTER COLUMN %s SET GENERATED BY DEFAULT;", t.tableName, name),
			"column %s is GENERATED ALWAYS AS IDENTITY and cannot be updated", name)
	}
	if _, err := newColumn(0, f, c); err != nil {
		typ, err := ddlType(f)
		if err != nil {
			return faultf(f.Name, "", "%v", err)
		}
		mend := fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s USING %s::%s;", t.tableName, name, typ, name, typ)
		if fits, ok := c.field(); ok {
			mend = "decode it as " + fits.Type + ", or " + mend
		}
		return faultf(f.Name, mend,
			"column %s is %s, and the flow has %s, which cannot be written into it", name, c.typ, f.Type)
	}
	return nil
}

// exactKey says what a key must be, and how to have one.
const exactKey = "Penstock compares keys by their bytes, and would take equal ones for different: " +
	"use a key column of type text with a deterministic collation and a unique index, and make the producer write equal keys equally, in lower case for example"

// loose says why keys in the column can be equal though their encoded form is
// not, or "".
func (c *tableColumn) loose(mode string) string {
	switch {
	case c.citext:
		return "is " + c.typ + ", to which upper and lower case are equal"
	case c.nondeterministic:
		return "has a non-deterministic collation, to which different texts are equal"
	case mode == ModeUpsert && (c.oid == oidJSONB || c.elem == oidJSONB):
		return "is " + c.typ + ", to which the same document is equal however it is written"
	}
	return ""
}

func (t *table) checkKey(fields []flow.Field, mode string, key []string) *fault {
	for _, k := range key {
		if !hasField(fields, k) {
			return faultf(k, "decode it", "key column %s is not among the flow's columns", quoteName(k))
		}
		if c := t.column(k); c != nil {
			if loose := c.loose(mode); loose != "" {
				return faultf(k, "", "key column %s %s; %s", quoteName(k), loose, exactKey)
			}
		}
	}
	want := slices.Sorted(slices.Values(key))
	var near string
	found := false
	for i := range t.indexes {
		ix := &t.indexes[i]
		if !slices.Equal(want, slices.Sorted(slices.Values(ix.columns))) {
			continue
		}
		if ix.usable {
			if ix.nondeterministic {
				return faultf("", "", "the unique index %s has a non-deterministic collation, to which different texts are equal; %s", ix.name, exactKey)
			}
			found = true
			continue
		}
		near = fmt.Sprintf(" (%s is deferrable, partial, on an expression or not valid, and does not do)", ix.name)
	}
	if found {
		return nil
	}
	return faultf("", fmt.Sprintf("CREATE UNIQUE INDEX ON %s (%s);", t.tableName, quoteNames(key)), "mode %s needs a unique index on exactly the key%s", mode, near)
}

var fieldTypes = regexp.MustCompile(`^(text|int2|int4|int8|float4|float8|numeric(\([0-9]{1,4}(,-?[0-9]{1,4})?\))?|bool|timestamptz|timestamp|date|uuid|bytea|json|jsonb)(\[\])?$`)

// ddlType returns a field's type for a statement.
func ddlType(f *flow.Field) (string, error) {
	typ := strings.ReplaceAll(f.Type, " ", "")
	if !fieldTypes.MatchString(typ) {
		return "", fmt.Errorf("column %s has the type %q, which PostgreSQL does not have", quoteName(f.Name), f.Type)
	}
	return typ, nil
}

// createTableDDL is the statement that creates the table for the fields.
func createTableDDL(name tableName, fields []flow.Field, key []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (", name)
	for i := range fields {
		f := &fields[i]
		typ, err := ddlType(f)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n    %s %s", quoteName(f.Name), typ)
		if f.Required || slices.Contains(key, f.Name) {
			b.WriteString(" NOT NULL")
		}
	}
	for _, k := range key {
		if !hasField(fields, k) {
			return "", fmt.Errorf("key column %s is not among the flow's columns: decode it", quoteName(k))
		}
	}
	if len(key) > 0 {
		fmt.Fprintf(&b, ",\n    PRIMARY KEY (%s)", quoteNames(key))
	}
	b.WriteString("\n)")
	return b.String(), nil
}

func parseOID(b []byte) uint32 {
	n, _ := strconv.ParseUint(string(b), 10, 32)
	return uint32(n)
}

func parseInt32(b []byte) int32 {
	n, _ := strconv.ParseInt(string(b), 10, 32)
	return int32(n)
}

func parseInt64(b []byte) int64 {
	n, _ := strconv.ParseInt(string(b), 10, 64)
	return n
}

func isTrue(b []byte) bool { return len(b) == 1 && b[0] == 't' }
