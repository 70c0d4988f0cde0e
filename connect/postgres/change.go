package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// verifySQL is the statement that fails where the columns are not those that the rows were
// encoded for. PostgreSQL itself often does not notice: the eight bytes of an int8
// are a float8, a timestamp, even a numeric (a wrong one), an INSERT from the staging table
// rounds, and what a narrower column does not take is a dead letter already. It runs between the
// statements that write, whose lock keeps the table as it is, and COMMIT, in the round trip
// of the latter. With a key it fails as well where the index is gone without
// which COPY takes a key twice.
func verifySQL(t *table, columns []column, key *uniqueIndex) string {
	relation := literal(t.tableName.String()) + "::regclass"
	want := make([]string, len(columns))
	for i := range columns {
		want[i] = fmt.Sprintf("(%s, %s)", literal(columns[i].name), t.column(columns[i].name).attribute)
	}
	index := ""
	if key != nil {
		index = fmt.Sprintf(" AND EXISTS (SELECT FROM pg_index WHERE indexrelid = %d AND indrelid = %s AND indisvalid)", key.oid, relation)
	}
	return fmt.Sprintf(`SELECT 1 / (count(*) = %d%s)::int4 FROM pg_attribute
		WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND (attname, atttypid, atttypmod, attnotnull) IN (%s);`,
		len(columns), index, relation, strings.Join(want, ", "))
}

// errVerify is what verifySQL finds.
var errVerify = errors.New("the table's columns are not those that the rows were made for")

// schemaCodes are the SQLSTATEs of a statement that does not fit the table: a
// column or the table that is gone, another type, a key without its index.
var schemaCodes = []string{"42703", "42P01", "42804", "42P10", "428C9", "22P03", "22P04", "08P01", codeNoSuchSchema}

// reconsider judges an error in the light of the table as it is now. Where it was
// changed while the flow runs, no record is at fault: if the flow's columns still fit,
// the batch is tried again with a plan made anew; if not, the error says what to
// do, and has no class: it may be a migration under way, so the flow tries a
// few times, and stops then. The transaction has ended. A batch with rejected records is
// not tried again but read again.
func (w *writer) reconsider(ctx context.Context, b *flow.Batch, p *plan, err error) error {
	state := sqlState(err)
	switch {
	case w.conn == nil, w.conn.pg.IsClosed():
		return err
	case state == codeInsufficientRights:
		return w.sink.explainRights(ctx, w.conn.pg, p, err)
	case flow.ClassOf(err) != flow.ClassData && !errors.Is(err, errVerify) && !slices.Contains(schemaCodes, state):
		return err
	}
	now := *p.target
	var readErr error
	if now.table, readErr = readTable(ctx, w.conn.pg, now.name); readErr != nil {
		return classify("look at table "+now.String(), readErr)
	}
	if now.table == nil {
		return fmt.Errorf("table %s is gone: it was dropped or renamed while the flow runs, which goes on where it is when it is back. "+
			"Rename it back, or restore it; the flow's positions say that the records before them are in it (%s)", &now, err.Error())
	}
	if now.table.same(p.table) {
		return err
	}
	made, planErr := (*plan)(nil), now.check()
	if planErr == nil {
		made, planErr = newPlan(&now)
	}
	if planErr != nil {
		return fmt.Errorf("%w\nIt was changed while the flow runs, which goes on where it is when this is mended (%s)", planErr, err.Error())
	}
	w.sink.plans[b.Route].Store(made)
	w.sink.log.Warn("the table was changed while the flow runs; its columns were read again", "table", now.String(),
		"replaced", now.table.oid != p.table.oid)
	err = fmt.Errorf("table %s was changed while the flow runs; its columns were read again", &now)
	if b.Rows() < b.Len() {
		// Rejections stay with a batch that is tried again, and these may be the old columns'.
		return &flow.FencedError{Partitions: slices.Clone(w.ps), Err: err}
	}
	return flow.Transient(err)
}

// same says that a table is as it was, as far as plans and checks go.
func (t *table) same(old *table) bool {
	return t.oid == old.oid && t.anyOrder == old.anyOrder && t.rowSecurity == old.rowSecurity && slices.Equal(t.columns, old.columns) && slices.EqualFunc(t.indexes, old.indexes, func(a, b uniqueIndex) bool {
		return a.oid == b.oid && a.name == b.name && a.usable == b.usable && slices.Equal(a.columns, b.columns)
	})
}

// explainRights says which rights the role lacks, and how to give them.
func (s *Sink) explainRights(ctx context.Context, pg *pgconn.PgConn, p *plan, cause error) error {
	role := quoteName(s.facts.role)
	grants, _, err := p.target.lackingRights(ctx, pg, role)
	if err != nil {
		return cause // and not why it cannot be explained
	}
	for _, own := range s.place.own {
		lacking, err := own.lackingRights(ctx, pg)
		if err != nil {
			return cause
		}
		if len(lacking) > 0 {
			grants = append(grants, fmt.Sprintf("GRANT %s ON %s TO %s;", strings.Join(lacking, ", "), own.name, role))
		}
	}
	if len(grants) == 0 {
		return cause
	}
	return flow.Fatal(fmt.Errorf("%w. As the owner, run:\n%s", cause, strings.Join(grants, "\n")))
}

// lackingRights are the statements that give the role what it lacks to write the
// table. Without tombstones upsert needs no DELETE: needed is false where that is all.
func (t *target) lackingRights(ctx context.Context, pg *pgconn.PgConn, role string) (grants []string, needed bool, err error) {
	var written, updated []string
	for i := range t.fields {
		name := literal(t.fields[i].Name)
		written = append(written, name)
		if !slices.Contains(t.Key, t.fields[i].Name) {
			updated = append(updated, name)
		}
	}
	key := make([]string, len(t.Key))
	for i, k := range t.Key {
		key[i] = literal(k)
	}
	onColumns := func(right string, names []string) string {
		return fmt.Sprintf("(SELECT coalesce(bool_and(has_column_privilege($1::oid, c, '%s')), true) FROM unnest(ARRAY[%s]::text[]) c)", right, strings.Join(names, ","))
	}
	checks := map[string]string{
		"INSERT": onColumns("INSERT", written), "SELECT": onColumns("SELECT", key), "UPDATE": onColumns("UPDATE", updated),
		"DELETE": "has_table_privilege($1::oid, 'DELETE')",
	}
	wanted := strings.Split(dataRights(t.Mode), ", ")
	asked := []string{"has_schema_privilege($2, 'USAGE')", "has_database_privilege(current_database(), 'TEMPORARY')", "current_database()"}
	for _, right := range wanted {
		asked = append(asked, checks[right])
	}
	rows, err := query(ctx, pg, "SELECT "+strings.Join(asked, ", "), fmt.Sprint(t.table.oid), t.name.schema)
	if err != nil {
		return nil, false, err
	}
	r := rows[0]
	if !isTrue(r[0]) {
		grants = append(grants, fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", quoteName(t.name.schema), role))
	}
	if t.Mode != ModeAppend && !isTrue(r[1]) {
		grants = append(grants, fmt.Sprintf("GRANT TEMPORARY ON DATABASE %s TO %s;", quoteName(string(r[2])), role))
	}
	needed = len(grants) > 0
	var lacking []string
	for i, right := range wanted {
		if !isTrue(r[3+i]) {
			lacking = append(lacking, right)
			needed = needed || right != "DELETE"
		}
	}
	if len(lacking) > 0 {
		grants = append(grants, fmt.Sprintf("GRANT %s ON %s TO %s;", strings.Join(lacking, ", "), t.name, role))
	}
	return grants, needed, nil
}
