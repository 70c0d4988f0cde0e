package stdout

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWidth is the widest a column gets; longer values are cut.
const maxWidth = 48

// table lays cells out in columns whose widths are set by the first rows.
type table struct {
	names  []string
	widths []int
}

func newTable(names []string, rows [][]string) *table {
	t := &table{names: names, widths: make([]int, len(names))}
	for _, row := range append([][]string{names}, rows...) {
		for i, cell := range row {
			t.widths[i] = min(maxWidth, max(t.widths[i], utf8.RuneCountInString(cell)))
		}
	}
	return t
}

func (t *table) header(dst []byte) []byte {
	dst = t.row(dst, t.names)
	rules := make([]string, len(t.widths))
	for i, w := range t.widths {
		rules[i] = strings.Repeat("-", w)
	}
	return t.row(dst, rules)
}

func (t *table) row(dst []byte, cells []string) []byte {
	for i, cell := range cells {
		if i > 0 {
			dst = append(dst, "  "...)
		}
		n := utf8.RuneCountInString(cell)
		if n > t.widths[i] && n > maxWidth {
			dst = append(dst, string([]rune(cell)[:maxWidth-1])...)
			dst = append(dst, "…"...)
			continue
		}
		dst = append(dst, cell...)
		if i < len(cells)-1 {
			for ; n < t.widths[i]; n++ {
				dst = append(dst, ' ')
			}
		}
	}
	return append(dst, '\n')
}

// plain is a JSON value as a cell: strings without quotes, null as nothing.
func plain(value []byte) string {
	if string(value) == "null" {
		return ""
	}
	if len(value) > 0 && value[0] == '"' {
		var s string
		if json.Unmarshal(value, &s) == nil {
			return printable([]byte(s))
		}
	}
	return string(value)
}

// printable keeps control characters from the terminal.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, string(b))
}
