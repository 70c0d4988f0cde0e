package decode

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstockdev/penstock/flow"
)

// plan is what every decoder has in common: the columns, checked and compiled.
type plan struct {
	columns []column
	fields  []flow.Field
	// paths are the keys that lead to each column's value, where it is read from
	// a document; nil for all others.
	paths [][]string
	// inValue and inKey are the columns that are read from the documents in the
	// record's value and key; parts are the columns read from anything else.
	inValue, inKey, parts []int
	// lists are the columns that hold lists.
	lists []int
}

// compile checks the columns and makes the plan. The error names one fault of
// every column that has one.
func compile(cols []Column) (*plan, error) {
	if len(cols) == 0 {
		return nil, fieldErrorf(&Column{}, "", "no columns; name at least one, like device_id: text")
	}
	p := &plan{columns: make([]column, len(cols)), paths: make([][]string, len(cols))}
	var errs []error
	for i := range cols {
		var err error
		switch name := cols[i].Name; {
		case name == "":
			err = fieldErrorf(&cols[i], "name", "column %d has no name", i+1)
		case slices.ContainsFunc(cols[:i], func(c Column) bool { return c.Name == name }):
			err = fieldErrorf(&cols[i], "name", "there are two columns of this name")
		default:
			err = p.compile(i, &cols[i])
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// compile makes column i.
func (p *plan) compile(i int, src *Column) error {
	c := &p.columns[i]
	document, err := c.compile(src)
	if err != nil {
		return err
	}
	if document {
		if p.paths[i], err = c.keys(src); err != nil {
			return fieldErrorf(src, "path", "%w", err)
		}
	}
	switch {
	case !document:
		p.parts = append(p.parts, i)
	case c.from == fromKey:
		p.inKey = append(p.inKey, i)
	default:
		p.inValue = append(p.inValue, i)
	}
	if c.list {
		p.lists = append(p.lists, i)
	}
	p.fields = append(p.fields, c.Field)
	return nil
}

// compile fills c in from its description. document says that the column is
// found by a path in a document.
func (c *column) compile(src *Column) (document bool, err error) {
	c.Name, c.Required = src.Name, src.Required
	if c.from, c.header, err = parseFrom(src.From); err != nil {
		return false, fieldErrorf(src, "from", "%w", err)
	}
	if src.Type == "" {
		return false, fieldErrorf(src, "type", "the type is missing; one of %s", typeNames)
	}
	if err = c.setType(src.Type); err != nil {
		return false, fieldErrorf(src, "type", "%w", err)
	}
	if err = c.setFormat(src.Format); err != nil {
		return false, fieldErrorf(src, "format", "%w", err)
	}
	structured := c.list || c.op == opJSON
	switch c.from {
	case fromValue:
		document = true
	case fromKey:
		document = src.Path != "" || structured
	case fromRaw:
		document = c.op == opJSON && !c.list
	case fromHeader, fromTopic, fromPartition, fromOffset, fromTimestamp:
	}
	if src.Path != "" && c.from != fromValue && c.from != fromKey {
		return false, fieldErrorf(src, "path", "only values and keys are documents with paths; this column is read from %s", src.From)
	}
	if err = c.checkSource(src); err != nil {
		return false, err
	}
	if src.Default != "" {
		if err = c.setDefault(src.Default); err != nil {
			return false, fieldErrorf(src, "default", "%w", err)
		}
	}
	return document, nil
}

// checkSource refuses types that a part of the record cannot be.
func (c *column) checkSource(src *Column) error {
	ok, allowed := true, ""
	switch c.from {
	case fromValue, fromKey:
	case fromHeader:
		ok, allowed = !c.list, "any type but arrays"
	case fromRaw:
		ok = !c.list && (c.op == opText || c.op == opBytes || c.op == opJSON)
		allowed = "text, bytea, json and jsonb"
	case fromTopic:
		ok, allowed = !c.list && c.op == opText, "text"
	case fromPartition, fromOffset:
		ok, allowed = !c.list && c.op == opInt, "int2, int4 and int8"
	case fromTimestamp:
		ok = !c.list && (c.op == opTime || c.op == opDate || c.op == opInt)
		allowed = "timestamptz, timestamp, date, and int8 (with format unix, unix_ms, unix_us or unix_ns)"
	}
	if !ok {
		return fieldErrorf(src, "type", "%s cannot be read from %s; it can be %s", c.Type, src.From, allowed)
	}
	counted := c.from == fromPartition || c.from == fromOffset || c.from == fromRaw
	if src.Format != "" && (counted || c.from == fromTimestamp && c.op != opInt) {
		return fieldErrorf(src, "format", "what is read from %s has no formats", src.From)
	}
	if c.from == fromTimestamp && c.op == opInt {
		switch c.layout {
		case layoutDefault:
			c.layout = layoutUnixMs
		case layoutUnix, layoutUnixMs, layoutUnixUs, layoutUnixNs:
		default:
			return fieldErrorf(src, "format", "%q is not a format of %s; one of unix, unix_ms, unix_us, unix_ns", src.Format, c.Type)
		}
	}
	if src.Default != "" && (counted || c.from == fromTopic || c.from == fromTimestamp) {
		return fieldErrorf(src, "default", "a default would never be used: %s is there, or the record is a tombstone", src.From)
	}
	return nil
}

// keys are the keys of the path to the column's value.
func (c *column) keys(src *Column) ([]string, error) {
	path := src.Path
	switch {
	case c.from == fromRaw, path == "" && c.from == fromKey:
		return nil, nil
	case path == "":
		c.path = src.Name
		return []string{src.Name}, nil
	}
	keys, err := parsePath(path)
	if len(keys) > maxDepth {
		return nil, fmt.Errorf("the path has %d keys; documents are at most %d deep", len(keys), maxDepth)
	}
	if len(keys) > 0 {
		c.path = path
	}
	return keys, err
}

// setDefault converts the default once, as if it had been read from a document.
func (c *column) setDefault(text string) error {
	cols := flow.NewColumns([]flow.Field{c.Field})
	cols.Reset(1)
	b := []byte(text)
	quotedText := c.op == opText && len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"'
	if c.list || c.op == opJSON || quotedText {
		d := rows{cols: cols}
		if err := d.whole(c, b); err != nil {
			return err
		}
	} else {
		f := checkText(b)
		if f == fine {
			f = c.setText(&cols.Cols[0], 0, b, &cols.Scratch)
		}
		if f != fine {
			return fmt.Errorf("%s is no default for the type: want %s", excerpt(b, maxExcerpt), c.want())
		}
	}
	c.fallback = &cols.Cols[0]
	return nil
}
