package propose

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/penstockdev/penstock/internal/dryrun"
)

// Records of the cases that are proposed: a few rows, and one dead letter of each class.
const (
	caseRows = 3
	maxValue = 4 << 10 // larger ones are no example
)

// casesWriter makes a file for penstock test of records as they were seen.
type casesWriter struct {
	flow          string
	target        map[string]string
	records, rows []string
	dead          []string
	classes       map[string]bool
}

func (w *casesWriter) add(r *Record, row *dryrun.Row) {
	if r.Value == nil || len(r.Value) > maxValue || !utf8.Valid(r.Value) || !utf8.Valid(r.Key) {
		return
	}
	if row.Dead == nil && len(w.rows) >= caseRows || row.Dead != nil && w.classes[row.Dead.Class] {
		return
	}
	parts := []string{"value_text: " + quoted(string(r.Value))}
	if r.Key != nil {
		parts = append(parts, "key: "+quoted(string(r.Key)))
	}
	parts = append(parts, "topic: "+scalar(r.Partition.Topic))
	w.records = append(w.records, "- {"+strings.Join(parts, ", ")+"}")
	if row.Dead != nil {
		if w.classes == nil {
			w.classes = map[string]bool{}
		}
		w.classes[row.Dead.Class] = true
		entry := fmt.Sprintf("- {record: %d, class: %s", len(w.records), row.Dead.Class)
		if row.Dead.Column != "" {
			entry += ", column: " + scalar(row.Dead.Column)
		}
		w.dead = append(w.dead, entry+"}")
		return
	}
	var columns []string
	for _, c := range row.Columns {
		v := string(c.JSON)
		if v == "null" {
			continue
		}
		// A number is written as a text: YAML's own has only the digits of a float64.
		if v[0] == '-' || v[0] >= '0' && v[0] <= '9' {
			v = `"` + v + `"`
		}
		columns = append(columns, scalar(c.Name)+": "+v)
	}
	w.rows = append(w.rows, "- {"+strings.Join(columns, ", ")+"}")
}

func quoted(s string) string {
	text, _ := json.Marshal(s) //nolint:errchkjson // a string always can be; JSON's strings are YAML's
	return string(text)
}

// text is empty where no record can be shown.
func (w *casesWriter) text() string {
	if len(w.records) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Records as they were found, and what the flow makes of them: penstock test %s\n", strings.TrimSuffix(w.flow, ".yaml")+".test.yaml")
	fmt.Fprintf(&b, "flow: %s\n", scalar(w.flow))
	for _, k := range slices.Sorted(maps.Keys(w.target)) {
		if name, ok := strings.CutPrefix(w.target[k], "${"); ok {
			fmt.Fprintf(&b, "env: {%s: \"postgres://nowhere\"} # nothing is connected to\n", strings.TrimSuffix(name, "}"))
		}
	}
	b.WriteString("cases:\n- name: records as they were found\n  records:\n")
	for _, part := range []struct {
		name  string
		lines []string
	}{{"", w.records}, {"  rows:\n", w.rows}, {"  dead_letters:\n", w.dead}} {
		if len(part.lines) == 0 {
			continue
		}
		b.WriteString(part.name)
		for _, l := range part.lines {
			b.WriteString("  " + l + "\n")
		}
	}
	return b.String()
}
