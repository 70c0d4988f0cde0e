package propose

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// shape is what was seen at one path of the documents.
type shape struct {
	name     string
	children []*shape // of objects, in the order in which they were first seen
	elems    *shape   // of arrays
	omitted  bool     // there are more children

	seen, nulls                             int
	bools, numbers, texts, objects, arrays  int
	whole, exact                            int // of numbers: integers of 64 bits; numbers that a float64 holds exactly as written
	smallest, largest                       int64
	places, fixed                           int // of the first number; numbers with as many digits after the point
	times, dates, uuids, numberTexts, zeros int // of texts; zeros: with U+0000, which PostgreSQL's text has not
	zones                                   int // of times: with a zone
	example                                 string
}

const (
	maxChildren = 200 // more keys than this are data, not names
	maxDepth    = 4   // objects below are one json column
	maxExample  = 40
)

func (s *shape) child(name string) *shape {
	for _, c := range s.children {
		if c.name == name {
			return c
		}
	}
	if len(s.children) > maxChildren {
		s.omitted = true
		return nil
	}
	c := &shape{name: name}
	s.children = append(s.children, c)
	return c
}

// document reads one value of JSON, and returns false for anything else. Children are in
// the order of the document.
func (s *shape) document(text []byte) bool {
	if !json.Valid(text) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	s.value(d)
	return true
}

// value takes the next value of a valid document. A nil shape takes one that is not looked at.
func (s *shape) value(d *json.Decoder) {
	t, err := d.Token()
	if err != nil {
		return // of a number that is out of all range: it is valid JSON
	}
	if s == nil {
		s = &shape{}
	}
	s.seen++
	switch t := t.(type) {
	case nil:
		s.nulls++
	case bool:
		s.bools++
		s.show(strconv.FormatBool(t))
	case json.Number:
		s.number(t.String())
	case string:
		s.text(t)
	case json.Delim:
		if t == '[' {
			s.array(d)
		} else {
			s.object(d)
		}
	}
}

func (s *shape) array(d *json.Decoder) {
	s.arrays++
	if s.elems == nil {
		s.elems = &shape{}
	}
	for d.More() {
		s.elems.value(d)
	}
	_, _ = d.Token() // the bracket: the document is valid
}

func (s *shape) object(d *json.Decoder) {
	s.objects++
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return
		}
		text, _ := name.(string) // what else could it be
		s.child(text).value(d)
	}
	_, _ = d.Token() // the brace: the document is valid
}

func (s *shape) show(text string) {
	if s.example != "" {
		return
	}
	if r := []rune(text); len(r) > maxExample {
		text = string(r[:maxExample-1]) + "…"
	}
	s.example = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '·'
		}
		return r
	}, text)
}

func (s *shape) number(text string) {
	s.numbers++
	s.show(text)
	_, after, _ := strings.Cut(text, ".")
	if s.numbers == 1 {
		s.places = len(after)
	}
	if len(after) == s.places && !strings.ContainsAny(text, "eE") {
		s.fixed++
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && holds(f, text) {
		s.exact++
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return
	}
	if s.whole == 0 || n < s.smallest {
		s.smallest = n
	}
	if s.whole == 0 || n > s.largest {
		s.largest = n
	}
	s.whole++
}

// holds says whether f keeps all digits of the number that it was read from: what programs write
// of a float64 has up to 17.
func holds(f float64, text string) bool {
	return !math.IsInf(f, 0) && (len(digits(text)) <= 15 || digits(strconv.FormatFloat(f, 'e', -1, 64)) == digits(text))
}

// digits are the significant digits of a number as it is written.
func digits(text string) string {
	mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
	return strings.Trim(strings.ReplaceAll(strings.TrimPrefix(mantissa, "-"), ".", ""), "0")
}

var uuidText = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

func (s *shape) text(v string) {
	s.texts++
	s.show(v)
	if strings.ContainsRune(v, 0) {
		s.zeros++
	}
	switch {
	case uuidText.MatchString(v):
		s.uuids++
	case isTime(v, time.RFC3339):
		s.times++
		s.zones++
	case isTime(v, "2006-01-02T15:04:05"), isTime(v, "2006-01-02 15:04:05"):
		s.times++
	case isTime(v, time.DateOnly):
		s.dates++
	case numberText(v):
		s.numberTexts++
	}
}

func isTime(v, layout string) bool {
	_, err := time.Parse(layout, v)
	return err == nil
}

func numberText(v string) bool {
	_, err := strconv.ParseFloat(v, 64)
	return err == nil && strings.Trim(v, "0123456789.-") == ""
}

// present counts the values that are not null.
func (s *shape) present() int { return s.seen - s.nulls }
