package decode

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// The classes of flow.RecordError that decoding gives.
const (
	classMalformed = "malformed"
	classEncoding  = "encoding"
	classType      = "type"
	classRange     = "range"
	classNull      = "null"
)

// maxExcerpt is how much of a record a message shows, in bytes.
const maxExcerpt = 48

// refusal is why a whole document is refused.
type refusal struct {
	class string
	pos   int
	text  string
}

// in makes the error for the document that is the record's value or key.
func (r *refusal) in(part string) error {
	return &flow.RecordError{Class: r.class, Err: fmt.Errorf("the %s at byte %d: %s", part, r.pos, r.text)}
}

//go:noinline
func (j *parser) refuse(class string, pos int, format string, args ...any) int {
	j.err = &refusal{class: class, pos: pos, text: fmt.Sprintf(format, args...)}
	return refused
}

// unexpected refuses the document for what is at data[p].
//
//go:noinline
func (j *parser) unexpected(data []byte, p int, want string) int {
	switch {
	case len(data) == 0:
		return j.refuse(classMalformed, 0, "it is empty, not JSON")
	case p >= len(data):
		return j.refuse(classMalformed, len(data), "not JSON: the document ends where %s should be", want)
	case p == 0 && len(data) >= 3 && string(data[:3]) == "\xef\xbb\xbf":
		return j.refuse(classMalformed, 0, "not JSON: it begins with a byte order mark")
	case data[p] >= utf8.RuneSelf:
		if r, n := utf8.DecodeRune(data[p:]); r == utf8.RuneError && n == 1 {
			return j.refuse(classMalformed, p, "not JSON: found byte %#02x, want %s", data[p], want)
		}
	}
	return j.refuse(classMalformed, p, "not JSON: found %s, want %s", excerpt(data[p:], 12), want)
}

//go:noinline
func (j *parser) tooDeep(p int) int {
	return j.refuse(classMalformed, p-1, "nested deeper than %d levels", maxDepth)
}

// printable is c for a message.
func printable(c byte) rune {
	if c < 0x20 || c >= 0x7f {
		return '?'
	}
	return rune(c)
}

// excerpt is the beginning of b, printable, and bounded by limit bytes of b.
func excerpt(b []byte, limit int) string {
	if len(b) <= limit {
		return quoted(b)
	}
	for limit > 0 && !utf8.RuneStart(b[limit]) {
		limit--
	}
	return quoted(b[:limit]) + "…"
}

// quoted shows JSON as it is, and whatever cannot be printed escaped.
func quoted(b []byte) string {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if (r == utf8.RuneError && n == 1) || !strconv.IsPrint(r) {
			return strconv.Quote(string(b))
		}
		i += n
	}
	return string(b)
}

// kindOf names the kind of the JSON value that b begins with.
func kindOf(b []byte) string {
	switch b[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// part names the part of the record that the column is read from.
func (c *column) part() string {
	switch c.from {
	case fromKey:
		return "key"
	case fromHeader:
		return "header " + c.header
	case fromTopic:
		return "topic"
	case fromPartition:
		return "partition"
	case fromOffset:
		return "offset"
	case fromTimestamp:
		return "timestamp"
	case fromValue, fromRaw:
	}
	return "value"
}

// where says where a value was looked for.
func (c *column) where() string {
	if c.path == "" {
		return "in the " + c.part()
	}
	return fmt.Sprintf("at path %s of the %s", c.path, c.part())
}

// faultError says that found, at byte pos of the part that is read (-1: of
// no interest), does not fit the column.
func (c *column) faultError(f fault, found []byte, pos int) *flow.RecordError {
	at := c.where()
	if pos >= 0 {
		at += fmt.Sprintf(", byte %d", pos)
	}
	e := &flow.RecordError{Class: classType, Column: c.Name}
	switch f {
	case outOfRange:
		e.Class = classRange
		e.Err = fmt.Errorf("found %s %s: out of range for %s", excerpt(found, maxExcerpt), at, c.rangeOf())
	case nulCharacter:
		e.Class = classEncoding
		e.Err = fmt.Errorf("found %s %s: %s cannot hold the character U+0000", excerpt(found, maxExcerpt), at, c.Type)
	case invalidUTF8:
		e.Class = classEncoding
		e.Err = fmt.Errorf("found %s %s: not valid UTF-8", excerpt(found, maxExcerpt), at)
	case fine, wrongType:
		e.Err = fmt.Errorf("found %s %s, want %s", excerpt(found, maxExcerpt), at, c.want())
	}
	return e
}

// rangeOf says what the type can hold.
func (c *column) rangeOf() string {
	if c.op == opInt && c.min != c.max {
		return fmt.Sprintf("%s (%d to %d)", c.Type, c.min, c.max)
	}
	return c.want()
}

// absentError says that a required column has no value.
func (c *column) absentError(null bool) *flow.RecordError {
	what := "nothing"
	if null {
		what = "null"
	}
	return &flow.RecordError{
		Class: classNull, Column: c.Name,
		Err: fmt.Errorf("found %s %s, and the column is required", what, c.where()),
	}
}

func decimalText(v int64) []byte { return strconv.AppendInt(nil, v, 10) }
