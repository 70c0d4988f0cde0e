package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		text, err := Explain(r, name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string // titles and fields; the rest are sentences, or further in
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
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
