package dryrun

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
)

// Value is the value of one column, as JSON.
type Value struct {
	Name string
	JSON json.RawMessage
}

// values are the columns of a row. A value that has no JSON form is shown as
// the sentence that says so.
func values(cs *flow.Columns, row int) []Value {
	out := make([]Value, len(cs.Cols))
	for i := range cs.Cols {
		c := &cs.Cols[i]
		text, err := coljson.Append(nil, c, row)
		if err != nil {
			text = coljson.AppendString(nil, []byte("the value "+err.Error()))
		}
		out[i] = Value{Name: c.Name, JSON: text}
	}
	return out
}

// text is the value for a person: strings without their quotes.
func (v *Value) text() string {
	var s string
	if len(v.JSON) > 0 && v.JSON[0] == '"' && json.Unmarshal(v.JSON, &s) == nil {
		return s
	}
	return string(v.JSON)
}

// JSON writes one object per line: position, then row, record or dead_letter.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range r.Rows {
		row := &r.Rows[i]
		type line struct {
			Row
			Columns map[string]json.RawMessage `json:"row,omitempty"`
			Text    *string                    `json:"record,omitempty"`
		}
		l := line{Row: *row}
		if row.Dead == nil && row.Columns != nil {
			l.Columns = make(map[string]json.RawMessage, len(row.Columns))
			for _, v := range row.Columns {
				l.Columns[v.Name] = v.JSON
			}
		} else if row.Dead == nil {
			s := strings.ToValidUTF8(string(row.Record), "\ufffd")
			l.Text = &s
		}
		if err := enc.Encode(l); err != nil {
			return fmt.Errorf("writing the rows: %w", err)
		}
	}
	return nil
}

// Table writes the rows as a table for a person, one per route, and the dead
// letters below.
func (r *Report) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var dead []*Row
	tombstones, deletes := 0, false
	for i := range r.Routes {
		route := &r.Routes[i]
		if route.Route != "" {
			fmt.Fprintf(w, "%sroute %s into %s\n", "\n"[:min(i, 1)], route.Route, route.Table)
		}
		columns := route.Columns
		if columns == nil {
			columns = []string{"record"}
		}
		fmt.Fprintf(tw, "position\t%s\n", strings.Join(columns, "\t"))
		for k := range r.Rows {
			row := &r.Rows[k]
			switch {
			case row.Route != route.Route:
				continue
			case row.Dead != nil:
				dead = append(dead, row)
				continue
			case row.Tombstone:
				tombstones++
				deletes = deletes || route.Mode == "upsert"
			}
			fmt.Fprintf(tw, "%s\t%s\n", row.position(), strings.Join(row.cells(), "\t"))
		}
		if err := tw.Flush(); err != nil {
			return fmt.Errorf("writing the rows: %w", err)
		}
	}
	if len(dead) > 0 {
		fmt.Fprintf(tw, "\ndead letter\tstage\tclass\tcolumn\tmessage\n")
		for _, d := range dead {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", d.position(), d.Dead.Stage, d.Dead.Class, d.Dead.Column, cell(d.Dead.Message, 200))
		}
		if err := tw.Flush(); err != nil {
			return fmt.Errorf("writing the dead letters: %w", err)
		}
	}
	from := "the flow's start: it has no checkpoint yet"
	if r.FromCheckpoint {
		from = "the flow's checkpoint"
	}
	if deletes {
		fmt.Fprintf(w, "\nA tombstone deletes the row of its key.\n")
	}
	if r.Routes[0].Mode != "" && len(r.Rows) > 0 {
		fmt.Fprintf(w, "\nNot foreseen: what only the table can refuse: NOT NULL and other constraints, types, lengths and ranges of its columns, triggers.\n")
	}
	_, err := fmt.Fprintf(w, "\nrows: %d, tombstones: %d, dead letters: %d, of %d records, read from %s. Nothing was written.\n",
		len(r.Rows)-len(dead)-tombstones, tombstones, len(dead), len(r.Rows), from)
	return err
}

// cells are the row's, for a person.
func (r *Row) cells() []string {
	var cells []string
	for _, v := range r.Columns {
		cells = append(cells, cell(v.text(), 60))
	}
	if r.Columns == nil {
		cells = append(cells, cell(string(r.Record), 120))
	}
	if r.Tombstone {
		cells[len(cells)-1] += "  (tombstone)"
	}
	return cells
}

func (r *Row) position() string { return fmt.Sprintf("%s[%d]@%d", r.Topic, r.Partition, r.Offset) }

// cell makes a text harmless to a terminal, and bounds it.
func cell(s string, most int) string {
	clean := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s)
	if utf8.RuneCountInString(clean) > most {
		return string([]rune(clean)[:most-1]) + "…"
	}
	return clean
}
