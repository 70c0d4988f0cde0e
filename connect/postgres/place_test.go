package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

const ownTables = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname IN ('public', 'other') ORDER BY 1"

// The positions follow the table: another search_path neither starts the flow
// anew nor makes tables elsewhere.
func TestSearchPathDoesNotMoveTheCheckpoint(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable, "CREATE SCHEMA other")
	d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields).write(row{"a", 1})
	r := d.open(SinkConfig{URL: d.url + "&search_path=other,public", TableConfig: TableConfig{Table: "t"}}, simpleFields)
	if r.at[0].Offset != 1 {
		t.Fatalf("the flow is at %d with another search_path, want 1", r.at[0].Offset)
	}
	want := []string{"public.penstock_checkpoint", "public.penstock_dead_letter", "public.penstock_flow", "public.t"}
	d.want(ownTables, want...)

	// A checkpoint that is elsewhere already, or a table of the same name in front.
	_, err := d.tryOpen(SinkConfig{CheckpointSchema: "other", TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "no positions in schema other", "known in schema public", "checkpoint_schema: public")
	_, err = d.tryOpen(SinkConfig{URL: d.url + "&search_path=other", TableConfig: TableConfig{Table: "t", CreateTable: true}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "no positions in schema other", "checkpoint_schema: public")
	d.want(ownTables, want...)

	// Another flow of the same table is none of this one's business.
	d.flow = "another"
	d.open(SinkConfig{CheckpointSchema: "other", TableConfig: TableConfig{Table: "t"}}, simpleFields)
}

func TestLostTableIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", CreateTable: true}}
	d.open(cfg, simpleFields).write(row{"a", 1}, row{"b", 2})
	d.exec("DROP TABLE t")
	_, err := d.tryOpen(cfg, simpleFields)
	wantError(t, err, flow.ClassFatal, "public.t is gone", "telemetry-0 at offset 2", "CREATE TABLE IF NOT EXISTS public.t (")
	d.want("SELECT to_regclass('t') IS NULL", "t")
	_, anew, _ := strings.Cut(err.Error(), "start anew, run:\n")
	d.exec(anew) // what is printed can be run
	if r := d.open(cfg, simpleFields); r.at[0].Offset != 0 {
		t.Fatalf("the flow is at %d after it was started anew", r.at[0].Offset)
	}
}

func TestNothingIsMadeForAnotherFlow(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	d.exec("DELETE FROM penstock_checkpoint")
	_, err := d.tryOpen(SinkConfig{TableConfig: TableConfig{Table: "u", CreateTable: true}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "another flow", `its target was "public.t" and is "public.u" now`)
	d.want(ownTables, "public.penstock_checkpoint", "public.penstock_dead_letter", "public.penstock_flow", "public.t")
}

// The statements of a refusal can be run, and the flow goes on.
func TestTopicIsAdded(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable)
	r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	r.write(row{"a", 1})
	s, err := NewSink(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	setup := r.setup
	setup.Source = "group g, topics more, telemetry"
	if err := s.Open(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	starts := func(context.Context) ([]flow.Position, error) {
		t.Error("asked for starts")
		return nil, nil
	}
	err = s.Init(t.Context(), starts)
	wantError(t, err, flow.ClassFatal, "another flow", "source = 'group g, topics more, telemetry'")
	_, sql, _ := strings.Cut(err.Error(), "run:\n")
	update, rest, _ := strings.Cut(sql, "\n")
	d.exec(update)
	_, insert, _ := strings.Cut(rest, "\n")
	d.exec(strings.NewReplacer("<topic>", "more", "<offset>", "5", "<number of partitions>", "2").Replace(insert))
	if err := s.Init(t.Context(), starts); err != nil {
		t.Fatal(err)
	}
	got, err := s.Claim(t.Context(), 0, []flow.Partition{topicParts[0], {Topic: "more", ID: 1}})
	if err != nil || got[0].Offset != 1 || got[1].Offset != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestOwnTablesAreChecked(t *testing.T) {
	t.Parallel()
	d := newDB(t, simpleTable, "CREATE TABLE mydead (id int8, flow text, key bytea NOT NULL, partition int8, more int NOT NULL)")
	_, err := d.tryOpen(SinkConfig{DeadLetterTable: "mydead", TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "public.mydead is not the table", "column topic text is missing", "column partition is bigint, not int4",
		"column key must not be NOT NULL", "column more is NOT NULL without a default", "CREATE TABLE IF NOT EXISTS public.mydead (")
	_, err = d.tryOpen(SinkConfig{DeadLetterTable: "public.t", TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "dead_letter_table is the table of the data")
	d.exec("CREATE TABLE penstock_flow (flow text)")
	_, err = d.tryOpen(SinkConfig{TableConfig: TableConfig{Table: "t"}}, simpleFields)
	wantError(t, err, flow.ClassFatal, "public.penstock_flow is not the table", "column cluster_id text is missing")
	d.want(ownTables, "public.mydead", "public.penstock_flow", "public.t")
}

func TestTooFewConnections(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	role, url := d.role()
	database := d.conn.Config().Database
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	d.exec("GRANT CREATE ON SCHEMA public TO " + role)
	open := func(share float64) (*Sink, error) {
		s, err := NewSink(SinkConfig{URL: url, MaxConnectionShare: share, TableConfig: TableConfig{Table: "t", CreateTable: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		return s, s.Open(t.Context(), flow.Setup{Flow: "f", Fields: simpleFields, Lanes: 1})
	}
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 3")
	_, err := open(0)
	wantError(t, err, flow.ClassFatal, "max_connection_share 0.6 of the 3", "rolconnlimit of role "+role, "ALTER ROLE "+role+" CONNECTION LIMIT 4;")
	d.want("SELECT count(*) FROM pg_class WHERE relname = 't' OR relname LIKE 'penstock_%'", "0")
	if s, err := open(1); err != nil || s.MaxLanes() != 2 {
		t.Fatalf("all of 3 connections: %v", err)
	}
	// The server may still be about to end what was closed, which the limit counts.
	d.eventually("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", "0")
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT -1")
	d.exec("ALTER DATABASE " + quoteName(database) + " CONNECTION LIMIT 2")
	_, err = open(0)
	wantError(t, err, flow.ClassFatal, "datconnlimit of database "+database, "ALTER DATABASE "+quoteName(database)+" CONNECTION LIMIT 4;")

	// The error of a limit that others have used up names it.
	d.exec("ALTER DATABASE " + quoteName(database) + " CONNECTION LIMIT 0")
	_, err = open(0)
	wantError(t, err, flow.ClassTransient, "ALTER DATABASE … CONNECTION LIMIT")
	d.exec("ALTER ROLE " + role + " CONNECTION LIMIT 0")
	_, err = open(0)
	wantError(t, err, flow.ClassTransient, "ALTER ROLE … CONNECTION LIMIT")
}

// Whatever is wrong with a URL, no part of its password is in the error.
func TestURLErrorsKeepThePassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"host=h password=hun ter2 user=x",
		"postgres://app:8/Xyz-ter2==@db.invalid:5432/prod",
		"postgres://app:8?Xyz-ter2==@db.invalid:5432/prod",
		"postgres://app:8#Xyz-ter2==@db.invalid:5432/prod",
		"postgres://app:x@y/ter2@db.invalid:5432/prod",
		"postgres://app:Xyz ter2==@db.invalid:5432/prod",
		"postgres://app:Xyz%ter2@db.invalid:5432/prod",
		"postgres://app@h/db\nter2",
		"postgres://app:ter2/db",
		"postgres://app:x@h:ter2/db",
		"postgres://app:x@h/db?connect_timeout=ter2",
		"postgres://app:x@h/db?sslrootcert=/nowhere/ter2",
		"postgres://app:x@h/db?sslmode=ter2",
		"postgres://app:x@h/db?target_session_attrs=ter2",
		"host=h port=ter2",
	} {
		_, err := NewSink(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}})
		fe, ok := errors.AsType[*connect.FieldError](err)
		if !ok || fe.Path != "url" || strings.Contains(err.Error(), "ter2") || strings.Contains(err.Error(), "strconv") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, url := range []string{"postgres://app:a%2Fb%3F@h:1/db%2Fx?sslmode=disable", "postgres:///db?host=/var/run", "host=/tmp dbname=a/b@c password='x y'"} {
		if _, err := NewSink(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}}); err != nil {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestConnectErrorsSayWhatToCheck(t *testing.T) {
	t.Parallel()
	open := func(url string) error {
		s, err := NewSink(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t"}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		err = s.Open(t.Context(), flow.Setup{Flow: "f", Fields: simpleFields})
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("not one line: %v", err)
		}
		return err
	}
	wantError(t, open("postgres://x@127.0.0.1:"+itoa(testservice.Port(t))+"/x"), flow.ClassTransient, "refused", "check that the server runs")
	err := open("postgres://x@nowhere.invalid/x")
	wantError(t, err, flow.ClassTransient, "nowhere.invalid")
	if strings.Count(err.Error(), "lookup") > 1 {
		t.Errorf("twice the same: %v", err)
	}
	// What stands for a parameter may be the second half of a password.
	err = open(testservice.Postgres(t) + "&hunter2=x")
	wantError(t, err, flow.ClassFatal, "refuses a parameter")
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("shows the name: %v", err)
	}
}
