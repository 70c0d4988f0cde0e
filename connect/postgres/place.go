package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// place is where the tables of a flow are, or will be, and which of them exist.
type place struct {
	targets []target // by route
	names   penstockNames
	own     []penstockTable
	tables  []*table // of own; nil: there is none
	role    string   // that connects
}

// exists says whether one of the tables that Penstock keeps is there.
func (p *place) exists(i int) bool { return p.tables[i] != nil }

// target is a table that the flow writes.
type target struct {
	*TableConfig
	name   tableName // with its schema
	fields []flow.Field
	table  *table // nil: there is none
}

func (t *target) String() string { return t.name.String() + ofRoute(t.Route) }

// targetText is what the flow's row has as the target: the tables, in an order
// that does not depend on that of the routes.
func (p *place) targetText() string {
	var names []string
	for i := range p.targets {
		names = append(names, p.targets[i].name.String())
	}
	return connect.JoinTables(names)
}

// locate finds the tables of a flow, refuses what keeps it from using them, and creates nothing.
func (s *Sink) locate(ctx context.Context, pg *pgconn.PgConn, facts serverFacts, setup flow.Setup) (*place, error) {
	p, err := s.find(ctx, pg, facts, setup)
	if err != nil {
		return nil, err
	}
	for i := range p.own {
		if err := p.check(i); err != nil {
			return nil, err
		}
	}
	return p, p.refuseElsewhere(ctx, pg, setup)
}

// check says what keeps one of the tables that Penstock keeps, if it is there, from being used.
func (p *place) check(i int) error {
	if p.tables[i] == nil {
		return nil
	}
	return flow.Fatal(p.own[i].check(p.tables[i]))
}

// find finds the tables of a flow. The positions follow the (first) table, not the
// connection: another search_path must not start the flow anew.
func (s *Sink) find(ctx context.Context, pg *pgconn.PgConn, facts serverFacts, setup flow.Setup) (*place, error) {
	p := &place{role: facts.role}
	tables := s.cfg.tables()
	for i := range tables {
		t := target{TableConfig: &tables[i], fields: fieldsOf(setup, i)}
		if err := t.locate(ctx, pg, facts); err != nil {
			return nil, err
		}
		p.targets = append(p.targets, t)
	}
	if err := p.refuseShared(); err != nil {
		return nil, flow.Fatal(err)
	}
	schema := p.targets[0].name.schema
	if s.cfg.CheckpointSchema != "" {
		n, err := parseTableName(s.cfg.CheckpointSchema)
		if err != nil {
			return nil, flow.Fatal(err)
		}
		schema = n.name
	}
	dead, err := parseTableName(s.cfg.DeadLetterTable)
	if err != nil {
		return nil, flow.Fatal(err)
	}
	if dead.schema == "" {
		dead.schema = schema
	}
	for i := range p.targets {
		if dead == p.targets[i].name {
			return nil, flow.Fatal(fmt.Errorf("dead_letter_table is the table of the data, %s: dead letters need another", &p.targets[i]))
		}
	}
	p.names = penstockNames{flow: tableName{schema, flowTable}, checkpoint: tableName{schema, checkpointTable}, dead: dead}
	p.own = penstockTables(p.names)
	for _, own := range p.own {
		t, err := readTable(ctx, pg, own.name)
		if err != nil {
			return nil, classify("look at table "+own.name.String(), err)
		}
		p.tables = append(p.tables, t)
	}
	return p, nil
}

// locate finds the table, or where it would be.
func (t *target) locate(ctx context.Context, pg *pgconn.PgConn, facts serverFacts) error {
	var err error
	if t.name, err = parseTableName(t.Table); err != nil {
		return flow.Fatal(err)
	}
	if t.table, err = readTable(ctx, pg, t.name); err != nil {
		return classify("look at table "+t.String(), err)
	}
	switch {
	case t.table != nil:
		t.name = t.table.tableName
	case t.name.schema == "" && facts.schema == "":
		return flow.Fatal(fmt.Errorf("there is no table %s, and the role %s has no schema in its search_path: write the table with its schema", t, facts.role))
	case t.name.schema == "":
		t.name.schema = facts.schema
	}
	return nil
}

// check says what keeps the flow from writing the table.
func (t *target) check() error {
	if err := t.table.check(t.fields, t.Mode, t.Key); err != nil {
		return fmt.Errorf("table %s does not fit the flow:\n  %s", t, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return nil
}

// refuseShared refuses two routes that would be in each other's way in one table.
func (p *place) refuseShared() error {
	for i := range p.targets {
		t := &p.targets[i]
		for j := range i {
			other := &p.targets[j]
			if other.name != t.name {
				continue
			}
			if why := other.conflict(t.TableConfig); why != "" {
				return fmt.Errorf("table %s of route %s is that of route %s, too, and %s", t.name, t.Route, other.Route, why)
			}
			if t.table == nil && !slices.EqualFunc(t.fields, other.fields, func(a, b flow.Field) bool { return a.Name == b.Name && a.Type == b.Type }) {
				return fmt.Errorf("there is no table %s, and the routes %s and %s, which write it, decode different columns: create it with the columns of both", t.name, other.Route, t.Route)
			}
		}
	}
	return nil
}

// refuseElsewhere refuses a flow that is not known in the schema chosen, but in
// another one of the database.
func (p *place) refuseElsewhere(ctx context.Context, pg *pgconn.PgConn, setup flow.Setup) error {
	const doing = "look for the flow in other schemas"
	if p.exists(ownFlow) {
		rows, err := query(ctx, pg, fmt.Sprintf("SELECT 1 FROM %s WHERE flow = $1", p.names.flow), setup.Flow)
		if err != nil || len(rows) > 0 {
			return classify("look for the flow", err)
		}
	}
	schemas, err := query(ctx, pg, `
		SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relname = '`+flowTable+`' AND c.relkind IN ('r', 'p') AND n.nspname <> $1
			AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
			AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('flow', 'cluster_id', 'target') AND NOT a.attisdropped) = 3
		ORDER BY 1`, p.names.flow.schema)
	if err != nil {
		return classify(doing, err)
	}
	for _, r := range schemas {
		other := tableName{string(r[0]), flowTable}
		rows, err := query(ctx, pg, fmt.Sprintf("SELECT target FROM %s WHERE flow = $1 AND (cluster_id = $2 OR target = $3)", other),
			setup.Flow, setup.ClusterID, p.targetText())
		if err != nil {
			return classify(doing, err)
		}
		if len(rows) > 0 {
			return flow.Fatal(fmt.Errorf("flow %s has no positions in schema %s, where they would be now, but it is known in schema %s, with the target %s: "+
				"starting anew would write its records again. To go on, set checkpoint_schema: %s; if this is another flow, give it another name",
				setup.Flow, p.names.flow.schema, quoteName(other.schema), rows[0][0], quoteName(other.schema)))
		}
	}
	return nil
}

// refuseLost refuses to make a table anew of which the positions say that
// records are in it.
func (p *place) refuseLost(ctx context.Context, pg *pgconn.PgConn, setup flow.Setup, t *target, ddl string) error {
	if !p.exists(ownFlow) || !p.exists(ownCheckpoint) {
		return nil
	}
	rows, err := query(ctx, pg, fmt.Sprintf(`SELECT c.topic, c.partition, c.next_offset, count(*) OVER (), f.target FROM %s c JOIN %s f USING (flow)
		WHERE c.flow = $1 ORDER BY c.next_offset DESC LIMIT 1`, p.names.checkpoint, p.names.flow), setup.Flow)
	if err != nil || len(rows) == 0 {
		return classify("read the checkpoint", err)
	}
	r := rows[0]
	if !connect.CoversTables(string(r[4]), t.name.String()) { // the flow has not written it
		return nil // its route is new
	}
	// A process that starts at the same time makes the table before its positions.
	if t.table, err = readTable(ctx, pg, t.name); err != nil || t.table != nil {
		return classify("look at table "+t.String(), err)
	}
	return flow.Fatal(fmt.Errorf("the table %s is gone, but flow %s has positions (%s partitions, the highest of them %s-%s at offset %s), which say that all records before them were written. "+
		"Restore the table; or, to go on without these records, run:\n%s;\nor, to start anew, run:\nDELETE FROM %s WHERE flow = %s;\nDELETE FROM %s WHERE flow = %s;",
		t, setup.Flow, r[3], r[0], r[1], r[2], ddl,
		p.names.checkpoint, literal(setup.Flow), p.names.flow, literal(setup.Flow)))
}

// refuseOther compares the flow's row, if there is one, with what the flow is now.
func (p *place) refuseOther(ctx context.Context, pg *pgconn.PgConn, setup flow.Setup) error {
	rows, err := query(ctx, pg, fmt.Sprintf("SELECT format_version, cluster_id, source, target FROM %s WHERE flow = $1", p.names.flow), setup.Flow)
	if err != nil || len(rows) == 0 {
		return classify("look for the flow", err)
	}
	if v := parseInt32(rows[0][0]); v != formatVersion {
		return flow.Fatal(fmt.Errorf("the checkpoint of flow %s has format %d, and this program writes format %d: use the version that wrote it, or a newer one",
			setup.Flow, v, formatVersion))
	}
	var diff, set []string
	want := []string{setup.ClusterID, setup.Source, p.targetText()}
	for i, c := range []struct{ what, column string }{{"source cluster", "cluster_id"}, {"source", "source"}, {"target", "target"}} {
		if got := string(rows[0][1+i]); got != want[i] && (c.column != "target" || got != "" && !connect.CoversTables(want[i], got)) {
			diff = append(diff, fmt.Sprintf("its %s was %q and is %q now", c.what, got, want[i]))
			set = append(set, c.column+" = "+literal(want[i]))
		}
	}
	if len(diff) == 0 {
		return nil
	}
	name := literal(setup.Flow)
	var b strings.Builder
	fmt.Fprintf(&b, "flow %s is another flow than the one that this database knows: %s. Give it another name; or, if its positions hold for it as it is now, stop all its processes and run:\nUPDATE %s SET %s WHERE flow = %s;",
		setup.Flow, strings.Join(diff, "; "), p.names.flow, strings.Join(set, ", "), name)
	if string(rows[0][1]) != want[0] {
		fmt.Fprintf(&b, "\nUPDATE %s SET cluster_id = %s WHERE flow = %s;", p.names.checkpoint, literal(want[0]), name)
	}
	if string(rows[0][2]) != want[1] {
		fmt.Fprintf(&b, "\nA topic that is new in a pattern starts at its beginning. One that is new in a list needs rows, with the offset to start at:\n"+
			"INSERT INTO %s (flow, cluster_id, topic, partition, topic_id, next_offset, leader_epoch, owner_epoch, owner_backend, updated_at)\n"+
			"SELECT %s, %s, '<topic>', p, '', <offset>, -1, 0, '', now() FROM generate_series(0, <number of partitions> - 1) p;",
			p.names.checkpoint, name, literal(want[0]))
	}
	return flow.Fatal(errors.New(b.String()))
}
