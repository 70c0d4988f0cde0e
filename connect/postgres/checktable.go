package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// tables looks at the tables of the flow, and at those that Penstock keeps.
func (c *checker) tables(ctx context.Context) error {
	p, err := c.sink.find(ctx, c.pg, c.facts, c.setup)
	if err != nil {
		c.fail("table "+c.sink.cfg.tables()[0].Table, c.sink.cfg.tablePath(0, "table"), err)
		return nil
	}
	for i := range p.targets {
		look := c.target
		if p.targets[i].table == nil {
			look = c.absent
		}
		if err := look(ctx, p, i); err != nil {
			return err
		}
	}
	for _, look := range []func(context.Context, *place) error{c.ownTables, c.positions, c.holders} {
		if err := look(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// absent is a table that is not there.
func (c *checker) absent(ctx context.Context, p *place, i int) error {
	t := &p.targets[i]
	what, field := "table "+t.String(), c.sink.cfg.tablePath(i, "table")
	if len(t.fields) == 0 {
		c.add(connect.CheckFailed, what, field, "create it", "it does not exist")
		return nil
	}
	ddl, err := createTableDDL(t.name, t.fields, t.Key)
	if err != nil {
		c.fail(what, field, err)
		return nil
	}
	if !p.creates(t) {
		c.add(connect.CheckFailed, what, field, "set create_table: true, or run:\n"+ddl+";\n"+t.grant(p.role)+";", "it does not exist")
		return nil
	}
	if err := p.refuseLost(ctx, c.pg, c.setup, t, ddl); err != nil {
		if flow.ClassOf(err) != flow.ClassFatal {
			return err
		}
		c.fail(what, field, err)
		return nil
	}
	return c.creatable(ctx, p, what, field, t.name.schema, []string{ddl, t.grant(p.role)})
}

// creatable looks whether the role may create tables in the schema.
func (c *checker) creatable(ctx context.Context, p *place, what, field, schema string, ddl []string) error {
	rows, err := query(ctx, c.pg, "SELECT to_regnamespace($1) IS NULL, coalesce(has_schema_privilege(to_regnamespace($1)::oid, 'CREATE'), false)", quoteName(schema))
	if err != nil {
		return classify("look at schema "+schema, err)
	}
	switch {
	case isTrue(rows[0][0]):
		c.add(connect.CheckFailed, what, field, fmt.Sprintf("CREATE SCHEMA %s AUTHORIZATION %s;", quoteName(schema), quoteName(p.role)), "there is no schema %s", quoteName(schema))
	case !isTrue(rows[0][1]):
		c.add(connect.CheckFailed, what, field, "as a role that may, run:\n"+strings.Join(ddl, ";\n")+";", "missing, and the role %s may not create tables in schema %s", p.role, quoteName(schema))
	default:
		c.ok(what, "not there yet; made in schema %s at the first start", quoteName(schema))
	}
	return nil
}

// target is a table that is there.
func (c *checker) target(ctx context.Context, p *place, i int) error {
	t := &p.targets[i]
	what, field := "table "+t.String(), c.sink.cfg.tablePath(i, "table")
	faults := t.table.faults(t.fields, t.Mode, t.Key)
	for _, f := range faults {
		if f.column == "" {
			at := field
			if strings.HasPrefix(f.text, "mode ") {
				at = c.sink.cfg.tablePath(i, "key")
			}
			c.add(connect.CheckFailed, what, at, f.mend, "%s", f.text)
			continue
		}
		c.add(connect.CheckFailed, "column "+quoteName(f.column)+" of "+what, c.sink.cfg.tablePath(i, "columns."+f.column), f.mend, "%s", f.text)
	}
	if t.table.kind != 'r' && t.table.kind != 'p' {
		return nil
	}
	if err := c.rights(ctx, p, i); err != nil {
		return err
	}
	rows, err := query(ctx, c.pg, `SELECT
			(SELECT count(*) FROM pg_index WHERE indrelid = c.oid), (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f'),
			coalesce((SELECT string_agg(quote_ident(tgname), ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D'), ''),
			row_security_active(c.oid), CASE WHEN c.reltuples > 0 THEN ', about ' || c.reltuples::int8 || ' rows' ELSE '' END
		FROM pg_class c WHERE c.oid = $1::oid`, fmt.Sprint(t.table.oid))
	if err != nil || len(rows) == 0 {
		return classify("look at "+what, err)
	}
	r := rows[0]
	indexes, keys := int(parseInt32(r[0])), int(parseInt32(r[1]))
	if len(faults) == 0 {
		c.ok(what, "%s of its %d columns are written, in mode %s; %s, %s%s", strconv.Itoa(len(t.fields)), len(t.table.columns), t.Mode,
			count(indexes, "index", "indexes"), count(keys, "foreign key", "foreign keys"), r[4])
	}
	if t.table.unlogged {
		c.warn(what, field, fmt.Sprintf("ALTER TABLE %s SET LOGGED;", t.name), "it is UNLOGGED: a crash of the server empties it, and the flow's positions stay")
	}
	if len(r[2]) > 0 {
		c.warn(what, field, "", "it has triggers (%s), which run for each row and can take more time than the writing; an error that one raises makes the record a dead letter", r[2])
	}
	if isTrue(r[3]) {
		c.warn(what, field, fmt.Sprintf("check its policies for INSERT, or ALTER ROLE %s BYPASSRLS;", quoteName(p.role)), "row level security is active for role %s: rows that its policies refuse become dead letters", p.role)
	}
	if indexes+keys >= manyIndexes {
		c.warn(what, field, "drop those that no query uses (pg_stat_user_indexes.idx_scan)", "%s and %s: the server's time for a row grows with each",
			count(indexes, "index", "indexes"), count(keys, "foreign key", "foreign keys"))
	}
	return nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// rights looks at those on a target.
func (c *checker) rights(ctx context.Context, p *place, i int) error {
	t := p.targets[i]
	t.fields = slices.DeleteFunc(slices.Clone(t.fields), func(f flow.Field) bool { return t.table.column(f.Name) == nil })
	known := *t.TableConfig
	known.Key = slices.DeleteFunc(slices.Clone(t.Key), func(k string) bool { return t.table.column(k) == nil })
	t.TableConfig = &known
	grants, needed, err := t.lackingRights(ctx, c.pg, quoteName(p.role))
	if err != nil {
		return classify("check the rights on "+t.String(), err)
	}
	what, field, next := "role "+p.role+" on table "+t.String(), c.sink.cfg.tablePath(i, "table"), "as the owner, run:\n"+strings.Join(grants, "\n")
	switch {
	case needed:
		c.add(connect.CheckFailed, what, field, next, "it may not write the table in mode %s", t.Mode)
	case len(grants) > 0:
		c.warn(what, field, next, "it may not delete rows: the flow stops at the first tombstone")
	default:
		c.ok(what, "may do what mode %s needs (%s)", t.Mode, dataRights(t.Mode))
	}
	return nil
}

// ownTables are those that Penstock keeps.
func (c *checker) ownTables(ctx context.Context, p *place) error {
	var missing, ddl []string
	for i := range p.own {
		own := &p.own[i]
		field := "checkpoint_schema"
		if i == ownDead {
			field = "dead_letter_table"
		}
		if !p.exists(i) {
			missing = append(missing, own.name.String())
			ddl = append(append(ddl, own.ddl()...), own.grant(p.role))
			continue
		}
		what := "table " + own.name.String()
		if err := own.check(p.tables[i]); err != nil {
			c.fail(what, field, err)
			continue
		}
		lacking, err := own.lackingRights(ctx, c.pg)
		if err != nil {
			return classify("check the rights on "+own.name.String(), err)
		}
		if len(lacking) > 0 {
			c.add(connect.CheckFailed, what, field, "as the owner, run:\n"+own.grant(p.role)+";", "the role %s lacks the right to %s", p.role, strings.Join(lacking, ", "))
			continue
		}
		found := fmt.Sprintf("there, and the role %s may use it", p.role)
		if i == ownDead {
			own.rights = letterRights
			if lacking, err = own.lackingRights(ctx, c.pg); err != nil {
				return classify("check the rights on "+own.name.String(), err)
			}
			if len(lacking) > 0 {
				found += "; to look at, redrive and drop dead letters a role needs " + strings.Join(lacking, ", ") + ", too"
			}
		}
		c.ok(what, "%s", found)
	}
	if len(missing) == 0 {
		return nil
	}
	schema := p.names.flow.schema
	if len(missing) == 1 {
		schema = p.own[slices.IndexFunc(p.own, func(o penstockTable) bool { return o.name.String() == missing[0] })].name.schema
	}
	return c.creatable(ctx, p, "tables "+strings.Join(missing, ", "), "checkpoint_schema", schema, ddl)
}

// positions looks whether the flow that the database knows is this one.
func (c *checker) positions(ctx context.Context, p *place) error {
	if c.setup.ClusterID == "" || p.exists(ownFlow) != p.exists(ownCheckpoint) {
		return nil
	}
	what := "flow " + c.setup.Flow
	err := p.refuseElsewhere(ctx, c.pg, c.setup)
	if err == nil && p.exists(ownFlow) {
		err = p.refuseOther(ctx, c.pg, c.setup)
	}
	if flow.ClassOf(err) == flow.ClassFatal {
		c.fail(what, "", err)
		return nil
	}
	if err != nil {
		return err
	}
	partitions := int32(0)
	if p.exists(ownCheckpoint) {
		rows, err := query(ctx, c.pg, fmt.Sprintf("SELECT count(*) FROM %s WHERE flow = $1", p.names.checkpoint), c.setup.Flow)
		if err != nil {
			return classify("read the checkpoint", err)
		}
		partitions = parseInt32(rows[0][0])
	}
	if partitions == 0 {
		c.ok(what, "has not run into this database yet")
	} else {
		c.ok(what, "goes on at the positions that it has here (%s)", count(int(partitions), "partition", "partitions"))
	}
	return nil
}

// holders looks for sessions that keep locks on the tables and do nothing.
func (c *checker) holders(ctx context.Context, p *place) error {
	var oids []int64
	for i := range p.targets {
		if t := p.targets[i].table; t != nil {
			oids = append(oids, int64(t.oid))
		}
	}
	for _, t := range p.tables {
		if t != nil {
			oids = append(oids, int64(t.oid))
		}
	}
	rows, err := query(ctx, c.pg, `
		SELECT string_agg(DISTINCT l.mode, ', '), string_agg(DISTINCT l.relation::regclass::text, ', '), a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),
			a.state, coalesce(date_trunc('second', now() - a.xact_start)::text, ''), coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 120), '')
		FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'relation' AND l.relation = ANY($1::oid[]) AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND a.state LIKE 'idle in transaction%' AND a.state_change < now() - $2::interval
		GROUP BY a.pid, a.usename, a.application_name, a.state, a.xact_start, a.query ORDER BY a.xact_start LIMIT 5`,
		idArray(oids), fmt.Sprintf("%d seconds", int(c.idle.Seconds())))
	if err != nil {
		return classify("look for locks", err)
	}
	for _, r := range rows {
		c.warn("locks on "+string(r[1]), "", fmt.Sprintf("end its transaction, or run: SELECT pg_terminate_backend(%s);", r[2]),
			"%s, holds locks (%s) and does nothing: it can keep the flow waiting, and vacuum from cleaning up", describeHolder(r), r[0])
	}
	return nil
}
