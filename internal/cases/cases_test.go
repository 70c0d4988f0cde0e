package cases

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
)

const ordersFlow = `flow: orders
source: {kafka: {brokers: ["127.0.0.1:1"], topics: [orders]}}
decode:
  json:
    columns:
      id: {type: int8, required: true}
      amount: numeric
      at: timestamptz
      tags: jsonb
sink: {postgres: {url: "${DATABASE_URL}", table: public.orders}}
`

// run writes the files into a folder and runs orders.test.yaml.
func run(t *testing.T, flow, text string) ([]Result, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"orders.yaml": flow, "orders.test.yaml": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(filepath.Join(dir, "orders.test.yaml"))
	if err != nil {
		return nil, err
	}
	return f.Run(t.Context(), config.Options{Registry: r})
}

func casesOf(text string) string {
	return "flow: orders.yaml\nenv: {DATABASE_URL: \"postgres://x\"}\ncases:\n- name: a case\n" + text
}

func TestACasePassesWhereRowsAndDeadLettersAreAsExpected(t *testing.T) {
	results, err := run(t, ordersFlow, casesOf(`
  records:
  - value: {id: 1, amount: 12.50, at: "2026-01-31T13:00:00+01:00", tags: {b: [1, 2.0], a: null}}
  - value_text: '{"id": 2, "amount": 123456789012345678901234567890.123}'
  - value: {id: one}
  - value_text: no JSON
  - value_base64: eyJpZCI6IDN9
  - {key: k}
  rows:
  - {id: 1, amount: 12.5, at: "2026-01-31T12:00:00.000000Z", tags: {a: null, b: [1, 2]}}
  - {id: 2, amount: "123456789012345678901234567890.123"}
  - {id: 3}
  dead_letters:
  - {record: 3, class: type, column: id, stage: decode, message: want int8}
  - {record: 4, class: malformed}
  - {record: 6, class: tombstone, stage: write}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || !results[0].Pass || results[0].Line != 4 {
		t.Errorf("%+v", results)
	}
}

func TestACaseFailsWithWhatDiffers(t *testing.T) {
	for name, c := range map[string]struct{ text, diff string }{
		"a value":              {"  records: [{value: {id: 1, amount: 2}}]\n  rows: [{id: 1, amount: 3}]", "row 1 (record 1), column amount: want 3, got 2"},
		"a null":               {"  records: [{value: {id: 1, amount: 2}}]\n  rows: [{id: 1}]", "row 1 (record 1), column amount: want null, got 2"},
		"a text, not a number": {"  records: [{value: {id: 1}}]\n  rows: [{id: one}]", `row 1 (record 1), column id: want "one", got 1`},
		"a row too many":       {"  records: [{value: {id: 1}}]", `row 1: want no more rows, got {"amount":null,"at":null,"id":1,"tags":null} (record 1)`},
		"a row too few":        {"  records: [{value: {id: x}}]\n  dead_letters: [{record: 1}]\n  rows: [{id: 1}]", `row 1: want {"id":1}, got no more rows`},
		"a dead letter":        {"  records: [{value: {}}]\n  rows: [{id: 1}]", "record 1: want a row, got a dead letter of class null"},
		"no dead letter":       {"  records: [{value: {id: 1}}]\n  dead_letters: [{record: 1}]", "record 1: want a dead letter, got the row"},
		"another class":        {"  records: [{value: {}}]\n  dead_letters: [{record: 1, class: type}]", "dead letter of record 1, class: want type, got null"},
		"another message":      {"  records: [{value: {}}]\n  dead_letters: [{record: 1, message: blue}]", "dead letter of record 1, message: want … blue …, got"},
		"no such column":       {"  records: [{value: {id: 1}}]\n  rows: [{id: 1, colour: red}]", `column colour: want "red", got there is no such column`},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := run(t, ordersFlow, casesOf(c.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range results[0].Differences {
				got = append(got, fmt.Sprintf("%s: want %s, got %s", d.What, d.Want, d.Got))
			}
			if results[0].Pass || !strings.Contains(strings.Join(got, "\n"), c.diff) {
				t.Errorf("got %q, want one with %q", got, c.diff)
			}
		})
	}
}

func TestRoutesAndTombstonesAreCompared(t *testing.T) {
	const flow = `flow: orders
source: {kafka: {brokers: ["127.0.0.1:1"], topics: [orders, users]}}
routes:
  orders: {topics: [orders], decode: {json: {columns: {id: {type: int8, from: key}}}}, sink: {table: orders, mode: upsert, key: [id]}}
  users: {topics: [users], decode: {json: {columns: {name: text}}}, sink: {table: users}}
sink: {postgres: {url: "${DATABASE_URL}"}}
`
	const text = `
  records:
  - {topic: users, value: {name: a}}
  - {topic: orders, key: "7"}
  rows:
  - {"(route)": users, name: a}
  - {"(route)": ROUTE, "(tombstone)": true, id: 7}
`
	results, err := run(t, flow, casesOf(strings.ReplaceAll(text, "ROUTE", "orders")))
	if err != nil || !results[0].Pass {
		t.Errorf("%+v, %v", results, err)
	}
	results, err = run(t, flow, casesOf(strings.ReplaceAll(text, "ROUTE", "users")))
	if err != nil || results[0].Pass {
		t.Errorf("the wrong route passes: %+v, %v", results, err)
	}
	if _, err = run(t, flow, casesOf("  records: [{topic: other, value: {}}]")); err == nil || !strings.Contains(err.Error(), "no route takes topic other") {
		t.Errorf("got %v", err)
	}
}

func TestAWrongFileSaysWhere(t *testing.T) {
	for text, say := range map[string]string{
		"":                            "orders.test.yaml:1:1: flow: says which flow file is tested, like flow: orders.yaml; penstock test --help",
		ordersFlow:                    "this is a flow file; its cases are in one of their own, *.test.yaml: penstock test --help",
		"cases: []":                   "says which flow file is tested",
		"flow: orders.yaml":           "cases: there are none",
		"flow: orders.yaml\ncase: []": `orders.test.yaml:2:1: unknown field "case"`,
		casesOf("  records: []"):      `:4: case "a case": there are no records`,
		casesOf("  records: [{value: {}}]\n  dead_letters: [{class: x}]"):                  "record is the number of one of the 1 records",
		casesOf("  records: [{value: {}, value_text: x}]"):                                 "records[0] has 2 values",
		casesOf("  records: [{value_file: nowhere}]"):                                      "nowhere",
		casesOf("  records: [{value_base64: \"%\"}]"):                                      "value_base64",
		casesOf("  records: [{valeu: {}}]"):                                                `unknown field "valeu"`,
		strings.Replace(casesOf("  records: [{value: 1}]"), "orders.yaml", "no.yaml", 1):   `no.yaml; "no.yaml" is looked for from the folder`,
		strings.Replace(casesOf("  records: [{value: 1}]"), "DATABASE_URL", "DATABASE", 1): "DATABASE_URL",
	} {
		if _, err := run(t, ordersFlow, text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s\ngot %v, want an error with %q", text, err, say)
		}
	}
}

func TestFilesOfCasesAreFoundInFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flows [1]")
	if err := os.MkdirAll(filepath.Join(dir, "c.test.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.yaml", "a.test.yaml", "b.test.yml", ".b.test.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Find([]string{dir, filepath.Join(dir, "a.test.yaml")})
	if err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Find([]string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), "ends in .test.yaml") {
		t.Errorf("an empty folder: %v", err)
	}
}
