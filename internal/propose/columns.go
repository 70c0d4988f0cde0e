package propose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstockdev/penstock/connect"
)

// Sure is how sure a proposal is.
type Sure string

// From what was seen: all agree, and were many; all agree; some do not, or it is read off a name.
const (
	Certain Sure = "sure"
	Likely  Sure = "likely"
	Guessed Sure = "a guess"
)

// many is how many values make a proposal sure, few how many make one at all.
const (
	many = 100
	few  = 20
)

// Column is a proposed column.
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Path     string `json:"path,omitempty"`
	Format   string `json:"format,omitempty"`
	Required bool   `json:"required"`
	Sure     Sure   `json:"sure"`
	// Seen is in how many of the documents there is a value.
	Seen int `json:"seen"`
	// Why says what the type was told from.
	Why string `json:"why,omitempty"`
	// Example is a value, cut short.
	Example string `json:"example,omitempty"`

	norm string // of the path, to find the table's column
	unit string // in which whole numbers could be times
}

// columns are those of the documents that s has seen.
func (s *shape) columns() []Column {
	var out []Column
	taken := map[string]bool{}
	for _, c := range s.children {
		out = c.flatten(out, []string{c.name}, s.objects)
	}
	for i := range out {
		name := out[i].Name
		for n := 2; taken[out[i].Name]; n++ {
			out[i].Path = pathOf(&out[i])
			out[i].Name = fmt.Sprintf("%s_%d", name, n)
		}
		taken[out[i].Name] = true
	}
	return out
}

// flatten appends the columns at a path: of an object those of its fields, unless it is
// deep, has keys without number, or is something else at times.
func (s *shape) flatten(out []Column, path []string, documents int) []Column {
	if strings.ContainsFunc(s.name, unicode.IsControl) {
		return out // no path in a file can name it
	}
	if s.objects > 0 && s.objects == s.present() && len(path) < maxDepth && len(s.children) > 0 && len(s.children) <= 20 {
		for _, c := range s.children {
			out = c.flatten(out, append(slices.Clone(path), c.name), documents)
		}
		return out
	}
	c := Column{Name: columnName(path), Seen: s.present(), Example: s.example, norm: normal(strings.Join(path, "_"))}
	if p := pathText(path); p != c.Name {
		c.Path = p
	}
	c.Type, c.Format, c.Sure, c.Why = s.guess(path[len(path)-1])
	if s.whole == s.present() {
		c.unit = s.epoch()
	}
	if c.Sure == Certain && c.Seen < many {
		c.Sure = Likely
	}
	c.Required = s.present() == documents && documents >= many
	return append(out, c)
}

// guess is the type of the values, as they were seen.
func (s *shape) guess(name string) (typ, format string, sure Sure, why string) {
	n := s.present()
	switch {
	case n == 0:
		return "text", "", Guessed, "always null"
	case s.objects == n && len(s.children) > maxChildren:
		return "jsonb", "", Certain, "objects with very many keys"
	case s.objects == n:
		return "jsonb", "", Certain, "objects"
	case s.arrays == n:
		return s.arrayType()
	case s.bools == n:
		return "bool", "", Certain, ""
	case s.whole == n:
		if unit := s.epoch(); unit != "" && timeName.MatchString(name) {
			return "timestamptz", unit, Likely, "whole numbers that are times, by their size and name"
		} else if unit != "" {
			return "int8", "", Likely, fmt.Sprintf("by their size they could be times: {type: timestamptz, format: %s}", unit)
		}
		return "int8", "", Certain, ""
	case s.numbers == n && s.exact == n && s.fixed == n && s.places >= 2 && s.places <= 4 && n >= few:
		return "numeric", "", Likely, fmt.Sprintf("always %d digits after the point, like money", s.places)
	case s.numbers == n && s.exact == n:
		return "float8", "", Certain, ""
	case s.numbers == n:
		return "numeric", "", Certain, "numbers with more digits than a float8 holds"
	case s.texts == n:
		return s.textType()
	case s.numbers+s.numberTexts == n:
		return "numeric", "string", Guessed, fmt.Sprintf("numbers, and %d of %d in strings", s.numberTexts, n)
	}
	if typ, format, why := s.majority(); typ != "" {
		return typ, format, Guessed, why
	}
	return "jsonb", "", Guessed, fmt.Sprintf("of several kinds: %s", s.kinds())
}

// majority is the type of nearly all values, where there are enough to tell that the
// others are mistakes.
func (s *shape) majority() (typ, format, why string) {
	n := s.present()
	if n < few {
		return "", "", ""
	}
	most := shape{seen: n, example: s.example, smallest: s.smallest, largest: s.largest, places: s.places}
	switch allowed := n / 20; {
	case n-s.numbers <= allowed:
		most.seen, most.numbers, most.whole, most.exact, most.fixed = s.numbers, s.numbers, s.whole, s.exact, s.fixed
	case n-s.texts <= allowed:
		most.seen, most.texts, most.times, most.zones, most.dates, most.uuids = s.texts, s.texts, s.times, s.zones, s.dates, s.uuids
	case n-s.bools <= allowed:
		most.seen, most.bools = s.bools, s.bools
	default:
		return "", "", ""
	}
	typ, format, _, _ = most.guess("")
	return typ, format, fmt.Sprintf("%d of %d are of another kind (%s), and would become dead letters", n-most.seen, n, s.kinds())
}

func (s *shape) textType() (typ, format string, sure Sure, why string) {
	switch n := s.texts; {
	case s.zeros > 0:
		return "bytea", "", Guessed, "texts with U+0000, which text cannot hold"
	case s.uuids == n:
		return "uuid", "", Certain, ""
	case s.times == n && s.zones == n:
		return "timestamptz", "", Certain, ""
	case s.times == n && s.zones == 0 && strings.Contains(s.example, "T"):
		return "timestamp", "2006-01-02T15:04:05", Likely, "times without a zone"
	case s.times == n && s.zones == 0:
		return "timestamp", "2006-01-02 15:04:05", Likely, "times without a zone"
	case s.dates == n:
		return "date", "", Certain, ""
	case s.numberTexts == n:
		return "text", "", Likely, "numbers in strings; for a number: {type: numeric, format: string}"
	}
	return "text", "", Certain, ""
}

// arrayType is the type of arrays of one scalar type; others are jsonb.
func (s *shape) arrayType() (typ, format string, sure Sure, why string) {
	e := s.elems
	if e.present() == 0 {
		return "jsonb", "", Guessed, "always empty arrays"
	}
	if e.objects+e.arrays > 0 {
		return "jsonb", "", Certain, "arrays of objects or arrays"
	}
	typ, format, sure, why = e.guess("")
	if typ == "jsonb" || format != "" {
		return "jsonb", "", Guessed, "arrays of several kinds"
	}
	return typ + "[]", "", sure, why
}

var timeName = regexp.MustCompile(`(?i)(^|_)(ts|time|timestamp|date|created|updated)(_|$)|_at$|[a-z]At$|Time(stamp)?$|_(ms|us|ns)$`)

// epoch is the unit since 1970 in which all the whole numbers lie between 2001 and 2096.
func (s *shape) epoch() string {
	const from, to = 1_000_000_000, 4_000_000_000
	scale := int64(1)
	for _, unit := range []string{"unix", "unix_ms", "unix_us", "unix_ns"} {
		if s.smallest >= from*scale && s.largest/scale <= to {
			return unit
		}
		scale *= 1000
	}
	return ""
}

func (s *shape) kinds() string {
	var out []string
	for _, k := range []struct {
		n    int
		name string
	}{{s.texts, "texts"}, {s.numbers, "numbers"}, {s.bools, "booleans"}, {s.objects, "objects"}, {s.arrays, "arrays"}} {
		if k.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", k.n, k.name))
		}
	}
	return strings.Join(out, ", ")
}

// columnName is the path in snake case.
func columnName(path []string) string {
	var b strings.Builder
	last := '_'
	for _, r := range strings.Join(path, "_") {
		switch {
		case unicode.IsUpper(r) && (unicode.IsLower(last) || unicode.IsDigit(last)):
			b.WriteRune('_')
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			r = '_'
		}
		if r != '_' || last != '_' {
			b.WriteRune(unicode.ToLower(r))
		}
		last = r
	}
	name := strings.Trim(b.String(), "_")
	if name == "" || unicode.IsDigit(rune(name[0])) {
		name = "c_" + name
	}
	for len(name) > 60 {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

var plainKey = regexp.MustCompile(`^[^."$\s\\\[\]]+$`)

// pathText is the path as decode's columns have it.
func pathText(path []string) string {
	out := make([]string, len(path))
	for i, p := range path {
		out[i] = p
		if !plainKey.MatchString(p) {
			out[i] = `"` + strings.ReplaceAll(strings.ReplaceAll(p, `\`, `\\`), `"`, `\"`) + `"`
		}
	}
	return strings.Join(out, ".")
}

func normal(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// Fit is how documents and a table that exists go together.
type Fit struct {
	// Columns are the table's that the documents fill.
	Columns []Column
	// Unfilled are the table's columns that nothing in the documents is called like; Must
	// those of them that have to be filled.
	Unfilled, Must []string
	// Unused are paths of the documents that have no column.
	Unused []string
}

// fit gives the table's columns the values that are called like them.
func fit(cs []Column, t *connect.Table) Fit {
	var f Fit
	used := make([]bool, len(cs))
	for _, tc := range t.Columns {
		i := find(cs, used, normal(tc.Name), tc.Field.Type)
		switch {
		case i >= 0 && tc.Supported:
			c := cs[i]
			used[i] = true
			c.Path = pathOf(&c)
			if c.Path == tc.Name {
				c.Path = ""
			}
			c.Format = formatFor(&c, tc.Field.Type)
			c.Why = ""
			switch {
			case c.norm != normal(tc.Name):
				c.Sure, c.Why = Guessed, "by the end of its path alone"
			case c.Type != tc.Field.Type:
				c.Why = "the values look like " + c.Type
			}
			c.Name, c.Type, c.Required = tc.Name, tc.Field.Type, tc.NotNull && !tc.Filled
			f.Columns = append(f.Columns, c)
		case tc.NotNull && !tc.Filled:
			f.Must = append(f.Must, tc.Name)
		default:
			f.Unfilled = append(f.Unfilled, tc.Name)
		}
	}
	for i := range cs {
		if !used[i] {
			f.Unused = append(f.Unused, pathOf(&cs[i]))
		}
	}
	return f
}

// find returns the column whose path is called so, or else the end of it, where the values are
// of that type or become it by a format.
func find(cs []Column, used []bool, name, typ string) int {
	for i := range cs {
		if !used[i] && cs[i].norm == name {
			return i
		}
	}
	for i := range cs {
		fits := cs[i].Type == typ || typ == "text" && cs[i].Type != "jsonb" || isNumber(cs[i].Type) && isNumber(typ) || formatFor(&cs[i], typ) != ""
		if _, last, nested := cutLast(pathOf(&cs[i])); nested && fits && !used[i] && normal(last) == name {
			return i
		}
	}
	return -1
}

func cutLast(path string) (before, last string, found bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

func pathOf(c *Column) string {
	if c.Path != "" {
		return c.Path
	}
	return c.Name
}

// formatFor is the format in which the values fit the table's type.
func formatFor(c *Column, typ string) string {
	isTime := strings.HasPrefix(typ, "timestamp") || typ == "date"
	switch {
	case isTime && strings.HasPrefix(c.Type, "timestamp"):
		return c.Format
	case isTime:
		return c.unit
	case isNumber(typ) && (c.Format == "string" || c.Type == "text" && strings.HasPrefix(c.Why, "numbers in strings")):
		return "string"
	}
	return ""
}

func isNumber(typ string) bool {
	return slices.Contains([]string{"int2", "int4", "int8", "float4", "float8"}, typ) || strings.HasPrefix(typ, "numeric") && !strings.HasSuffix(typ, "[]")
}
