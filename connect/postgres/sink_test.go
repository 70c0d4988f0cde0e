package postgres

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  SinkConfig
		path string
	}{
		{SinkConfig{URL: "postgres://u:hunter2@h:x/db", TableConfig: TableConfig{Table: "t"}}, "url"},
		{SinkConfig{URL: "postgres://u:hunter2@%zz/db", TableConfig: TableConfig{Table: "t"}}, "url"},
		{SinkConfig{URL: "host=h sslmode=perhaps password=hunter2", TableConfig: TableConfig{Table: "t"}}, "url"},
		{SinkConfig{}, "table"},
		{SinkConfig{TableConfig: TableConfig{Table: "a.b.c"}}, "table"},
		{SinkConfig{TableConfig: TableConfig{Table: "a b"}}, "table"},
		{SinkConfig{TableConfig: TableConfig{Table: `"a`}}, "table"},
		{SinkConfig{TableConfig: TableConfig{Table: "t", Mode: "replace"}}, "mode"},
		{SinkConfig{TableConfig: TableConfig{Table: "t", Mode: "upsert"}}, "key"},
		{SinkConfig{TableConfig: TableConfig{Table: "t", Key: []string{"a", "a"}}}, "key"},
		{SinkConfig{DeadLetterTable: "x.", TableConfig: TableConfig{Table: "t"}}, "dead_letter_table"},
		{SinkConfig{DeadLetterTable: "t", TableConfig: TableConfig{Table: "t"}}, "dead_letter_table"},
		{SinkConfig{DeadLetterTable: "t", TableConfig: TableConfig{Table: "a.t"}}, "dead_letter_table"},
		{SinkConfig{DeadLetterTable: "x.penstock_flow", TableConfig: TableConfig{Table: "t"}}, "dead_letter_table"},
		{SinkConfig{DeadLetterTable: "penstock_checkpoint", TableConfig: TableConfig{Table: "t"}}, "dead_letter_table"},
		{SinkConfig{TableConfig: TableConfig{Table: "public.penstock_checkpoint"}}, "table"},
		{SinkConfig{TableConfig: TableConfig{Table: "penstock_dead_letter"}}, "table"},
		{SinkConfig{CheckpointSchema: "a.b", TableConfig: TableConfig{Table: "t"}}, "checkpoint_schema"},
		{SinkConfig{MaxConnectionShare: 2, TableConfig: TableConfig{Table: "t"}}, "max_connection_share"},
		{SinkConfig{LockTimeout: 1, TableConfig: TableConfig{Table: "t"}}, "lock_timeout"},
		{SinkConfig{Password: "a", PasswordFile: "b", TableConfig: TableConfig{Table: "t"}}, "password_file"},
	} {
		_, err := NewSink(c.cfg)
		fe, ok := errors.AsType[*connect.FieldError](err)
		if !ok || fe.Path != c.path || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: got %v, want an error about %s without the password", c.cfg, err, c.path)
		}
	}
}

func TestTableNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"T": "t", "public.T": "public.t", `"T"`: `"T"`, `"a""b"."c.d"`: `"a""b"."c.d"`, "order": `"order"`, "x$1": `"x$1"`, "größe": `"größe"`,
	} {
		n, err := parseTableName(in)
		if err != nil || n.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, n, err, want)
		}
	}
	if got := literal(`a'b\c`); got != `E'a''b\\c'` {
		t.Error(got)
	}
}

func TestQuotedNames(t *testing.T) {
	t.Parallel()
	d := newDB(t, `CREATE SCHEMA "My Schema"`, `CREATE TABLE "My Schema"."Ta""ble" ("Order By" text PRIMARY KEY, "select" int8)`)
	fields := []flow.Field{field("Order By", "text", flow.KindString), field("select", "int8", flow.KindInt64)}
	cfg := SinkConfig{CheckpointSchema: `"My Schema"`, DeadLetterTable: `"It's dead"`, TableConfig: TableConfig{Table: `"My Schema"."Ta""ble"`, Mode: ModeUpsert, Key: []string{"Order By"}}}
	r := d.open(cfg, fields)
	r.write(row{"a", 1}, row{"a", 2}, row{nil, 3})
	r.want(`SELECT * FROM "My Schema"."Ta""ble"`, "a|2")
	r.want(`SELECT class FROM "My Schema"."It's dead"`, "null")
}

func TestCreateTable(t *testing.T) {
	t.Parallel()
	fields := allFields()
	fields[0].Required = true
	d := newDB(t)
	cfg := SinkConfig{TableConfig: TableConfig{Table: "public.made", CreateTable: true, Key: []string{"i8", "user"}}}
	fields = append(fields, field("user", "text", flow.KindString))

	// Several processes start at once.
	var wg sync.WaitGroup
	for range 4 {
		cfg := cfg
		cfg.URL = d.url
		wg.Go(func() {
			s, err := NewSink(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close(context.Background())
			if err := s.Open(t.Context(), flow.Setup{Flow: "f", Fields: fields, Lanes: 1}); err != nil {
				t.Error(err)
			}
			if err := s.Init(t.Context(), func(context.Context) ([]flow.Position, error) {
				return []flow.Position{{Partition: topicParts[0], Offset: 5}}, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.want("SELECT next_offset FROM penstock_checkpoint", "5")
	d.want(`SELECT string_agg(a.attname, ',') FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) WHERE i.indrelid = 'made'::regclass AND indisprimary`, "i8,user")
	d.want("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'made'::regclass AND attnum = 1", "t")
	d.want("SELECT count(*) FROM pg_attribute WHERE attrelid = 'made'::regclass AND attnum > 0", itoa(len(fields)))
}

// role makes a role that may connect, and do nothing else.
func (d *db) role() (name, url string) {
	d.t.Helper()
	name = testservice.Name(d.t)
	d.exec("CREATE ROLE " + name + " LOGIN")
	// The database is dropped before, because cleanups run in reverse order.
	return name, strings.Replace(d.url, "://"+d.conn.Config().User, "://"+name, 1)
}

func TestMissingRightsPrintTheDDL(t *testing.T) {
	t.Parallel()
	d := newDB(t, "CREATE SCHEMA owned", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	role, url := d.role()
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	cfg := SinkConfig{URL: url, LockTimeout: 0, TableConfig: TableConfig{Table: "t", CreateTable: true}}

	_, err := d.tryOpen(cfg, simpleFields)
	wantError(t, err, flow.ClassFatal, "may not create the tables", "permission denied for schema public", "CREATE TABLE IF NOT EXISTS public.penstock_checkpoint",
		"CREATE TABLE IF NOT EXISTS public.t (\n    device_id text,\n    seq int8,\n    temp float8\n)", "GRANT INSERT ON public.t TO "+role)
	if strings.Contains(err.Error(), "ALL TABLES") {
		t.Errorf("grants more than is needed: %v", err)
	}
	_, ddl, _ := strings.Cut(err.Error(), "run:\n")
	d.exec(ddl) // what is printed can be run, and is all
	d.open(cfg, simpleFields)
	d.exec("REVOKE INSERT ON t FROM " + role)
	_, err = d.tryOpen(cfg, simpleFields)
	wantError(t, err, flow.ClassFatal, "GRANT INSERT")
	d.exec("GRANT INSERT ON t TO " + role)
	d.exec("REVOKE UPDATE ON penstock_checkpoint FROM " + role)
	_, err = d.tryOpen(cfg, simpleFields)
	wantError(t, err, flow.ClassFatal, "GRANT SELECT, INSERT, UPDATE ON public.penstock_checkpoint TO "+role)
	d.exec("GRANT UPDATE ON penstock_checkpoint TO " + role)

	r, err := d.tryOpen(cfg, simpleFields)
	if err != nil {
		t.Fatal(err)
	}
	r.write(row{"a", 1, 2.0})
	d.exec("REVOKE INSERT ON t FROM " + role)
	r.wantErr(r.batch(row{"a"}), flow.ClassFatal, "permission denied", "Grant the role the right")
	d.want("SELECT * FROM t", "a|1|2")

	// The share is of what the role may have.
	if n := r.sink.MaxLanes(); n < 20 {
		t.Errorf("%d lanes", n)
	}
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 20")
	d.exec("GRANT INSERT ON t TO " + role)
	if r, err = d.tryOpen(cfg, simpleFields); err != nil {
		t.Fatal(err)
	}
	if n := r.sink.MaxLanes(); n != 11 {
		t.Errorf("%d lanes of 20 connections", n)
	}

	cfg.CheckpointSchema = "nowhere"
	d.flow = "elsewhere"
	_, err = d.tryOpen(cfg, simpleFields)
	wantError(t, err, flow.ClassFatal, "CREATE SCHEMA nowhere")
}

func TestTableIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, ddl string
		cfg       SinkConfig
		words     []string
	}{
		{"no table", "", SinkConfig{}, []string{"there is no table public.t", "create_table: true", "CREATE TABLE IF NOT EXISTS public.t (\n    device_id text,"}},
		{"columns", "CREATE TABLE t (device_id int8, \"Seq\" int8, must int4 NOT NULL, temp float8 GENERATED ALWAYS AS (1) STORED)", SinkConfig{}, []string{
			"column device_id is bigint, and the flow has text", "ALTER TABLE public.t ALTER COLUMN device_id TYPE text USING device_id::text;",
			"there is no column seq, but one that is called Seq",
			"column must is NOT NULL without a default", "ALTER TABLE public.t ALTER COLUMN must DROP NOT NULL;",
			"column temp is generated",
		}},
		{"missing column", "CREATE TABLE t (device_id text, seq int8)", SinkConfig{}, []string{"ALTER TABLE public.t ADD COLUMN temp float8;"}},
		{"no key", simpleTable, SinkConfig{TableConfig: TableConfig{Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}, []string{"CREATE UNIQUE INDEX ON public.t (device_id, seq);"}},
		{"partial key", simpleTable + "; CREATE UNIQUE INDEX part ON t (seq) WHERE seq > 1", SinkConfig{TableConfig: TableConfig{Mode: ModeIgnore, Key: []string{"seq"}}}, []string{"part is deferrable, partial"}},
		{"unknown key", simpleTable, SinkConfig{TableConfig: TableConfig{Mode: ModeIgnore, Key: []string{"id"}}}, []string{"key column id is not among"}},
		{"view", "CREATE VIEW t AS SELECT 1", SinkConfig{}, []string{"is a view"}},
		{"identity", "CREATE TABLE t (device_id text UNIQUE, seq int8 GENERATED ALWAYS AS IDENTITY, temp float8)", SinkConfig{TableConfig: TableConfig{Mode: ModeUpsert, Key: []string{"device_id"}}}, []string{"SET GENERATED BY DEFAULT;"}},
	} {
		d := newDB(t)
		if c.ddl != "" {
			d.exec(c.ddl)
		}
		c.cfg.Table = "t"
		_, err := d.tryOpen(c.cfg, simpleFields)
		wantError(t, err, flow.ClassFatal, c.words...)
	}
	_, err := newDB(t).tryOpen(SinkConfig{TableConfig: TableConfig{Table: "t"}}, nil)
	wantError(t, err, flow.ClassFatal, "configure decode")
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	url := testservice.Postgres(t)
	with := func(f func(*pgx.ConnConfig) string) string {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		return f(cfg)
	}
	s := func(url string) error {
		sink, err := NewSink(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}})
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close(context.Background())
		return sink.Open(t.Context(), flow.Setup{Flow: "f", Fields: simpleFields})
	}
	free := testservice.Port(t)
	wantError(t, s("postgres://x@127.0.0.1:"+itoa(free)+"/x?sslmode=disable"), flow.ClassTransient, "connect to PostgreSQL")
	wantError(t, s(with(func(c *pgx.ConnConfig) string { return strings.Replace(url, "/"+c.Database, "/nowhere_at_all", 1) })), flow.ClassFatal, "nowhere_at_all")
}

func TestPasswordFile(t *testing.T) {
	t.Parallel()
	tls := testservice.PostgresTLS(t)
	file := filepath.Join(t.TempDir(), "password")
	open := func(cfg SinkConfig) error {
		cfg.Table, cfg.CreateTable = "t", true
		s, err := NewSink(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		return s.Open(t.Context(), flow.Setup{Flow: "f", Fields: simpleFields})
	}
	cfg := SinkConfig{URL: tls.URL + "?sslmode=verify-full&sslrootcert=" + tls.CAFile, PasswordFile: file}
	wantError(t, open(cfg), flow.ClassFatal, "password_file")
	writeFile(t, file, "wrong\n")
	wantError(t, open(cfg), flow.ClassFatal, "Check user and password")
	writeFile(t, file, tls.Password+"\n")
	if err := open(cfg); err != nil {
		t.Fatal(err)
	}
	cfg.PasswordFile, cfg.Password = "", connect.Secret(tls.Password)
	if err := open(cfg); err != nil {
		t.Fatal(err)
	}
	wrongCA := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, wrongCA, "")
	cfg.URL = tls.URL + "?sslmode=disable"
	wantError(t, open(cfg), flow.ClassFatal, "pg_hba.conf")
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable, "CREATE TABLE t2 (LIKE t)")
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	try := func(table string, change func(*flow.Setup)) error {
		s, err := NewSink(SinkConfig{URL: d.url, TableConfig: TableConfig{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		setup := r.setup
		change(&setup)
		if err := s.Open(t.Context(), setup); err != nil {
			t.Fatal(err)
		}
		return s.Init(t.Context(), func(context.Context) ([]flow.Position, error) {
			t.Error("asked for starts")
			return nil, nil
		})
	}
	if err := try("public.t", func(*flow.Setup) {}); err != nil {
		t.Fatal(err)
	}
	wantError(t, try("t2", func(*flow.Setup) {}), flow.ClassFatal, "another flow", `its target was "public.t" and is "public.t2" now`)
	wantError(t, try("t", func(s *flow.Setup) { s.ClusterID = "c2" }), flow.ClassFatal, `source cluster was "c1"`)
	wantError(t, try("t", func(s *flow.Setup) { s.Source = "group h" }), flow.ClassFatal, `its source was`)
	d.exec("UPDATE penstock_flow SET format_version = 9")
	wantError(t, try("t", func(*flow.Setup) {}), flow.ClassFatal, "format 9")
}

// What a person has to do first is said by name.
func TestErrorsOfANewPlaceSayWhatToDo(t *testing.T) {
	t.Parallel()
	gone, err := url.Parse(testservice.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	gone.Path = "/nowhere"
	sink, err := NewSink(SinkConfig{URL: gone.String(), TableConfig: TableConfig{Table: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sink.dial(t.Context())
	wantError(t, err, flow.ClassFatal, `database "nowhere" does not exist`, "correct the name in url", "createdb")

	err = classify("look at the table", &pgconn.PgError{Severity: "ERROR", Code: codeInsufficientRights, Message: "permission denied for schema hidden"})
	wantError(t, err, flow.ClassFatal, "GRANT USAGE ON SCHEMA hidden TO the role")
}
