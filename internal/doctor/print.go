package doctor

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/internal/present"
)

// Table writes the report for a person: a block for each service, what to do below each
// finding, and the count at the end.
func (r *Report) Table(w io.Writer) error {
	var b bytes.Buffer
	style := present.Style(w)
	for _, f := range r.Flows {
		fmt.Fprintf(&b, "%s\n", style.Bold(present.Line(f.File)+": flow "+present.Line(f.Flow)))
		for _, s := range f.Services {
			fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(string(s.Role)+" "+s.Connector))
			if err := checks(&b, s.Checks, style); err != nil {
				return err
			}
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s\n", style.Bold("this machine"))
	if err := checks(&b, r.Machine, style); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%s, %s, %d ok\n", count(r.Failed, "failure"), count(r.Warnings, "warning"), r.OK)
	_, err := w.Write(b.Bytes())
	return err
}

func checks(w io.Writer, all []connect.Check, style present.Styles) error {
	const widest = 40 // of what was looked at, beside what was found
	rows := make([][]string, 0, len(all))
	for _, c := range all {
		if present.Width(c.What) > widest {
			// One long name does not push all else to the right: the width of a table's last
			// cell in a row is nobody's.
			rows = append(rows, []string{"  ", string(c.Status), c.What}, []string{"", "", "", c.Found})
		} else {
			rows = append(rows, []string{"  ", string(c.Status), c.What, c.Found})
		}
		arrow := "→ "
		for l := range strings.Lines(c.Next) {
			rows = append(rows, []string{"", "", "", arrow + strings.TrimRight(l, "\n")})
			arrow = "  "
		}
	}
	return present.Table(w, nil, rows, func(_, column int, cell string) string {
		switch {
		case column == 1 && cell == string(connect.CheckFailed):
			return style.Red(cell)
		case column == 1 && cell == string(connect.CheckWarning):
			return style.Yellow(cell)
		case column == 1 && cell == string(connect.CheckOK):
			return style.Green(cell)
		case column == 3 && (strings.HasPrefix(cell, "→ ") || strings.HasPrefix(cell, "  ")):
			return style.Cyan(cell)
		}
		return cell
	})
}
