package decode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// This is a second decoder, slow and plain, on top of encoding/json, to compare with.

// referenceValid is json.Valid with the documented differences.
func referenceValid(doc []byte) bool {
	return json.Valid(doc) && utf8.Valid(doc) && !loneSurrogate(doc) && depthOf(doc) <= maxDepth
}

var escapes = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.`)

// loneSurrogate looks at a document that json.Valid accepts.
func loneSurrogate(doc []byte) bool {
	for _, e := range escapes.FindAll(doc, -1) {
		if len(e) == len(`\ud800`) {
			return true
		}
	}
	return false
}

func depthOf(doc []byte) (deepest int) {
	depth, inString := 0, false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '{' || c == '['):
			depth++
			deepest = max(deepest, depth)
		case !inString && (c == '}' || c == ']'):
			depth--
		}
	}
	return deepest
}

// errClass is a refusal of the reference decoder.
type errClass string

func (e errClass) Error() string { return string(e) }

// reference returns the columns' values in a valid document: nil for null, int64,
// float64, string, or []any; or the class of the first column that does not fit.
func reference(doc []byte, columns []Column) ([]any, error) {
	values := make([]any, len(columns))
	null := error(nil)
	whole := slices.ContainsFunc(columns, func(c Column) bool { return c.Path == rootPath })
	if string(bytes.Trim(doc, " \t\r\n")) == "null" && !whole {
		return nil, errClass(classType)
	}
	for i, c := range columns {
		keys := []string{c.Name}
		if c.Path != "" {
			keys, _ = parsePath(c.Path)
		}
		raw, err := lookUp(doc, keys)
		if err == nil && raw != nil {
			values[i], err = referenceValue(c.Type, c.Format, raw)
		}
		if err != nil {
			return nil, err
		}
		if values[i] == nil && c.Required && null == nil {
			null = errClass(classNull) // found after all others
		}
	}
	return values, null
}

// lookUp returns nil where there is nothing, or null.
func lookUp(raw json.RawMessage, keys []string) (json.RawMessage, error) {
	raw = bytes.Trim(raw, " \t\r\n")
	if string(raw) == "null" {
		return nil, nil
	}
	if len(keys) == 0 {
		return raw, nil
	}
	switch raw[0] {
	case '{':
		var object map[string]json.RawMessage
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, err
		}
		if next, ok := object[keys[0]]; ok {
			return lookUp(next, keys[1:])
		}
		return nil, nil
	case '[':
		i, err := strconv.Atoi(keys[0])
		if err != nil {
			return nil, errClass(classType)
		}
		var array []json.RawMessage
		if err := json.Unmarshal(raw, &array); err != nil {
			return nil, err
		}
		if i < len(array) {
			return lookUp(array[i], keys[1:])
		}
		return nil, nil
	}
	return nil, errClass(classType)
}

func referenceValue(typ, format string, raw json.RawMessage) (any, error) {
	raw = bytes.Trim(raw, " \t\r\n")
	if elem, ok := strings.CutSuffix(typ, "[]"); ok {
		if raw[0] != '[' {
			return nil, errClass(classType)
		}
		var elems []json.RawMessage
		if err := json.Unmarshal(raw, &elems); err != nil {
			return nil, err
		}
		list := make([]any, len(elems))
		for i, e := range elems {
			if string(bytes.Trim(e, " \t\r\n")) == "null" {
				continue
			}
			v, err := referenceValue(elem, format, e)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	}
	if typ == "json" || typ == "jsonb" {
		if typ == "jsonb" && holdsNUL(raw) {
			return nil, errClass(classEncoding)
		}
		return string(raw), nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case bool:
		if typ != "bool" {
			return nil, errClass(classType)
		}
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case json.Number:
		return referenceNumber(typ, format, string(v))
	case string:
		return referenceString(typ, format, v)
	}
	return nil, errClass(classType)
}

// holdsNUL looks at all strings, those of keys that are overwritten too.
func holdsNUL(raw []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return false
		}
		if s, ok := t.(string); ok && strings.ContainsRune(s, 0) {
			return true
		}
	}
}

func referenceString(typ, format, s string) (any, error) {
	switch typ {
	case "text":
		if strings.ContainsRune(s, 0) {
			return nil, errClass(classEncoding)
		}
		return s, nil
	case "uuid":
		if regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`).MatchString(s) && !strings.HasSuffix(s, "\n") {
			return s, nil
		}
	case "bytea":
		if strings.ContainsAny(s, "\r\n") {
			break
		}
		if b, err := base64.StdEncoding.DecodeString(s); err == nil {
			return string(b), nil
		}
		if b, err := base64.RawStdEncoding.DecodeString(s); err == nil {
			return string(b), nil
		}
	case "timestamptz", "timestamp":
		if format == "" {
			return referenceTime(s, typ == "timestamp")
		}
	case "date":
		t, err := time.Parse("2006-01-02", s)
		if err == nil && t.Year() > 0 {
			return floorDiv(t.Unix(), 86400), nil
		}
		if regexp.MustCompile(`^\d{4}-\d\d-\d\d$`).MatchString(s) {
			return nil, errClass(classRange)
		}
	}
	if format != "" && json.Valid([]byte(s)) && s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && s == strings.Trim(s, " \t\r\n") {
		return referenceNumber(typ, format, s)
	}
	return nil, errClass(classType)
}

var rfc3339 = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?(?:([Zz])|([+-])(\d\d):(\d\d))?$`)

func referenceTime(s string, zoneless bool) (any, error) {
	m := rfc3339.FindStringSubmatch(s)
	if m == nil || strings.HasSuffix(s, "\n") || (m[4] == "" && m[5] == "" && !zoneless) {
		return nil, errClass(classType)
	}
	t, err := time.Parse("2006-01-02T15:04:05", m[1]+"T"+m[2])
	if err != nil {
		return nil, errClass(classRange)
	}
	if m[3] != "" {
		nanos, _ := strconv.Atoi((m[3] + "000000000")[1:10])
		t = t.Add(time.Duration(nanos))
	}
	if m[5] != "" {
		hours, _ := strconv.Atoi(m[6])
		minutes, _ := strconv.Atoi(m[7])
		if hours > 23 || minutes > 59 {
			return nil, errClass(classRange)
		}
		d := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
		if m[5] == "+" {
			d = -d
		}
		if year := m[1][:4]; year == "0000" {
			return nil, errClass(classRange)
		}
		t = t.Add(d)
	}
	if t.Year() < 1 || t.Year() > 9999 {
		return nil, errClass(classRange)
	}
	return t.UnixMicro(), nil
}

func referenceNumber(typ, format, s string) (any, error) {
	base, _, _ := strings.Cut(typ, "(")
	switch base {
	case "float4":
		f, err := strconv.ParseFloat(s, 32)
		if err != nil {
			return nil, errClass(classRange)
		}
		return f, nil
	case "float8":
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, errClass(classRange)
		}
		return f, nil
	case "int2", "int4", "int8", "numeric":
	case "timestamptz", "timestamp", "date":
		if !strings.HasPrefix(format, "unix") {
			return nil, errClass(classType)
		}
	default:
		return nil, errClass(classType)
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	zero := !strings.ContainsAny(mantissa, "123456789")
	e, err := strconv.Atoi("0" + strings.TrimLeft(exponent, "+-"))
	if err != nil {
		e = 1 << 40
	}
	if strings.HasPrefix(exponent, "-") {
		e = -e
	}
	if zero {
		s = mantissa
	} else if base == "numeric" {
		digits, frac, _ := strings.Cut(strings.TrimPrefix(mantissa, "-"), ".")
		point := len(digits) + e
		digits += frac
		point -= len(digits) - len(strings.TrimLeft(digits, "0"))
		digits = strings.Trim(digits, "0")
		if point > numericWhole || len(digits)-point > numericScale {
			return nil, errClass(classRange)
		}
	}
	// Exponents that are too much for big.Rat decide by themselves.
	if !zero && (e > 40000 || e < -40000) {
		switch {
		case base == "numeric" && strings.Contains(typ, "("):
			return nil, errClass(classRange) // e is positive, see above
		case base == "numeric":
			return s, nil
		case e > 0:
			return nil, errClass(classRange)
		case strings.HasPrefix(base, "int"):
			return nil, errClass(classType)
		}
		sign, _, _ := strings.Cut(mantissa, strings.TrimPrefix(mantissa, "-"))
		s = sign + "1e-100"
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, fmt.Errorf("reference: %q is no number", s)
	}
	switch base {
	case "numeric":
		if p, scale, ok := strings.Cut(strings.Trim(typ, "numeric()"), ","); ok {
			precision, _ := strconv.Atoi(p)
			places, _ := strconv.Atoi(scale)
			shift := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(places)), nil))
			limit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(precision)), nil))
			rounded, _ := new(big.Rat).SetString(new(big.Rat).Mul(r, shift).FloatString(0))
			if rounded.Abs(rounded).Cmp(limit) >= 0 {
				return nil, errClass(classRange)
			}
		}
		return s, nil
	case "int2", "int4", "int8":
		if !r.IsInt() {
			return nil, errClass(classType)
		}
		bits, _ := strconv.Atoi(base[3:])
		if !r.Num().IsInt64() || r.Num().Int64() > math.MaxInt64>>(64-8*bits) || r.Num().Int64() < math.MinInt64>>(64-8*bits) {
			return nil, errClass(classRange)
		}
		return r.Num().Int64(), nil
	}
	unit := map[string]int64{"unix": 1_000_000, "unix_ms": 1000, "unix_us": 1}[format]
	if unit != 0 {
		r.Mul(r, big.NewRat(unit, 1))
	} else {
		r.Mul(r, big.NewRat(1, 1000))
	}
	micros := new(big.Int).Div(r.Num(), r.Denom()) // Euclidean: the denominator is positive, so it is the floor
	if !micros.IsInt64() || micros.Int64() < minMicros || micros.Int64() > maxMicros {
		return nil, errClass(classRange)
	}
	if base == "date" {
		return floorDiv(micros.Int64(), microsPerDay), nil
	}
	return micros.Int64(), nil
}

// valueAt is what a column holds, in the form that reference gives.
func valueAt(c *flow.Column, row int) any {
	if c.Null(row) {
		return nil
	}
	switch c.Kind {
	case flow.KindFloat64:
		return c.Floats[row]
	case flow.KindBool, flow.KindInt64, flow.KindTimestamp, flow.KindDate:
		return c.Ints[row]
	case flow.KindDecimal, flow.KindString, flow.KindBytes, flow.KindJSON:
		return string(c.Bytes[row])
	case flow.KindList:
		list := make([]any, 0, 4)
		for i := c.Offsets[row]; i < c.Offsets[row+1]; i++ {
			list = append(list, valueAt(c.Elem, int(i)))
		}
		return list
	}
	return fmt.Sprintf("a column of kind %d", c.Kind)
}

// same compares values of valueAt and reference.
func same(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case float64:
		b, ok := b.(float64)
		return ok && math.Float64bits(a) == math.Float64bits(b)
	}
	return a == b
}

// compare checks every row of the batch against the reference.
func compare(t *testing.T, name string, columns []Column, b *flow.Batch) {
	t.Helper()
	rejected := map[int64]flow.DeadLetter{}
	for _, d := range b.DeadLetters() {
		rejected[d.Record.Offset] = d
	}
	for row := range b.Records {
		doc := b.Records[row].Value
		dead, isDead := rejected[int64(row)]
		if !referenceValid(doc) {
			if !isDead || (dead.Class != classMalformed && dead.Class != classEncoding) {
				t.Fatalf("%s: %q: encoding/json refuses it; class %q", name, doc, dead.Class)
			}
			continue
		}
		values, err := reference(doc, columns)
		var class errClass
		if err != nil && !errors.As(err, &class) {
			t.Fatalf("%s: %q: %v", name, doc, err)
		}
		if dead.Class != string(class) {
			t.Fatalf("%s: %q: class %q (%s), reference %q", name, doc, dead.Class, dead.Message, class)
		}
		if isDead {
			continue
		}
		for i := range columns {
			c := &b.Columns.Cols[i]
			got := valueAt(c, row)
			if strings.HasPrefix(c.Type, "numeric") {
				got, values[i] = canonical(got), canonical(values[i])
			}
			if !same(got, values[i]) {
				t.Fatalf("%s: column %s of %q: %#v, reference %#v", name, c.Name, doc, got, values[i])
			}
		}
	}
}

// canonical makes numerics comparable: the reference drops exponents of zero.
func canonical(v any) any {
	switch v := v.(type) {
	case string:
		if mantissa, _, _ := strings.Cut(strings.ToLower(v), "e"); !strings.ContainsAny(mantissa, "123456789") {
			return "0"
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = canonical(v[i])
		}
		return out
	}
	return v
}
