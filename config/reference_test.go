package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/connect"
)

func TestExplainTakesPaths(t *testing.T) {
	r := testRegistry(t)
	for name, want := range map[string][]string{
		"batch.records":         {"batch", "  batch.records"},
		"routes.mine.topics":    {"routes", "  routes.NAME.topics"},
		"sink.screen":           {"sink: screen"},
		"sink.table.key":        {"sink: table", "  key"},
		"table.mode":            {"sink: table", "  mode"},
		"log.sasl":              {"source: log", "  sasl", "  sasl.mechanism", "  sasl.username", "  sasl.password"},
		"dead_letters.log":      {"dead_letters: log", "  topic"},
		"json.columns.seq.path": {"decode: json", "  columns.NAME.path"},
		"log.topi":              nil,
		"sink.log":              nil,
		"batch.records.x":       nil,
	} {
		text := explained(t, r, name)
		var got []string // titles and fields; the rest are sentences, or further in
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasSuffix(line, "Example:") {
				break
			}
			if line != "" && !strings.HasPrefix(line, "      ") && !strings.HasSuffix(line, ".") {
				got = append(got, line)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("explain %s: %s", name, diff)
		}
	}
	for name, want := range map[string]string{
		"log.sals": "log.sasl", "sink.tabel": "sink.table", "batch.recods": "batch.records", "sink.table.moed": "sink.table.mode",
	} {
		if hint, err := Suggest(r, name); err != nil || hint != fmt.Sprintf("did you mean %q?", want) {
			t.Errorf("%s: %q, %v; want %s", name, hint, err, want)
		}
	}
}

// explained is what Explain says, as text.
func explained(t *testing.T, r *connect.Registry, name string) string {
	t.Helper()
	all, err := Explain(r, name)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, d := range all {
		texts = append(texts, d.Text(plain))
	}
	return strings.Join(texts, "\n\n")
}

func TestExplainKnowsEveryNameThatItCompletes(t *testing.T) {
	r := testRegistry(t)
	names, err := Names(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"batch", "batch.records", "log", "source.log.sasl.username", "table.mode", "routes.NAME.topics"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among the names", want)
		}
	}
	for _, name := range names {
		if explained(t, r, name) == "" {
			t.Errorf("%s is completed, and not known", name)
		}
	}
}

func TestExamplesOfConnectorsAreTaken(t *testing.T) {
	r := testRegistry(t)
	file := "flow: example\n"
	for _, name := range []string{"source.log", "decode.json", "sink.table", "dead_letters.log"} {
		all, err := Explain(r, name)
		if err != nil || len(all) != 1 {
			t.Fatalf("explain %s: %v, %v", name, all, err)
		}
		file += all[0].Example
	}
	if _, err := Load("example.yaml", []byte(file), testOptions(t)); err != nil {
		t.Errorf("%v:\n%s", err, file)
	}
}
