package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// plan is what Open compiles: the encoders and the statements for one table,
// shared by the writers and not changed. Where the table is changed while the
// flow runs, another plan takes its place.
type plan struct {
	target *target
	table  *table
	mode   string
	// columns are all that the flow writes, keys the columns of the key.
	columns, keys []column

	// sorted: the rows of a batch are written in the order of their keys. Inserting, and
	// updating, 20,000 rows takes the server a quarter less processor time, which
	// sorting here costs a fiftieth of; ORDER BY on the server gains a third of that.
	sorted bool

	// copyDirect is not empty where rows whose keys are all new may go into the table itself:
	// half of what the server spends on them otherwise.
	copyDirect string

	// copyInto takes the rows: into the table itself for append, into a
	// staging table otherwise.
	copyInto string
	// createStaging and merge are empty for append.
	createStaging, merge string
	// createDeleted, copyDeleted and remove are for the tombstones of upsert.
	createDeleted, copyDeleted, remove string
	// verify comes before COMMIT, verifyDirect after copyDirect.
	verify, verifyDirect string
}

// The temporary tables live as long as the transaction. They have the declared types
// of the columns, so that a domain's constraint fails where COPY names the line.
const (
	stagingTable = "pg_temp.penstock_staging"
	deletedTable = "pg_temp.penstock_deleted"
)

func newPlan(to *target) (*plan, error) {
	t, fields, mode, key := to.table, to.fields, to.Mode, to.Key
	p := &plan{target: to, table: t, mode: mode}
	var names, defs, keyDefs, sets, match []string
	overriding := ""
	for i := range fields {
		f := &fields[i]
		tc := t.column(f.Name)
		c, err := newColumn(i, f, tc)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", f.Name, err)
		}
		name := quoteName(f.Name)
		isKey := slices.Contains(key, f.Name)
		if mode != ModeAppend && isKey {
			c.notNull = true // null is equal to nothing, and no key
		}
		p.columns = append(p.columns, c)
		names = append(names, name)
		defs = append(defs, name+" "+tc.typ)
		if tc.identity == "a" {
			overriding = " OVERRIDING SYSTEM VALUE"
		}
		if isKey {
			p.keys = append(p.keys, c)
			keyDefs = append(keyDefs, name+" "+tc.typ)
			match = append(match, "t."+name+" = d."+name)
		} else {
			sets = append(sets, name+" = EXCLUDED."+name)
		}
	}
	cols := strings.Join(names, ", ")
	p.verify = verifySQL(t, p.columns, nil)
	const binary = " FROM STDIN (FORMAT binary)"
	if mode == ModeAppend {
		p.copyInto = fmt.Sprintf("COPY %s (%s)%s", t.tableName, cols, binary)
		return p, nil
	}
	p.sorted = t.anyOrder
	for i := range p.keys {
		// The server alone knows which of these are equal, and takes the first.
		p.sorted = p.sorted && t.column(p.keys[i].name).loose(ModeUpsert) == ""
	}
	if p.sorted && !t.rowSecurity && len(t.indexes) == 1 { // that of the key; COPY has no policies
		p.copyDirect = fmt.Sprintf("COPY %s (%s)%s", t.tableName, cols, binary)
		p.verifyDirect = verifySQL(t, p.columns, &t.indexes[0])
	}
	p.createStaging = fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT DROP", stagingTable, strings.Join(defs, ", "))
	p.copyInto = fmt.Sprintf("COPY %s (%s)%s", stagingTable, cols, binary)
	action := "NOTHING"
	if mode == ModeUpsert && len(sets) > 0 {
		action = "UPDATE SET " + strings.Join(sets, ", ")
	}
	p.merge = fmt.Sprintf("INSERT INTO %s (%s)%s SELECT %s FROM %s ON CONFLICT (%s) DO %s",
		t.tableName, cols, overriding, cols, stagingTable, quoteNames(key), action)
	if mode == ModeUpsert {
		var keyNames []string
		for i := range p.keys {
			keyNames = append(keyNames, quoteName(p.keys[i].name))
		}
		p.createDeleted = fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT DROP", deletedTable, strings.Join(keyDefs, ", "))
		p.copyDeleted = fmt.Sprintf("COPY %s (%s)%s", deletedTable, strings.Join(keyNames, ", "), binary)
		p.remove = fmt.Sprintf("DELETE FROM %s t USING %s d WHERE %s", t.tableName, deletedTable, strings.Join(match, " AND "))
	}
	return p, nil
}
