package decode

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// op is what is done with a value: the declared type as the decoders see it.
type op uint8

const (
	opText op = iota
	opInt
	opFloat
	opDecimal
	opBool
	opTime
	opDate
	opUUID
	opBytes
	opJSON
)

// layout is how a value is written; its meaning depends on the op.
type layout uint8

const (
	layoutDefault   layout = iota
	layoutString           // numbers and bool: in a string, too
	layoutRFC3339          // times
	layoutUnix             // times: a number of seconds, ...
	layoutUnixMs           //
	layoutUnixUs           //
	layoutUnixNs           //
	layoutGo               // times: column.goLayout
	layoutBase64           // bytea
	layoutBase64URL        //
	layoutHex              //
)

// column is a column as it is compiled. What a list's elements are is in op
// and layout, and list says that there are many.
type column struct {
	flow.Field
	op       op
	list     bool
	layout   layout
	goLayout string

	min, max  int64 // opInt: the type's range
	float4    bool  // opFloat
	binary    bool  // opJSON: jsonb, which cannot hold U+0000
	zoneless  bool  // opTime: the zone may be missing
	precision int   // opDecimal: 0 if unconstrained
	scale     int

	from   source
	header string
	// path is for messages; "" for the whole document.
	path string
	// fallback holds the default in its row 0; nil if there is none.
	fallback *flow.Column
}

var ops = map[string]struct {
	op   op
	kind flow.Kind
}{
	"text":        {opText, flow.KindString},
	"int2":        {opInt, flow.KindInt64},
	"int4":        {opInt, flow.KindInt64},
	"int8":        {opInt, flow.KindInt64},
	"float4":      {opFloat, flow.KindFloat64},
	"float8":      {opFloat, flow.KindFloat64},
	"numeric":     {opDecimal, flow.KindDecimal},
	"bool":        {opBool, flow.KindBool},
	"timestamptz": {opTime, flow.KindTimestamp},
	"timestamp":   {opTime, flow.KindTimestamp},
	"date":        {opDate, flow.KindDate},
	"uuid":        {opUUID, flow.KindString},
	"bytea":       {opBytes, flow.KindBytes},
	"json":        {opJSON, flow.KindJSON},
	"jsonb":       {opJSON, flow.KindJSON},
}

const typeNames = "text, int2, int4, int8, float4, float8, numeric, numeric(p,s), bool, timestamptz, timestamp, " +
	"date, uuid, bytea, json, jsonb, or one of them followed by []"

// synonyms are names that people write; the answer names ours.
var synonyms = map[string]string{
	"string": "text", "varchar": "text", "char": "text", "character varying": "text",
	"smallint": "int2", "int": "int4", "integer": "int4", "int32": "int4", "bigint": "int8", "int64": "int8", "long": "int8",
	"real": "float4", "float": "float8", "double": "float8", "double precision": "float8",
	"decimal": "numeric", "boolean": "bool", "datetime": "timestamptz", "timestamp with time zone": "timestamptz",
	"timestamp without time zone": "timestamp", "bytes": "bytea", "blob": "bytea", "object": "jsonb",
}

// setType fills in what the declared type means.
func (c *column) setType(declared string) error {
	name := strings.TrimSpace(declared)
	base, isList := strings.CutSuffix(name, "[]")
	base = strings.TrimSpace(base)
	canonical := base
	if args, ok := strings.CutPrefix(base, "numeric("); ok {
		base = "numeric"
		if err := c.setPrecision(args); err != nil {
			return fmt.Errorf("%q: %w", declared, err)
		}
		canonical = fmt.Sprintf("numeric(%d,%d)", c.precision, c.scale)
	}
	t, ok := ops[base]
	if !ok {
		if ours := synonyms[strings.ToLower(base)]; ours != "" {
			return fmt.Errorf("%q is not a type here; write %s", declared, ours)
		}
		return fmt.Errorf("%q is not a type; one of %s", declared, typeNames)
	}
	c.Type, c.Kind, c.op = canonical, t.kind, t.op
	if isList {
		c.Type, c.Kind, c.Elem, c.list = canonical+"[]", flow.KindList, t.kind, true
	}
	switch base {
	case "int2":
		c.min, c.max = math.MinInt16, math.MaxInt16
	case "int4":
		c.min, c.max = math.MinInt32, math.MaxInt32
	case "int8":
		c.min, c.max = math.MinInt64, math.MaxInt64
	case "float4":
		c.float4 = true
	case "timestamp":
		c.zoneless = true
	case "jsonb":
		c.binary = true
	}
	return nil
}

// setPrecision reads "p)" or "p,s)".
func (c *column) setPrecision(args string) error {
	args, ok := strings.CutSuffix(args, ")")
	p, s, both := strings.Cut(args, ",")
	var errP, errS error
	c.precision, errP = strconv.Atoi(strings.TrimSpace(p))
	if both {
		c.scale, errS = strconv.Atoi(strings.TrimSpace(s))
	}
	if !ok || errP != nil || errS != nil || c.precision < 1 || c.precision > 1000 || c.scale < -1000 || c.scale > 1000 {
		return fmt.Errorf("write numeric(p,s) with a precision p of 1 to 1000 and a scale s of -1000 to 1000")
	}
	return nil
}

// setFormat fills in what the format means for the type, which is set.
func (c *column) setFormat(format string) error {
	switch c.op {
	case opTime, opDate:
		return c.setTimeFormat(format)
	case opInt, opFloat, opDecimal, opBool:
		if c.from == fromTimestamp && c.op == opInt {
			return c.setTimeFormat(format)
		}
		switch format {
		case "":
			return nil
		case "string":
			c.layout = layoutString
			return nil
		}
		return fmt.Errorf("%q is not a format of %s; only string, for values in a string", format, c.Type)
	case opBytes:
		switch format {
		case "":
			c.layout = layoutDefault
		case "base64":
			c.layout = layoutBase64
		case "base64url":
			c.layout = layoutBase64URL
		case "hex":
			c.layout = layoutHex
		default:
			return fmt.Errorf("%q is not a format of %s; one of base64, base64url, hex", format, c.Type)
		}
		return nil
	case opText, opUUID, opJSON:
	}
	if format != "" {
		return fmt.Errorf("%s has no formats", c.Type)
	}
	return nil
}

func (c *column) setTimeFormat(format string) error {
	switch format {
	case "":
		c.layout = layoutDefault
	case "rfc3339":
		c.layout = layoutRFC3339
	case "unix":
		c.layout = layoutUnix
	case "unix_ms":
		c.layout = layoutUnixMs
	case "unix_us":
		c.layout = layoutUnixUs
	case "unix_ns":
		c.layout = layoutUnixNs
	default:
		// Every useful layout has a year; without this check a misspelt name
		// would be a layout that no value matches.
		if !strings.Contains(format, "06") {
			return fmt.Errorf("%q is not a time format; one of rfc3339, unix, unix_ms, unix_us, unix_ns, "+
				"or how Monday, January 2 2006, 15:04:05 would be written (2006-01-02 15:04:05)", format)
		}
		c.layout, c.goLayout = layoutGo, format
	}
	return nil
}

// want says what the column accepts, for messages.
func (c *column) want() string {
	s := strings.TrimSuffix(c.Type, "[]")
	switch c.layout {
	case layoutDefault, layoutRFC3339:
		switch {
		case c.op == opTime && c.zoneless:
			s += " written like 2006-01-02T15:04:05"
		case c.op == opTime, c.op == opDate && c.layout == layoutRFC3339:
			s += " written like 2006-01-02T15:04:05Z"
		case c.op == opDate:
			s += " written like 2006-01-02"
		case c.op == opBytes:
			s += " in base64"
		}
	case layoutUnix:
		s += " in seconds since 1970"
	case layoutUnixMs:
		s += " in milliseconds since 1970"
	case layoutUnixUs:
		s += " in microseconds since 1970"
	case layoutUnixNs:
		s += " in nanoseconds since 1970"
	case layoutGo:
		s += " written like " + c.goLayout
	case layoutBase64:
		s += " in base64"
	case layoutBase64URL:
		s += " in base64url"
	case layoutHex:
		s += " in hexadecimal"
	case layoutString:
	}
	return s
}
