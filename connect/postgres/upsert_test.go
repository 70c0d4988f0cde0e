package postgres

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

const keyedTable = "CREATE TABLE t (device_id text, seq int8, temp float8, note text DEFAULT 'new', PRIMARY KEY (device_id, seq))"

func TestIgnore(t *testing.T) {
	t.Parallel()
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeIgnore, Key: []string{"seq", "device_id"}}}
	r := newDB(t, keyedTable, "INSERT INTO t VALUES ('a', 1, 10, 'old')").open(cfg, simpleFields)
	r.write(row{"a", 1, 1.0}, row{"a", 2, 2.0}, row{"a", 2, 3.0}, row{"b", 1, 4.0}, row{nil, 1, 5.0}, tombstone{"a", 1})
	r.want("SELECT * FROM t ORDER BY 1, 2", "a|1|10|old", "a|2|2|new", "b|1|4|new")
	r.want(`SELECT "offset", class, column_name FROM penstock_dead_letter ORDER BY 1`, "4|null|device_id", "5|tombstone|")
}

func TestUpsert(t *testing.T) {
	t.Parallel()
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}
	r := newDB(t, keyedTable, "INSERT INTO t VALUES ('a', 1, 10, 'old'), ('z', 1, 1, 'old'), ('y', 1, 1, 'old')").open(cfg, simpleFields)
	r.write(
		row{"a", 1, 1.0}, row{"a", 2, 2.0}, row{"b", 1, 4.0}, row{"a", 2, 3.0}, // the last wins
		tombstone{"z", 1},                   // deletes
		tombstone{"y", 1}, row{"y", 1, 7.0}, // deleted and made anew
		row{"x", 1, 1.0}, tombstone{"x", 1}, // made and deleted
		tombstone{"nobody", 1}, tombstone{"w"}, // deletes nothing; has no key
		row{nil, 1, 1.0},
	)
	r.want("SELECT * FROM t ORDER BY 1, 2", "a|1|1|old", "a|2|3|new", "b|1|4|new", "y|1|7|old")
	r.want(`SELECT "offset", class, column_name FROM penstock_dead_letter ORDER BY 1`, "10|null|seq", "11|null|device_id")
	r.write(tombstone{"a", 1}, tombstone{"a", 2}) // nothing but deletes
	r.want("SELECT device_id FROM t ORDER BY 1", "b", "y")
}

// The record that counts for a key may turn out to be bad; then the one before
// it counts.
func TestUpsertFallsBack(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("id", "int4", flow.KindInt64), field("v", "int2", flow.KindInt64)}
	r := newDB(t, "CREATE TABLE t (id int4 PRIMARY KEY, v int2)", "INSERT INTO t VALUES (3, 3)").
		open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"id"}}}, fields)
	r.write(
		row{1, 1}, row{1, 2}, row{1, 70000}, row{1, 80000},
		row{2, 70000},
		row{3, 1}, tombstone{3}, row{3, 70000},
		row{4, 4},
	)
	r.want("SELECT * FROM t ORDER BY 1", "1|2", "4|4")
	r.want(`SELECT "offset", class FROM penstock_dead_letter ORDER BY 1`, "2|range", "3|range", "4|range", "7|range")
}

// Keys that are equal for the index, though they are written differently.
func TestUpsertEqualKeys(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	for i, c := range []struct {
		typ  string
		f    flow.Field
		keys []any
	}{
		{"numeric", field("id", "numeric", flow.KindDecimal), []any{"1.0", "1.00", "10e-1", "1"}},
		{"numeric(4,1)", field("id", "numeric", flow.KindDecimal), []any{"1.04", "1.0", "0.95"}},
		{"uuid", field("id", "uuid", flow.KindString), []any{"a0eebc999c0b4ef8bb6d6bb9bd380a11", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}"}},
		{"float8", field("id", "float8", flow.KindFloat64), []any{0.0, math.Copysign(0, -1)}},
		{"float4", field("id", "float4", flow.KindFloat64), []any{0.1, 0.1 + 1e-12}},
		{"char(5)", field("id", "text", flow.KindString), []any{"a", "a  ", "a       "}},
		{"bpchar", field("id", "text", flow.KindString), []any{"a", "a  "}},
		{"varchar(3)", field("id", "text", flow.KindString), []any{"a  ", "a     "}},
		{"float8", field("id", "float8", flow.KindFloat64), []any{math.NaN(), math.Float64frombits(math.Float64bits(math.NaN()) ^ 2)}},
		{"numeric[]", list("id", "numeric", flow.KindDecimal), []any{[]any{"1.0"}, []any{"1"}}},
		{"bpchar[]", list("id", "text", flow.KindString), []any{[]any{"a"}, []any{"a "}}},
	} {
		table := fmt.Sprintf("t%d", i)
		d.exec("CREATE TABLE " + table + " (id " + c.typ + " PRIMARY KEY, n int4)")
		d.flow = table
		r := d.open(SinkConfig{TableConfig: TableConfig{Table: table, Mode: ModeUpsert, Key: []string{"id"}}},
			[]flow.Field{c.f, field("n", "int4", flow.KindInt64)})
		var rows []any
		for n, k := range c.keys {
			rows = append(rows, row{k, n})
		}
		r.write(rows...)
		r.want("SELECT n FROM "+table, itoa(len(c.keys)-1))
	}
}

func TestUpsertKeepsRowsOfKeysThatDifferInSpaces(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("id", "text", flow.KindString), field("n", "int4", flow.KindInt64)}
	for _, typ := range []string{"text", "varchar", "varchar(10)"} {
		r := newDB(t, "CREATE TABLE t (id "+typ+" PRIMARY KEY, n int4)").open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"id"}}}, fields)
		r.write(row{"a", 1}, row{"a ", 2})
		r.want("SELECT id, n FROM t ORDER BY n", "a|1", "a |2")
		r.write(tombstone{"a "}, row{"a", 3})
		r.want("SELECT id, n FROM t", "a|3")
	}
}

func TestUpsertWritesRowAfterTombstoneOfEqualPaddedKey(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("id", "text", flow.KindString), field("n", "int4", flow.KindInt64)}
	for _, typ := range []string{"bpchar", "char(5)"} {
		r := newDB(t, "CREATE TABLE t (id "+typ+" PRIMARY KEY, n int4)").open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"id"}}}, fields)
		r.write(row{"a", 1})
		r.write(tombstone{"a "}, row{"a", 2})
		r.want("SELECT id = 'a', n FROM t", "t|2")
	}
}

// What the index takes as equal and the key table as different could lose the last record of a key.
func TestKeysThatAreEqualWithOtherBytesAreRefused(t *testing.T) {
	t.Parallel()
	text := field("id", "text", flow.KindString)
	both, upsert := []string{ModeIgnore, ModeUpsert}, []string{ModeUpsert}
	for _, c := range []struct {
		ddl, why string
		f        flow.Field
		modes    []string
	}{
		{"id citext PRIMARY KEY", "key column id is citext, to which upper and lower case are equal", text, both},
		{"id folded PRIMARY KEY", "key column id is folded, to which upper and lower case are equal", text, both},
		{"id citext[] PRIMARY KEY", "key column id is citext[], to which", list("id", "text", flow.KindString), both},
		{"id text COLLATE ci PRIMARY KEY", "key column id has a non-deterministic collation", text, both},
		{"id insensitive PRIMARY KEY", "key column id has a non-deterministic collation", text, both},
		{"id text; CREATE UNIQUE INDEX ix ON t (id COLLATE ci)", "the unique index ix has a non-deterministic collation", text, both},
		{"id text PRIMARY KEY; CREATE UNIQUE INDEX ix ON t (id COLLATE ci)", "the unique index ix has a non-deterministic collation", text, both},
		{"id jsonb PRIMARY KEY", "key column id is jsonb, to which the same document is equal", field("id", "jsonb", flow.KindJSON), upsert},
	} {
		ddl, more, _ := strings.Cut(c.ddl, ";")
		d := newDB(t, "CREATE EXTENSION citext", "CREATE DOMAIN folded AS citext",
			"CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)", "CREATE DOMAIN insensitive AS text COLLATE ci",
			"CREATE TABLE t ("+ddl+", note citext)", more)
		for _, mode := range c.modes {
			_, err := d.tryOpen(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: mode, Key: []string{"id"}}}, []flow.Field{c.f, field("note", "text", flow.KindString)})
			wantError(t, err, flow.ClassFatal, c.why, "type text with a deterministic collation", "lower case")
		}
		// Columns beside the key may be of any type.
		d.open(SinkConfig{TableConfig: TableConfig{Table: "t"}}, []flow.Field{c.f, field("note", "text", flow.KindString)})
	}
}

// The sink does what applying the records one by one does.
func TestUpsertRandom(t *testing.T) {
	t.Parallel()
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}
	r := newDB(t, keyedTable).open(cfg, simpleFields)
	rng := rand.New(rand.NewPCG(1, 2))
	model := map[string]string{}
	for range 20 {
		var rows []any
		for range 1 + rng.IntN(400) {
			k := fmt.Sprintf("d%d", rng.IntN(20))
			seq := rng.IntN(10)
			key := fmt.Sprintf("%s|%d", k, seq)
			if rng.IntN(3) == 0 {
				rows = append(rows, tombstone{k, seq})
				delete(model, key)
			} else {
				v := float64(rng.IntN(1000))
				rows = append(rows, row{k, seq, v})
				model[key] = fmt.Sprintf("%s|%g", key, v)
			}
		}
		r.write(rows...)
	}
	var want []string
	for _, v := range model {
		want = append(want, v)
	}
	got := r.rows("SELECT device_id, seq, temp FROM t")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
}

// Two lanes that upsert the same keys in opposite order: one of them may be
// told to try again, and nothing else.
func TestUpsertLanesWithCommonKeys(t *testing.T) {
	t.Parallel()
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}
	r := newDB(t, keyedTable).open(cfg, simpleFields)
	other, err := r.sink.Writer(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	var up []any
	for i := range 2000 {
		up = append(up, row{"a", i, 1.0})
	}
	down := slices.Clone(up)
	slices.Reverse(down)
	var wg sync.WaitGroup
	for i, w := range []flow.Writer{r.w, other} {
		wg.Go(func() {
			at := r.at[i]
			rows := [][]any{up, down}[i]
			for range 2 {
				b := makeBatch(simpleFields, at, rows...)
				err := w.Write(t.Context(), b)
				for flow.IsTransient(err) {
					err = w.Write(t.Context(), b)
				}
				if err != nil {
					t.Error(err)
					return
				}
				at.Offset = b.Parts[0].Next
			}
		})
	}
	wg.Wait()
	r.want("SELECT count(*) FROM t", "2000")
	r.want("SELECT next_offset FROM penstock_checkpoint", "4000", "4000")
}

// The row of a violation is known where the keys are fresh, else the merge has none.
func TestUpsertViolation(t *testing.T) {
	t.Parallel()
	cfg := SinkConfig{TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}
	r := newDB(t, keyedTable, "ALTER TABLE t ADD CHECK (temp < 100)").open(cfg, simpleFields)
	bad := []any{row{"a", 1, 1.0}, row{"a", 2, 200.0}}
	if rows := dataRows(t, r.dataErr(r.batch(bad...), "t_temp_check")); !slices.Equal(rows, []int{1}) {
		t.Error(rows)
	}
	r.write(row{"a", 1, 1.0})
	r.write(row{"a", 1, 1.0})
	if rows := dataRows(t, r.dataErr(r.batch(bad...), "t_temp_check")); rows != nil {
		t.Error(rows)
	}
	r.want("SELECT device_id FROM t", "a")
}

// Keys that are neighbours are written together, which the server is faster with. A table
// that can tell gets its rows in the order of the log.
func TestRowsAreInTheOrderOfTheirKeysWhereNobodyCanTell(t *testing.T) {
	t.Parallel()
	rows := []any{row{"c", 1, 1.0}, row{"a", 2, 1.0}, row{"b", 1, 1.0}, row{"a", 1, 1.0}, row{"c", 1, 2.0}, row{"b", 2, 1.0}}
	d := newDB(t)
	byKey := []string{"a|1", "a|2", "b|1", "b|2", "c|1"}
	byLog := []string{"c|1", "a|2", "b|1", "a|1", "b|2"}
	for more, want := range map[string][]string{
		"":                         byKey,
		"CREATE INDEX ON t (temp)": byKey,
		"CREATE UNIQUE INDEX ON t (seq, device_id)":                            byLog,
		"CREATE UNIQUE INDEX ON t ((seq || device_id))":                        byLog,
		"ALTER TABLE t ADD n serial":                                           byLog,
		"ALTER TABLE t ADD n int8 GENERATED ALWAYS AS IDENTITY":                byLog,
		"ALTER TABLE t ADD EXCLUDE USING btree (device_id WITH =, seq WITH =)": byLog,
		"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()": byLog,
	} {
		for _, mode := range []string{ModeIgnore, ModeUpsert} {
			d.exec("DROP TABLE IF EXISTS t, penstock_flow, penstock_checkpoint, penstock_dead_letter; DROP FUNCTION IF EXISTS f;" + keyedTable + ";" + more)
			r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: mode, Key: []string{"device_id", "seq"}}}, simpleFields)
			r.write(rows...)
			d.want("SELECT device_id, seq FROM t ORDER BY ctid", want...)
			temp := map[string]string{ModeIgnore: "1", ModeUpsert: "2"}[mode]
			d.want("SELECT temp FROM t WHERE device_id = 'c'", temp)
		}
	}
}

func TestKeysAreSorted(t *testing.T) {
	t.Parallel()
	columns := flow.NewColumns(simpleFields)
	fields := []flow.Field{simpleFields[0]}
	for _, keys := range [][]string{
		{"b", "a", "", "ab", "aa", "a"},
		{"device-0002", "device-0001", "device-0001x", "device-00010000000002", "device-00010000000001"},
		{"x"},
	} {
		columns.Reset(len(keys))
		records := make([]flow.Record, len(keys))
		var want []string
		for i, k := range keys {
			columns.Cols[0].Bytes[i] = []byte(k)
			records[i].Value = []byte("v")
			want = append(want, fmt.Sprintf("%04d%s %d", len(k), k, i))
		}
		slices.Sort(want)
		c, err := newColumn(0, &fields[0], &tableColumn{name: "device_id", oid: oidText, typmod: -1})
		if err != nil {
			t.Fatal(err)
		}
		table := newKeyTable([]column{c})
		b := flow.NewBatch(records, nil)
		b.Columns = columns
		table.collectAll(b)
		var got []string
		for _, i := range table.upserts {
			got = append(got, fmt.Sprintf("%04d%s %d", len(keys[i]), keys[i], i))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Most keys are new, a few are not: both ways to write a batch give what applying the
// records one by one does, whatever a batch that was begun the wrong way has rejected.
func TestFreshKeys(t *testing.T) {
	t.Parallel()
	fields := []flow.Field{field("id", "int8", flow.KindInt64), field("v", "int2", flow.KindInt64)}
	for _, mode := range []string{ModeIgnore, ModeUpsert} {
		d := newDB(t, "CREATE TABLE t (id int8 PRIMARY KEY, v int2)")
		r := d.open(SinkConfig{TableConfig: TableConfig{Table: "t", Mode: mode, Key: []string{"id"}}}, fields)
		rng := rand.New(rand.NewPCG(3, 4))
		model := map[int]int{}
		next, dead := 0, 0
		ways := map[bool]int{}
		for range 60 {
			var rows []any
			for range 1 + rng.IntN(100) {
				id := next
				if rng.IntN(100) == 0 && next > 0 {
					id = rng.IntN(next)
				}
				next = max(next, id+1)
				v := rng.IntN(1000)
				_, there := model[id]
				switch rng.IntN(50) {
				case 0:
					rows = append(rows, tombstone{id})
					if mode == ModeUpsert {
						delete(model, id)
					} else {
						dead++
					}
				case 1:
					rows = append(rows, row{id, 40_000}) // out of range
					dead++
				default:
					rows = append(rows, row{id, v})
					if mode == ModeUpsert || !there {
						model[id] = v
					}
				}
			}
			r.write(rows...)
			w, ok := r.w.(*writer)
			if !ok {
				t.Fatalf("%T", r.w)
			}
			ways[w.routes[0].direct]++
		}
		var want []string
		for id, v := range model {
			want = append(want, fmt.Sprintf("%d|%d", id, v))
		}
		got := d.rows("SELECT * FROM t")
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d rows, want %d", mode, len(got), len(want))
		}
		d.want("SELECT count(*) FROM penstock_dead_letter", itoa(dead))
		if ways[true] < 5 || ways[false] < 5 {
			t.Errorf("%s: %d batches went into the table itself, %d by way of another", mode, ways[true], ways[false])
		}
	}
}

func TestKeysAreGuessedToBeFreshAsOftenAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		known    int // every so many batches has a key that is known
		min, max int // wrong guesses in 10,000 batches
		right    int // guesses that are right, at least
	}{
		{1, 30, 50, 0},
		{2, 10, 200, 0},
		{100, 80, 100, 9000},
		{20_000, 0, 0, 10_000},
	} {
		var f freshKeys
		var wrong, right int
		for i := range 10_000 {
			if !f.likely() {
				continue
			}
			fresh := (i+1)%c.known != 0
			f.found(fresh)
			if fresh {
				right++
			} else {
				wrong++
			}
		}
		if wrong < c.min || wrong > c.max || right < c.right {
			t.Errorf("a known key in every %dth batch: guessed wrongly %d times, rightly %d times", c.known, wrong, right)
		}
	}
}

// Policies for rows are not for COPY.
func TestUpsertWithRowSecurity(t *testing.T) {
	t.Parallel()
	d := newDB(t, keyedTable, "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY p ON t USING (device_id <> 'z')")
	role, url := d.role()
	t.Cleanup(func() {
		_, _ = d.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = d.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	d.exec("GRANT CREATE ON SCHEMA public TO " + role)
	d.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON t TO " + role)
	r := d.open(SinkConfig{URL: url, TableConfig: TableConfig{Table: "t", Mode: ModeUpsert, Key: []string{"device_id", "seq"}}}, simpleFields)
	r.write(row{"a", 1, 1.0})
	r.write(row{"a", 1, 2.0})
	d.want("SELECT device_id, temp FROM t", "a|2")

	// They may come later, too.
	d.exec("ALTER TABLE t DISABLE ROW LEVEL SECURITY")
	r = d.open(r.cfg, simpleFields)
	d.exec("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
	r.write(row{"c", 1, 1.0})
	d.want("SELECT device_id, temp FROM t ORDER BY 1", "a|2", "c|1")
}
