package propose

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/cases"
)

func options(t testing.TB) Options {
	t.Helper()
	r, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Name: "orders", Topic: "orders", Brokers: []string{"127.0.0.1:1"}, Sink: "sqlite", Table: "orders",
		Target: map[string]string{"path": `"orders.db"`}, Config: config.Options{Registry: r},
	}
}

// recordsOf are records with these values; "" is a tombstone.
func recordsOf(values ...string) []Record {
	out := make([]Record, len(values))
	for i, v := range values {
		out[i] = Record{flow.Partition{Topic: "orders"}, flow.Record{Offset: int64(i)}}
		if v != "" {
			out[i].Value = []byte(v)
		}
	}
	return out
}

// repeated is n times the documents.
func repeated(n int, values ...string) []string { return slices.Repeat(values, n) }

func TestColumnsAreToldFromValues(t *testing.T) {
	for doc, want := range map[string]string{
		`{"a": 1}`:                                      "a int8",
		`{"a": 1.5}`:                                    "a float8",
		`{"a": 12.100000000000001}`:                     "a float8",
		`{"a": 1e400}`:                                  "a numeric",
		`{"a": 12345678901234567890}`:                   "a numeric",
		`{"a": 0.1234567890123456789}`:                  "a numeric",
		`{"a": true}`:                                   "a bool",
		`{"a": "x"}`:                                    "a text",
		`{"a": "x\u0000y"}`:                             "a bytea",
		`{"a": "2026-01-31T12:00:00Z"}`:                 "a timestamptz",
		`{"a": "2026-01-31T12:00:00"}`:                  "a timestamp 2006-01-02T15:04:05",
		`{"a": "2026-01-31"}`:                           "a date",
		`{"a": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}`: "a uuid",
		`{"a": "12.5"}`:                                 "a text",
		`{"ts": 1769860800}`:                            "ts timestamptz unix",
		`{"createdAt": 1769860800000}`:                  "created_at timestamptz createdAt unix_ms",
		`{"count": 1769860800}`:                         "count int8",
		`{"a": [1, 2]}`:                                 "a int8[]",
		`{"a": ["x"]}`:                                  "a text[]",
		`{"a": []}`:                                     "a jsonb",
		`{"a": [{"b": 1}]}`:                             "a jsonb",
		`{"a": [1, "x"]}`:                               "a jsonb",
		`{"a": {"b": 1, "c": {"d": "x"}}}`:              "a_b int8 a.b, a_c_d text a.c.d",
		`{"a": {"b": {"c": {"d": {"e": 1}}}}}`:          "a_b_c_d jsonb a.b.c.d",
		`{"a": {}}`:                                     "a jsonb",
		`{"a": null}`:                                   "a text",
		`{"a.b": 1}`:                                    `a_b int8 "a.b"`,
		`{"a b": 1, "a_b": 2}`:                          `a_b int8 "a b", a_b_2 int8 a_b`,
		`{"1st": 1}`:                                    "c_1st int8 1st",
		`{"z": 1, "a": 2}`:                              "z int8, a int8",
		`{"customerID": "x", "HTTPStatus": 200}`:        "customer_id text customerID, httpstatus int8 HTTPStatus",
	} {
		root := &shape{}
		if !root.document([]byte(doc)) {
			t.Fatalf("%s is a document", doc)
		}
		var got []string
		for _, c := range root.columns() {
			text := c.Name + " " + c.Type
			for _, more := range []string{c.Path, c.Format} {
				if more != "" {
					text += " " + more
				}
			}
			got = append(got, text)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s\n got %s\nwant %s", doc, strings.Join(got, ", "), want)
		}
	}
}

func TestDocumentsThatDisagree(t *testing.T) {
	for name, c := range map[string]struct {
		docs []string
		want string
		sure Sure
	}{
		"many that agree":         {repeated(100, `{"a": 1}`), "int8", Certain},
		"few that agree":          {repeated(3, `{"a": 1}`), "int8", Likely},
		"numbers and nulls":       {repeated(100, `{"a": 1}`, `{"a": null}`), "int8", Certain},
		"whole and not":           {[]string{`{"a": 1}`, `{"a": 1.5}`}, "float8", Likely},
		"numbers also in strings": {[]string{`{"a": 1}`, `{"a": "2"}`}, "numeric", Guessed},
		"a time and no time":      {[]string{`{"a": "2026-01-31T12:00:00Z"}`, `{"a": "soon"}`}, "text", Likely},
		"always two places":       {repeated(100, `{"a": 12.50}`), "numeric", Likely},
		"times, by their size":    {repeated(100, `{"a": 1769860800000}`), "int8", Likely},
		"always one place":        {repeated(100, `{"a": 21.5}`), "float8", Certain},
		"a mistake among many":    {append(repeated(100, `{"a": 1}`), `{"a": "oops"}`), "int8", Guessed},
		"a mistake among few":     {append(repeated(10, `{"a": 1}`), `{"a": "oops"}`), "jsonb", Guessed},
		"a number and an object":  {[]string{`{"a": 1}`, `{"a": {"b": 1}}`}, "jsonb", Guessed},
	} {
		root := &shape{}
		for _, d := range c.docs {
			root.document([]byte(d))
		}
		got := root.columns()
		if len(got) != 1 || got[0].Type != c.want || got[0].Sure != c.sure {
			t.Errorf("%s: got %+v, want %s, %s", name, got, c.want, c.sure)
		}
	}
}

func TestAnObjectWithKeysWithoutEndIsOneColumn(t *testing.T) {
	root := &shape{}
	for i := range 1000 {
		root.document(fmt.Appendf(nil, `{"id": %d, "by_user": {"user-%d": 1}}`, i, i))
	}
	got := root.columns()
	if len(got) != 2 || got[1].Name != "by_user" || got[1].Type != "jsonb" {
		t.Errorf("got %+v", got)
	}
}

// What is written is right, passes its own cases, and makes the rows that are promised.
func TestProposalRuns(t *testing.T) {
	docs := repeated(60,
		`{"id": 1, "amount": 12.50, "customer": {"name": "Ann \"A\" Ö", "since": "2020-02-29"}, "tags": ["a", "b"], "created_at": 1769860800000}`,
		`{"id": 2, "amount": 123456789012345678.25, "customer": {"name": "<b>: # {x}", "since": null}, "tags": [], "created_at": 1769860801000, "note": "$HOME ${x}"}`)
	docs = append(docs, `no JSON`, `{"id": 3}`, "")
	p, err := Make(t.Context(), recordsOf(docs...), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if p.Documents != 121 || p.Tombstones != 1 || p.Rows != 121 || p.Dead["malformed"] != 1 || p.Dead["tombstone"] != 1 {
		t.Errorf("%+v", p)
	}
	runCases(t, p)
	for _, line := range []string{
		`id: {type: int8, required: true}`, `amount: numeric`, `customer_name: {type: text, path: customer.name}`, `customer_since: {type: date, path: customer.since}`,
		`created_at: {type: timestamptz, format: unix_ms}`, `note: text`, `create_table: true`,
	} {
		if !strings.Contains(p.File, line) {
			t.Errorf("there is no %s in\n%s", line, p.File)
		}
	}
}

func runCases(t testing.TB, p *Proposal) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"orders.yaml": p.File, "orders.test.yaml": p.Cases} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := cases.Read(filepath.Join(dir, "orders.test.yaml"))
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Cases)
	}
	results, err := f.Run(t.Context(), options(t).Config)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Cases)
	}
	for _, r := range results {
		if !r.Pass {
			t.Errorf("%+v\n%s\n%s", r.Differences, p.File, p.Cases)
		}
	}
}

func TestATableThatIsThereDecides(t *testing.T) {
	o := options(t)
	field := func(name, typ string) flow.Field { return flow.Field{Name: name, Type: typ} }
	o.Existing = &connect.Table{
		Name: "orders", Keys: [][]string{{"id"}},
		Columns: []connect.TableColumn{
			{Name: "id", Type: "integer", Field: field("id", "int4"), Supported: true, NotNull: true},
			{Name: "customer_name", Type: "text", Field: field("customer_name", "text"), Supported: true},
			{Name: "createdat", Type: "timestamptz", Field: field("createdat", "timestamptz"), Supported: true},
			{Name: "seen", Type: "timestamptz", Field: field("seen", "timestamptz"), Supported: true},
			{Name: "price", Type: "numeric", Field: field("price", "numeric"), Supported: true},
			{Name: "region", Type: "text", Field: field("region", "text"), Supported: true, NotNull: true},
			{Name: "row_id", Type: "bigint", Field: field("row_id", "int8"), Supported: true, NotNull: true, Filled: true},
		},
	}
	p, err := Make(t.Context(), recordsOf(repeated(2, `{"ID": 7, "customer": {"name": "Ann"}, "created_at": "2026-01-31T12:00:00Z", "seen": 1769860800, "price": "12.50", "colour": "red"}`)...), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`id: {type: int4, path: ID, required: true}`, `customer_name: {type: text, path: customer.name}`, `createdat: {type: timestamptz, path: created_at}`,
		`seen: {type: timestamptz, format: unix}`, `price: {type: numeric, format: string}`,
	} {
		if !strings.Contains(p.File, line) {
			t.Errorf("there is no %s in\n%s", line, p.File)
		}
	}
	if p.Rows != 2 || strings.Contains(p.File, "create_table") {
		t.Errorf("%d rows of\n%s", p.Rows, p.File)
	}
	notes := strings.Join(p.Notes, "\n")
	for _, say := range []string{"must be filled and nothing in the documents is called so: region", "row_id", "no column for: colour", "key (id)"} {
		if !strings.Contains(notes, say) {
			t.Errorf("no note says %q: %s", say, notes)
		}
	}
}

// Nothing that the records themselves refute is called sure.
func TestATableThatDoesNotFitMakesNothingSure(t *testing.T) {
	o := options(t)
	column := func(name, typ string) connect.TableColumn {
		return connect.TableColumn{Name: name, Type: typ, Field: flow.Field{Name: name, Type: typ}, Supported: true}
	}
	o.Existing = &connect.Table{Name: "orders", Columns: []connect.TableColumn{column("id", "uuid"), column("email", "text"), column("seq", "int8"), column("note", "int4")}}
	records := recordsOf(repeated(100, `{"seq": 1, "customer": {"id": "c-1", "email": "a@example.org"}, "note": "x"}`)...)
	for i := range records {
		records[i].Key = []byte("1")
	}
	p, err := Make(t.Context(), records, o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range p.Columns {
		got = append(got, c.Name+" "+string(c.Sure)+" "+pathOf(&c)+" "+c.Why)
	}
	want := "email a guess customer.email by the end of its path alone, seq sure seq , " +
		"note a guess note the values look like text, and 100 records become dead letters by it"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	if !strings.Contains(p.File, "# a guess: in 100 of 100, like x; the values look like text, and 100 records") {
		t.Errorf("the file does not say so:\n%s", p.File)
	}
	if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, "stay empty or have their default: id") || !strings.Contains(notes, "once table orders has a unique index on it") {
		t.Errorf("got %s", notes)
	}
}

func TestSamplesAreAsManyAsWereAskedFor(t *testing.T) {
	p := flow.Partition{Topic: "orders"}
	for _, n := range []int{1, 2, 3, 10} {
		got, err := Sample(t.Context(), topic{}, &flow.Log{Partitions: []flow.PartitionInfo{{Partition: p, End: 10}}}, n)
		if err != nil || len(got) != n {
			t.Errorf("asked for %d: got %d, %v", n, len(got), err)
		}
	}
}

// topic is a source with a partition of ten records.
type topic struct{ flow.Source }

func (topic) Peek(_ context.Context, from []flow.Position, n int, fn func(flow.Fetch)) error {
	for _, at := range from {
		for o := at.Offset; o < min(10, at.Offset+int64(n)); o++ {
			fn(flow.Fetch{Partition: at.Partition, Records: []flow.Record{{Offset: o}}})
		}
	}
	return nil
}

func TestWhatIsLeftOutIsSaid(t *testing.T) {
	var wide []string
	for i := range 300 {
		wide = append(wide, fmt.Sprintf(`"f%d": 1`, i))
	}
	for say, doc := range map[string]string{
		"more than 201 fields; the others have no column":    "{" + strings.Join(wide, ",") + "}",
		"no file of cases is proposed: no record is text of": `{"a": "` + strings.Repeat("x", 5000) + `"}`,
	} {
		p, err := Make(t.Context(), recordsOf(doc), options(t))
		if err != nil || !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, say) }) {
			t.Errorf("%v: no note says %q", err, say)
		}
	}
}

func TestTheKeyIsExplained(t *testing.T) {
	records := recordsOf(`{"id": 1, "x": "a"}`, `{"id": 2, "x": "a"}`)
	records[0].Key, records[1].Key = []byte("1"), []byte("2")
	p, err := Make(t.Context(), records, options(t))
	if err != nil || !strings.Contains(strings.Join(p.Notes, "\n"), "the records' key is the field id") {
		t.Errorf("%v: %v", err, p)
	}
}

func TestRecordsOfWhichNoColumnsCanBeMade(t *testing.T) {
	for say, values := range map[string][]string{
		"has no records with a value":    {"", ""},
		"are no JSON objects: 0 of 2":    {"hello", "[1]"},
		"those of a schema registry":     {"\x00\x00\x00\x00\x01abc"},
		"of topic orders have no fields": {"{}"},
	} {
		if _, err := Make(t.Context(), recordsOf(values...), options(t)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: got %v, want an error with %q", values, err, say)
		}
	}
}

// Whatever the documents are called and hold, the proposed file is right, and its cases pass.
func FuzzProposal(f *testing.F) {
	for _, doc := range []string{`{"a": 1}`, `{"": 1}`, `{"a\"b\\c\n": [1, null]}`, `{"$x": "${y}", "ä": {"\u0000": 1}}`, `{"true": true, "null": null, "a: b": "#"}`, `{"a": 1e999999}`} {
		f.Add(doc)
	}
	o := options(f)
	f.Fuzz(func(t *testing.T, doc string) {
		var v map[string]any
		if json.Unmarshal([]byte(doc), &v) != nil || len(v) == 0 || len(doc) > 1000 {
			return
		}
		p, err := Make(t.Context(), recordsOf(doc), o)
		if err != nil {
			if strings.Contains(err.Error(), "a mistake of penstock init") {
				t.Fatal(err)
			}
			return
		}
		if p.Cases != "" {
			runCases(t, p)
		}
	})
}
