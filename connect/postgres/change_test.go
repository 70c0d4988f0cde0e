package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

const tableWithKey = "CREATE TABLE t (device_id text, seq int8 PRIMARY KEY, temp float8)"

var allModes = []string{ModeAppend, ModeIgnore, ModeUpsert}

func modeConfig(mode string) SinkConfig {
	c := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: mode}}
	if mode != ModeAppend {
		c.Key = []string{"seq"}
	}
	return c
}

// retry writes the batch as the engine does, for errors that pass by themselves.
func (r *rig) retry(b *flow.Batch) {
	r.t.Helper()
	for range 2 {
		err := r.w.Write(r.t.Context(), b)
		if err == nil {
			r.at[0].Offset = b.Parts[0].Next
			return
		}
		wantError(r.t, err, flow.ClassTransient)
	}
	r.writeBatch(b)
}

// A table that is changed under the flow so that its columns still fit is written on,
// with the values that were meant: eight bytes of an int8 are a numeric, too, a wrong one.
func TestAChangeOfTheTableThatFitsIsFollowed(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		"ALTER TABLE t ALTER seq TYPE int4",
		"ALTER TABLE t ALTER seq TYPE numeric",
		"ALTER TABLE t ALTER temp TYPE float4",
		"ALTER TABLE t ALTER device_id TYPE varchar(20)",
		"ALTER TABLE t DROP temp; ALTER TABLE t ADD temp float8",
		"ALTER TABLE t RENAME TO old; CREATE TABLE t (temp float8, seq numeric PRIMARY KEY, device_id text); INSERT INTO t (device_id, seq, temp) SELECT device_id, seq, temp FROM old",
	} {
		for _, mode := range allModes {
			table, statement := tableWithKey, change
			if mode == ModeAppend { // no key would find values that are not what was meant
				table, statement = simpleTable, strings.Replace(change, " PRIMARY KEY", "", 1)
			}
			r := newDB(t, table).open(modeConfig(mode), simpleFields)
			r.write(row{"a", 1, 1.5})
			r.exec(statement)
			r.retry(r.batch(row{"b", 2, 2.5}, row{"c", 77, nil}))
			r.write(row{"d", 4, 4.5})
			r.want("SELECT device_id, seq, coalesce(temp, -1) FROM t WHERE seq > 1 ORDER BY 1", "b|2|2.5", "c|77|-1", "d|4|4.5")
			r.want("SELECT count(*) FROM t", "4")
			r.want("SELECT count(*) FROM penstock_dead_letter", "0")
		}
	}
}

func TestAColumnThatTheFlowDoesNotWriteDoesNotDisturb(t *testing.T) {
	t.Parallel()
	for _, mode := range allModes {
		r := newDB(t, tableWithKey).open(modeConfig(mode), simpleFields)
		r.write(row{"a", 1, 1.5})
		r.exec("ALTER TABLE t ADD note text, ADD n int4 NOT NULL DEFAULT 7")
		r.write(row{"b", 2, 2.5})
		r.want("SELECT device_id, n FROM t ORDER BY 1", "a|7", "b|7")
		// What is wrong with a record still is.
		r.exec("ALTER TABLE t ADD CHECK (temp < 100)")
		b := r.batch(row{"c", 3, 3.5}, row{"d", 4, 400.5})
		if err := r.w.Write(t.Context(), b); flow.ClassOf(err) == flow.ClassTransient {
			_ = r.dataErr(b, "violates check constraint")
		} else {
			wantError(t, err, flow.ClassData, "violates check constraint")
		}
	}
}

// A change that does not fit makes no dead letters. The error says how to mend it; when
// that is done, the flow goes on where it was.
func TestAChangeOfTheTableThatDoesNotFitSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change, mend string
		modes        []string
		words        []string
	}{
		{"ALTER TABLE t DROP temp", "ALTER TABLE t ADD temp float8", allModes, []string{"there is no column temp: ALTER TABLE public.t ADD COLUMN temp float8;"}},
		{"ALTER TABLE t ALTER temp TYPE text", "ALTER TABLE t ALTER temp TYPE float8 USING temp::float8", allModes, []string{"column temp is text, and the flow has float8"}},
		{
			"ALTER TABLE t ADD must int4; UPDATE t SET must = 1; ALTER TABLE t ALTER must SET NOT NULL", "ALTER TABLE t ALTER must DROP NOT NULL", allModes,
			[]string{"column must is NOT NULL without a default, and the flow has no such column", "ALTER COLUMN must DROP NOT NULL;"},
		},
		{"ALTER TABLE t RENAME COLUMN temp TO temperature", "ALTER TABLE t RENAME COLUMN temperature TO temp", allModes, []string{"there is no column temp"}},
		{"ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t", allModes, []string{"table public.t is gone: it was dropped or renamed while the flow runs"}},
		{"CREATE TABLE u AS TABLE t; DROP TABLE t", "ALTER TABLE u RENAME TO t; ALTER TABLE t ADD PRIMARY KEY (seq)", allModes, []string{"table public.t is gone"}},
		{"ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD PRIMARY KEY (seq)", []string{ModeIgnore, ModeUpsert}, []string{"needs a unique index on exactly the key: CREATE UNIQUE INDEX ON public.t (seq);"}},
	} {
		for _, mode := range c.modes {
			r := newDB(t, tableWithKey).open(modeConfig(mode), simpleFields)
			r.write(row{"a", 1, 1.5})
			r.exec(c.change)
			b := r.batch(row{"b", 2, 2.5})
			r.wantErr(b, flow.ClassUnknown, append(c.words, "while the flow runs")...)
			r.wantErr(b, flow.ClassUnknown, c.words...)
			r.want("SELECT next_offset FROM penstock_checkpoint WHERE partition = 0", "1")
			r.exec(c.mend)
			r.retry(b)
			r.want("SELECT device_id, seq FROM t ORDER BY 1", "a|1", "b|2")
			r.want("SELECT count(*) FROM penstock_dead_letter", "0")
		}
	}
}

func TestARightThatIsRevokedIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode, revoke, grant string
	}{
		{ModeAppend, "INSERT ON t", "GRANT INSERT ON public.t TO "},
		{ModeAppend, "USAGE ON SCHEMA s", "GRANT USAGE ON SCHEMA s TO "},
		{ModeIgnore, "SELECT ON t", "GRANT SELECT ON public.t TO "},
		{ModeUpsert, "UPDATE, DELETE ON t", "GRANT UPDATE, DELETE ON public.t TO "},
		{ModeUpsert, "UPDATE ON penstock_checkpoint", "GRANT UPDATE ON public.penstock_checkpoint TO "},
	} {
		table := tableWithKey
		if c.mode == ModeAppend {
			table = simpleTable
		}
		d := newDB(t, table, "CREATE SCHEMA s")
		role, url := d.role()
		d.exec("GRANT CREATE, USAGE ON SCHEMA public, s TO " + role)
		d.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON t TO " + role)
		t.Cleanup(func() {
			_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
			_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
		})
		cfg := modeConfig(c.mode)
		cfg.URL = url
		if strings.Contains(c.revoke, "SCHEMA") {
			d.exec("ALTER TABLE t SET SCHEMA s")
			cfg.Table, cfg.CheckpointSchema = "s.t", "public"
		}
		r := d.open(cfg, simpleFields)
		for _, own := range []string{flowTable, checkpointTable, deadLetterTable} { // of which the role is the owner
			d.exec("ALTER TABLE " + own + " OWNER TO CURRENT_USER; GRANT ALL ON " + own + " TO " + role)
		}
		r.write(row{"a", 1, 1.5})
		d.exec("REVOKE " + c.revoke + " FROM " + role)
		b := r.batch(row{"a", 1, 2.5}) // a known key: new ones need less
		r.wantErr(b, flow.ClassFatal, "permission denied", "start the flow again. As the owner, run:\n"+c.grant+role+";")
		d.exec(c.grant + role)
		r.writeBatch(b)
	}
}

func TestTheRightsThatTheModeNeedsAreAskedForAtTheStart(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		ModeAppend: "GRANT INSERT ON public.t TO ",
		ModeIgnore: "GRANT SELECT, INSERT ON public.t TO ",
		ModeUpsert: "GRANT SELECT, INSERT, UPDATE, DELETE ON public.t TO ",
	} {
		d := newDB(t, tableWithKey)
		role, url := d.role()
		d.exec("GRANT CREATE, USAGE ON SCHEMA public TO " + role)
		t.Cleanup(func() {
			_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
			_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
		})
		cfg := modeConfig(mode)
		cfg.URL = url
		_, err := d.tryOpen(cfg, simpleFields)
		wantError(t, err, flow.ClassFatal, "may not write table public.t in mode "+mode)
		_, grants, _ := strings.Cut(err.Error(), "run:\n")
		if grants = strings.TrimSpace(grants); grants != want+role+";" {
			t.Errorf("%s: got %s, want %s%s;", mode, grants, want, role)
		}
		d.want("SELECT count(*) FROM pg_class WHERE relname LIKE 'penstock_%'", "0")
		d.exec(grants)
		r := d.open(cfg, simpleFields)
		r.write(row{"a", 1, 1.5}, row{"b", 2, 2.5})
		if mode == ModeUpsert { // DELETE is for tombstones
			d.exec("REVOKE DELETE ON t FROM " + role)
			d.open(cfg, simpleFields).write(row{"c", 3, 3.5})
		}
	}
}

// What a column takes depends on more than its type: nothing is rounded, and no record that
// fits is a dead letter.
func TestARecordThatFitsTheColumnAsItIsNowIsWritten(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("seq", "int8", flow.KindInt64), field("name", "text", flow.KindString), field("n", "numeric", flow.KindDecimal)}
	for _, change := range []string{
		"ALTER TABLE t ALTER n TYPE numeric(10,4)",
		"ALTER TABLE t ALTER name TYPE varchar(50)",
		"ALTER TABLE t ALTER name DROP NOT NULL",
	} {
		for _, mode := range allModes {
			ddl := "CREATE TABLE t (seq int8 PRIMARY KEY, name varchar(3) NOT NULL, n numeric(10,2))"
			var records []any
			var want []string
			switch {
			case strings.Contains(change, "(10,4)"):
				records, want = []any{row{2, "b", "1.2345"}}, []string{"1|a|1.2500", "2|b|1.2345"}
			case strings.Contains(change, "(50)"):
				records, want = []any{row{2, "longer", "1.25"}}, []string{"1|a|1.25", "2|longer|1.25"}
			default:
				records, want = []any{row{2, nil, "1.25"}}, []string{"1|a|1.25", "2|NULL|1.25"}
			}
			r := newDB(t, ddl).open(modeConfig(mode), fields)
			r.write(row{1, "a", "1.25"})
			r.exec(change)
			err := r.w.Write(t.Context(), r.batch(records...))
			if class := flow.ClassOf(err); class != flow.ClassTransient && class != flow.ClassFenced {
				t.Errorf("%s, %s: %v", change, mode, err)
			}
			r.write(records...) // a new batch, as the flow reads it again
			r.want("SELECT * FROM t ORDER BY 1", want...)
			r.want("SELECT count(*) FROM penstock_dead_letter", "0")
		}
	}
}

func TestNothingIsRoundedIntoAColumnThatWasChanged(t *testing.T) {
	t.Parallel()
	for _, mode := range allModes {
		r := newDB(t, tableWithKey).open(modeConfig(mode), simpleFields)
		r.write(row{"a", 1, 1.5})
		r.exec("ALTER TABLE t ALTER temp TYPE int4")
		r.wantErr(r.batch(row{"b", 2, 2.6}), flow.ClassUnknown, "column temp is integer, and the flow has float8")
		r.want("SELECT count(*) FROM t", "1")
	}
}
