package postgres

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// check looks at the services of a flow with simpleFields.
func (d *db) check(cfg SinkConfig, change ...func(*checker)) findings {
	d.t.Helper()
	if cfg.URL == "" {
		cfg.URL = d.url
	}
	s, err := NewSink(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	c := &checker{sink: s, now: time.Now, idle: time.Hour, setup: flow.Setup{Flow: "test", ClusterID: "c1", Source: "group g, topics telemetry", Fields: simpleFields, Lanes: 2}}
	for _, f := range change {
		f(c)
	}
	c.run(d.t.Context())
	return findings{d.t, c.out}
}

type findings struct {
	t   testing.TB
	all []connect.Check
}

// want looks for a finding about what, with the words in what was found or is to be done.
func (f findings) want(status connect.CheckStatus, what, field string, words ...string) {
	f.t.Helper()
	for _, c := range f.all {
		text := c.Found + "\n" + c.Next
		if c.Status == status && strings.Contains(c.What, what) && c.Field == field &&
			!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			return
		}
	}
	f.t.Errorf("nothing %s about %s at %q with %q in:\n%s", status, what, field, words, f)
}

func (f findings) wantOK() {
	f.t.Helper()
	for _, c := range f.all {
		if c.What == "fsync" {
			continue // is off where only tests use the server
		}
		if c.Status != connect.CheckOK || c.Next != "" || c.Found == "" {
			f.t.Errorf("%+v", c)
		}
	}
}

func (f findings) String() string {
	var b strings.Builder
	for _, c := range f.all {
		b.WriteString(string(c.Status) + "  " + c.What + " [" + c.Field + "]: " + c.Found + " → " + c.Next + "\n")
	}
	return b.String()
}

func TestCheckFindsNothingWhereAllIsWell(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	const things = "SELECT count(*) FROM pg_class"
	before := d.rows(things)
	f := d.check(SinkConfig{TableConfig: TableConfig{Table: "t"}})
	f.wantOK()
	f.want(connect.CheckOK, "PostgreSQL at 127.0.0.1:", "", "version 15", "12 and later")
	f.want(connect.CheckOK, "encryption", "", "does not leave this machine")
	f.want(connect.CheckOK, "clock", "", "agrees with ours", "round trip")
	f.want(connect.CheckOK, "connections", "", "max_connections of the server")
	f.want(connect.CheckOK, "table public.t", "", "3 of its 3 columns", "0 indexes")
	f.want(connect.CheckOK, "tables public.penstock_flow, public.penstock_checkpoint, public.penstock_dead_letter", "", "at the first start")
	f.want(connect.CheckOK, "flow test", "", "has not run")
	d.check(SinkConfig{TableConfig: TableConfig{Table: "new", CreateTable: true}}).wantOK()
	d.want(things, before...)

	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	f = d.check(SinkConfig{TableConfig: TableConfig{Table: "t"}})
	f.wantOK()
	f.want(connect.CheckOK, "flow test", "", "2 partitions")
	r.write(row{"d", 1, 2.0}) // nobody has taken its partitions
}

func TestCheckNamesEachColumnThatDoesNotFit(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE TABLE t (device_id text, seq numeric(3)[], must int NOT NULL, filled int NOT NULL DEFAULT 1)", "CREATE VIEW v AS SELECT 1 AS seq")
	f := d.check(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id"}}})
	f.want(connect.CheckFailed, "column seq of table public.t", "columns.seq", "is numeric(3,0)[]", "the flow has int8", "decode it as numeric(3,0)[]", "ALTER TABLE public.t ALTER COLUMN seq TYPE int8")
	f.want(connect.CheckFailed, "column temp of table public.t", "columns.temp", "there is no column temp", "ALTER TABLE public.t ADD COLUMN temp float8;")
	f.want(connect.CheckFailed, "column must of table public.t", "columns.must", "NOT NULL without a default", "DROP NOT NULL")
	f.want(connect.CheckFailed, "table public.t", "key", "needs a unique index", "CREATE UNIQUE INDEX ON public.t (device_id);")
	if text := f.String(); strings.Contains(text, "filled") {
		t.Error("a column that fills itself is complained about")
	}
	f = d.check(SinkConfig{TableConfig: TableConfig{Table: "gone"}})
	f.want(connect.CheckFailed, "table public.gone", "table", "does not exist", "create_table: true", "CREATE TABLE IF NOT EXISTS public.gone (")
	f = d.check(SinkConfig{TableConfig: TableConfig{Table: "v"}})
	f.want(connect.CheckFailed, "table public.v", "table", "is a view")
	f = d.check(SinkConfig{CheckpointSchema: "nowhere", TableConfig: TableConfig{Table: "nowhere.t", CreateTable: true}})
	f.want(connect.CheckFailed, "table nowhere.t", "table", "CREATE SCHEMA nowhere AUTHORIZATION postgres;")
	f.want(connect.CheckFailed, "nowhere.penstock_checkpoint", "checkpoint_schema", "CREATE SCHEMA nowhere")

	d.exec("CREATE TABLE events (device_id text)")
	f = d.check(SinkConfig{Routes: []TableConfig{{Route: "a", Table: "t2", CreateTable: true}, {Route: "b", Table: "events"}}}, func(c *checker) {
		c.setup.Fields, c.setup.Routes = nil, [][]flow.Field{simpleFields[:1], simpleFields[:2]}
	})
	f.want(connect.CheckFailed, "column seq of table public.events (route b)", "routes.1.columns.seq", "ADD COLUMN seq int8")
}

func TestCheckNamesTheRightsThatAreMissing(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE TABLE t (device_id text PRIMARY KEY, seq int8, temp float8)", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	role, url := d.role()
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	cfg := SinkConfig{URL: url, TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id"}}}
	f := d.check(cfg)
	f.want(connect.CheckFailed, "role "+role+" on table public.t", "table", "GRANT SELECT, INSERT, UPDATE, DELETE ON public.t TO "+role+";")
	f.want(connect.CheckFailed, "public.penstock_flow", "checkpoint_schema", "may not create tables in schema public", "CREATE TABLE IF NOT EXISTS public.penstock_flow", "GRANT INSERT ON public.penstock_dead_letter TO "+role)
	d.open(SinkConfig{TableConfig: cfg.TableConfig}, simpleFields)
	d.exec("GRANT SELECT, INSERT, UPDATE ON t TO " + role)
	d.exec("GRANT SELECT, INSERT, UPDATE ON penstock_flow TO " + role)
	f = d.check(cfg)
	f.want(connect.CheckWarning, "role "+role+" on table public.t", "table", "may not delete rows", "GRANT DELETE ON public.t TO "+role+";")
	f.want(connect.CheckFailed, "table public.penstock_checkpoint", "checkpoint_schema", "GRANT SELECT, INSERT, UPDATE ON public.penstock_checkpoint TO "+role)
	f.want(connect.CheckFailed, "table public.penstock_dead_letter", "dead_letter_table", "GRANT INSERT")
	d.exec("GRANT INSERT ON penstock_dead_letter TO " + role)
	d.check(cfg).want(connect.CheckOK, "table public.penstock_dead_letter", "", "a role needs SELECT, UPDATE, DELETE, too")
	f = d.check(SinkConfig{URL: strings.Replace(url, role, "nobody_at_all", 1), TableConfig: cfg.TableConfig})
	f.want(connect.CheckFailed, "PostgreSQL at ", "url", "nobody_at_all", "Check user and password")
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 4")
	f = d.check(cfg, func(c *checker) { c.setup.Lanes = 8 })
	f.want(connect.CheckWarning, "connections", "max_connection_share", "1 lane instead of 8", "ALTER ROLE "+role+" CONNECTION LIMIT")
}

func TestCheckWarnsOfWhatWillCost(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE UNLOGGED TABLE t (device_id text, seq int8, temp float8)", "CREATE INDEX ON t (seq); CREATE INDEX ON t (temp); CREATE INDEX ON t (seq, temp); CREATE INDEX ON t (temp, seq); CREATE INDEX ON t (device_id); CREATE INDEX ON t (device_id, seq)",
		"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "CREATE TRIGGER audit BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t"}}
	d.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$")
	pid, release := d.hold("INSERT INTO t VALUES ('x', 1, 2)")
	f := d.check(cfg, func(c *checker) {
		c.idle = 0
		c.now = func() time.Time { return time.Now().Add(-5 * time.Second) }
		c.setup.Lanes = 1000
	})
	release()
	f.want(connect.CheckWarning, "table public.t", "table", "UNLOGGED", "SET LOGGED")
	f.want(connect.CheckWarning, "table public.t", "table", "triggers (audit)")
	f.want(connect.CheckWarning, "table public.t", "table", "6 indexes")
	f.want(connect.CheckWarning, "synchronous_commit", "", "may undo the batches of the last moments")
	f.want(connect.CheckWarning, "locks on t", "", "process "+pid, "RowExclusiveLock", "SELECT pg_terminate_backend("+pid+");")
	f.want(connect.CheckWarning, "clock", "", "5s ahead of ours")
	f.want(connect.CheckWarning, "connections", "max_connection_share", "lanes instead of 1000")
}

func TestCheckKnowsTheFlow(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	f := d.check(SinkConfig{TableConfig: TableConfig{Table: "t"}}, func(c *checker) { c.setup.Source = "group h, topics telemetry" })
	f.want(connect.CheckFailed, "flow test", "", "its source was", "Give it another name")
	d.exec("DROP TABLE t")
	f = d.check(SinkConfig{TableConfig: TableConfig{Table: "t", CreateTable: true}})
	f.want(connect.CheckFailed, "table public.t", "table", "is gone, but flow test has positions", "Restore the table")
	d.exec("ALTER TABLE penstock_checkpoint DROP COLUMN next_offset")
	f = d.check(SinkConfig{TableConfig: TableConfig{Table: "t2", CreateTable: true}}, func(c *checker) { c.setup.Flow = "other" })
	f.want(connect.CheckFailed, "table public.penstock_checkpoint", "checkpoint_schema", "next_offset int8 is missing")
}

func TestCheckKnowsWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	cfg := SinkConfig{URL: testservice.PgBouncer(t, d.url), TableConfig: TableConfig{Table: "t"}}
	d.check(cfg).want(connect.CheckOK, "connection pooler", "", "PgBouncer", "3 server connections")
	proxy := testservice.Proxy(t, hostPort(t, d.url))
	proxy.Cut()
	cfg.URL = testservice.WithAddr(t, d.url, proxy.Addr())
	f := d.check(cfg)
	f.want(connect.CheckFailed, "PostgreSQL at "+proxy.Addr(), "url")
	if len(f.all) != 1 || f.all[0].Next == "" {
		t.Errorf("got:\n%s", f)
	}
}

func TestCheckJudgesTheEncryption(t *testing.T) {
	t.Parallel()
	server := testservice.PostgresTLS(t)
	here, away := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 5432}
	for _, c := range []struct {
		params  []string
		version string
		remote  net.Addr
		fault   bool
		found   string
	}{
		{nil, "", here, false, "does not leave this machine"},
		{nil, "", &net.UnixAddr{}, false, "does not leave this machine"},
		{nil, "", away, true, "10.0.0.1:5432 can read"},
		{[]string{"sslmode", "require"}, "TLS 1.3", here, false, "TLS 1.3"},
		{[]string{"sslmode", "require"}, "TLS 1.3", away, true, "nobody checks who the server is"},
		{[]string{"sslmode", "verify-ca", "sslrootcert", server.CAFile}, "TLS 1.3", away, false, "is verified"},
		{[]string{"sslmode", "verify-full", "sslrootcert", server.CAFile}, "TLS 1.3", away, false, "is verified"},
	} {
		cfg, err := parseURL(withParams(t, server.URL, c.params...))
		if err != nil {
			t.Fatal(err)
		}
		if fault, found := judgeEncryption(cfg.TLSConfig, c.version, c.remote); fault != c.fault || !strings.Contains(found, c.found) {
			t.Errorf("%v, %q, %s: %t, %s", c.params, c.version, c.remote, fault, found)
		}
	}
	d := newDB(t)
	f := d.check(SinkConfig{URL: withParams(t, server.URL, "sslmode", "verify-full", "sslrootcert", server.CAFile), TableConfig: TableConfig{Table: "t", CreateTable: true}})
	f.want(connect.CheckOK, "encryption", "", "TLS 1.3, and the server's certificate is verified")
}

func TestCheckRefusesAStandby(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	standby := testservice.StartPostgres(t).StartStandby()
	f := d.check(SinkConfig{URL: "postgres://postgres@" + standby.Addr() + "/postgres?sslmode=disable", TableConfig: TableConfig{Table: "t", CreateTable: true}})
	f.want(connect.CheckFailed, "replication", "url", "is a standby", "target_session_attrs=read-write")
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE TYPE mood AS ENUM ('ok')", "CREATE DOMAIN positive AS int8 CHECK (VALUE > 0)", `CREATE TABLE t (id int8 GENERATED ALWAYS AS IDENTITY, name varchar(10) NOT NULL, price numeric(10,2),
		number numeric, moods mood[], doc jsonb, at timestamptz DEFAULT now(), day date, span interval, n positive, raw bytea[], UNIQUE (name), PRIMARY KEY (id, day))`)
	s := d.letterLog(d.url).sink
	got, err := s.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	column := func(name, typ, field string, kind, elem flow.Kind, change ...func(*connect.TableColumn)) connect.TableColumn {
		c := connect.TableColumn{Name: name, Type: typ, Supported: true, Field: flow.Field{Name: name, Type: field, Kind: kind, Elem: elem}}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	required := func(c *connect.TableColumn) { c.NotNull, c.Field.Required = true, true }
	want := &connect.Table{Name: "public.t", Keys: [][]string{{"id", "day"}, {"name"}}, Columns: []connect.TableColumn{
		column("id", "bigint", "int8", flow.KindInt64, 0, func(c *connect.TableColumn) { c.NotNull, c.Filled = true, true }),
		column("name", "character varying(10)", "text", flow.KindString, 0, required),
		column("price", "numeric(10,2)", "numeric(10,2)", flow.KindDecimal, 0),
		column("number", "numeric", "numeric", flow.KindDecimal, 0),
		column("moods", "mood[]", "text[]", flow.KindList, flow.KindString),
		column("doc", "jsonb", "jsonb", flow.KindJSON, 0),
		column("at", "timestamp with time zone", "timestamptz", flow.KindTimestamp, 0, func(c *connect.TableColumn) { c.Filled = true }),
		column("day", "date", "date", flow.KindDate, 0, required),
		column("span", "interval", "", 0, 0, func(c *connect.TableColumn) { c.Supported = false }),
		column("n", "positive", "int8", flow.KindInt64, 0),
		column("raw", "bytea[]", "bytea[]", flow.KindList, flow.KindBytes),
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	d.exec("DROP TABLE t")
	if got, err := s.Describe(t.Context()); got != nil || err != nil {
		t.Errorf("no table: got %v, %v", got, err)
	}
}
