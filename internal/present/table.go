package present

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Paint styles a cell of a table: row counts from 0 below the header, which is -1.
// It must not change the width.
type Paint func(row, column int, cell string) string

// Table writes rows below a header as aligned columns without borders. A nil header is
// left out; a row may be shorter or longer than the header, and its last cell does not
// widen its column for others to its right. Every cell is one line: see Line.
func Table(w io.Writer, header []string, rows [][]string, paint ...Paint) error {
	first := 0
	if header != nil {
		rows = append([][]string{header}, rows...)
		first = -1
	}
	var widths []int // of the columns, last cells of rows left out
	lines := make([][]string, len(rows))
	for i, row := range rows {
		for j, cell := range row {
			cell = Line(cell)
			lines[i] = append(lines[i], cell)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			if j < len(row)-1 {
				widths[j] = max(widths[j], Width(cell))
			}
		}
	}
	var b strings.Builder
	for i, cells := range lines {
		for len(cells) > 0 && cells[len(cells)-1] == "" {
			cells = cells[:len(cells)-1] // no blanks at a line's end
		}
		for j, cell := range cells {
			styled := cell
			for _, p := range paint {
				styled = p(i+first, j, styled)
			}
			b.WriteString(styled)
			if j < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[j]-Width(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Line returns s as one line that a terminal only shows: control characters, line breaks,
// and bytes that are not UTF-8 become escapes. What comes from a record or a server must
// pass through it.
func Line(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch _, n := utf8.DecodeRuneInString(s[i:]); {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// Width is the number of terminal cells that a line takes.
func Width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case r >= 0x1100 && wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

func wide(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) ||
		0x3000 <= r && r <= 0x303e || 0xff01 <= r && r <= 0xff60 || 0x1f300 <= r && r <= 0x1faff
}
