package sqlite

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

type findings struct {
	t   testing.TB
	all []connect.Check
}

func check(t testing.TB, cfg SinkConfig, setup flow.Setup) findings {
	t.Helper()
	s, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return findings{t, s.Check(t.Context(), setup)}
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
	f.t.Errorf("nothing %s about %s at %q with %q in:\n%+v", status, what, field, words, f.all)
}

func (f findings) wantOK() {
	f.t.Helper()
	for _, c := range f.all {
		if c.Status != connect.CheckOK || c.Next != "" || c.Found == "" {
			f.t.Errorf("%+v", c)
		}
	}
}

func TestCheckFindsNothingWhereAllIsWell(t *testing.T) {
	cfg := testConfig(t)
	f := check(t, cfg, testSetup(telemetryFields))
	f.wantOK()
	f.want(connect.CheckOK, "folder ", "", "may write in it")
	f.want(connect.CheckOK, "file "+cfg.Path, "", "not there yet")
	if files, _ := filepath.Glob(cfg.Path + "*"); len(files) > 0 {
		t.Errorf("made %v", files)
	}
	create(t, cfg.Path, "PRAGMA journal_mode = WAL")
	create(t, cfg.Path, "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL)")
	check(t, cfg, testSetup(telemetryFields)).wantOK()
	if got := query(t, cfg.Path, "SELECT name FROM sqlite_master"); !slices.Equal(got, []string{"telemetry"}) {
		t.Errorf("made %v", got)
	}
	r := open1(t, cfg, telemetryFields)
	f = check(t, cfg, testSetup(telemetryFields))
	f.want(connect.CheckWarning, "flow f", "", "runs: process ")
	f.want(connect.CheckOK, "flow f", "", "partitions: 1")
	r.write(row{device: "d", seq: 1}) // nobody is in its way
	if err := r.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f = check(t, cfg, testSetup(telemetryFields))
	f.wantOK()
	f.want(connect.CheckOK, "table \"telemetry\"", "", "3 of its 3 columns")
	f.want(connect.CheckOK, "integrity", "", "no damage")
}

func TestCheckNamesWhatDoesNotFit(t *testing.T) {
	cfg := testConfig(t)
	cfg.Mode, cfg.Key = ModeUpsert, []string{"device_id"}
	create(t, cfg.Path, "CREATE TABLE telemetry (device_id INT, seq INTEGER AS (1), must TEXT NOT NULL)")
	f := check(t, cfg, testSetup(telemetryFields))
	f.want(connect.CheckFailed, `column "temp" of table "telemetry"`, "columns.temp", "has no column", "ADD COLUMN \"temp\" REAL;")
	f.want(connect.CheckFailed, `column "seq"`, "columns.seq", "computed by the database")
	f.want(connect.CheckFailed, `column "must"`, "columns.must", "must not be null", "decode it")
	f.want(connect.CheckWarning, `column "device_id"`, "columns.device_id", "is declared INT, and the flow has text", "declare the column TEXT")
	f.want(connect.CheckWarning, "file ", "path", "journal mode delete")

	cfg = testConfig(t)
	cfg.Mode, cfg.Key = ModeUpsert, []string{"device_id"}
	create(t, cfg.Path, "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL)", "CREATE TABLE penstock_checkpoint (a)",
		"CREATE TRIGGER audit AFTER INSERT ON telemetry BEGIN SELECT 1; END")
	f = check(t, cfg, testSetup(telemetryFields))
	f.want(connect.CheckFailed, `table "telemetry"`, "key", "no primary key or unique index", "CREATE UNIQUE INDEX")
	f.want(connect.CheckFailed, "table penstock_checkpoint", "path", "is not the table that Penstock keeps")
	cfg.Mode, cfg.Key = ModeAppend, nil
	check(t, cfg, testSetup(telemetryFields)).want(connect.CheckWarning, `table "telemetry"`, "table", "triggers (audit)")
	cfg.Table, cfg.CreateTable = "gone", false
	check(t, cfg, testSetup(telemetryFields)).want(connect.CheckFailed, `table "gone"`, "table", "has no table", "set create_table", "CREATE TABLE")
	cfg.TableConfig, cfg.Routes = TableConfig{}, []TableConfig{{Route: "a", Table: "telemetry"}, {Route: "b", Table: "gone", Mode: ModeUpsert, Key: []string{"x"}, CreateTable: true}}
	setup := testSetup(nil)
	setup.Routes = [][]flow.Field{telemetryFields, telemetryFields}
	check(t, cfg, setup).want(connect.CheckFailed, `table "gone" (route b)`, "routes.1.key", `key column "x"`)

	cfg = testConfig(t)
	open1(t, cfg, telemetryFields)
	setup = testSetup(telemetryFields)
	setup.Source = "group h"
	check(t, cfg, setup).want(connect.CheckFailed, "flow f", "", "exists with another source")
}

func TestCheckLooksAtTheFile(t *testing.T) {
	cfg := testConfig(t)
	other, err := open(cfg.Path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	check(t, cfg, testSetup(telemetryFields)).want(connect.CheckWarning, "write lock", "path", "another process holds it")
	other.rollback()
	other.close()
	if err = os.WriteFile(cfg.Path, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, cfg, testSetup(telemetryFields)).want(connect.CheckFailed, "file ", "path", "is not a SQLite database")
	cfg.Path = filepath.Join(filepath.Dir(cfg.Path), "none", "x.db")
	f := check(t, cfg, testSetup(telemetryFields))
	f.want(connect.CheckFailed, "folder ", "path", "is not a directory", "mkdir -p")
	if len(f.all) != 1 {
		t.Errorf("goes on without a folder: %+v", f.all)
	}

	cfg = testConfig(t)
	create(t, cfg.Path, "CREATE TABLE telemetry (device_id TEXT, seq INTEGER, temp REAL)", "CREATE TABLE pad (b)", "INSERT INTO pad VALUES (zeroblob(100000))")
	file, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte(strings.Repeat("\xff", 4096)), 4096) // the root of the table
	if cerr := file.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	check(t, cfg, testSetup(telemetryFields)).want(connect.CheckFailed, "integrity", "path", "restore a backup")
}

func TestDescribe(t *testing.T) {
	cfg := testConfig(t)
	s := letterLog(t, cfg).sink
	if got, err := s.Describe(t.Context()); got != nil || err != nil {
		t.Errorf("no file: got %v, %v", got, err)
	}
	create(t, cfg.Path, `CREATE TABLE telemetry (id INTEGER PRIMARY KEY, name VARCHAR(10) NOT NULL, price DECIMAL(10,2), at DATETIME DEFAULT CURRENT_TIMESTAMP,
		doc JSON, raw BLOB, what, temp DOUBLE, double INTEGER AS (id * 2), UNIQUE (price, name))`)
	got, err := s.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	column := func(name, declared, typ string, kind flow.Kind, change ...func(*connect.TableColumn)) connect.TableColumn {
		c := connect.TableColumn{Name: name, Type: declared, Supported: true, Field: flow.Field{Name: name, Type: typ, Kind: kind}}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	filled := func(c *connect.TableColumn) { c.Filled = true }
	want := &connect.Table{Name: "telemetry", Keys: [][]string{{"id"}, {"price", "name"}}, Columns: []connect.TableColumn{
		column("id", "INTEGER", "int8", flow.KindInt64, filled),
		column("name", "VARCHAR(10)", "text", flow.KindString, func(c *connect.TableColumn) { c.NotNull, c.Field.Required = true, true }),
		column("price", "DECIMAL(10,2)", "numeric", flow.KindDecimal),
		column("at", "DATETIME", "timestamptz", flow.KindTimestamp, filled),
		column("doc", "JSON", "json", flow.KindJSON),
		column("raw", "BLOB", "bytea", flow.KindBytes),
		column("what", "", "text", flow.KindString),
		column("temp", "DOUBLE", "float8", flow.KindFloat64),
		column("double", "INTEGER", "int8", flow.KindInt64, func(c *connect.TableColumn) { c.Supported, c.Filled = false, true }),
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
