package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// The types of PostgreSQL that have an encoder.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidText        = 25
	oidJSON        = 114
	oidFloat4      = 700
	oidFloat8      = 701
	oidBpchar      = 1042
	oidVarchar     = 1043
	oidDate        = 1082
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidNumeric     = 1700
	oidUUID        = 2950
	oidJSONB       = 3802
)

// What PostgreSQL's dates and timestamps count from, and their bounds.
const (
	epochDays    = 10957
	epochMicros  = epochDays * 86400 * 1e6
	minTimestamp = -211813488000000000 // 4714-11-24 BC, from 2000-01-01
	minDate      = -2451545
	endDate      = 2147483494 - 2451545
)

// column is the compiled encoder of one column. Its slices are bound to a
// batch's arrays before the rows are encoded.
type column struct {
	name   string
	field  int // index into Columns.Cols
	encode func(c *column, dst []byte, i int) ([]byte, error)

	notNull bool
	// key makes values that the index takes as equal have the same bytes.
	key bool
	// fixed is the encoded size at most, the length word and the value's own bytes left out.
	fixed  int
	typmod int32
	// limit is the length of varchar(n) and char(n), in characters; 0 for none.
	limit int
	// padded is a type to which trailing spaces mean nothing.
	padded bool
	// elem encodes the elements of an array, of type elemOID.
	elem    *column
	elemOID uint32
	digits  []byte // scratch of numeric

	nulls   []uint64
	ints    []int64
	floats  []float64
	bytes   [][]byte
	offsets []int32
}

// newColumn compiles the encoder of a field into a table's column. The error
// says only that there is none.
func newColumn(index int, f *flow.Field, t *tableColumn) (column, error) {
	c := column{name: f.Name, field: index, notNull: t.notNull}
	oid, isText := t.oid, t.enum || t.text
	if f.Kind == flow.KindList {
		if t.elem == 0 {
			return c, errNoEncoder
		}
		elem := &column{name: f.Name}
		if !elem.compile(f.Elem, t.elem, t.typmod, t.elemIsText) {
			return c, errNoEncoder
		}
		c.elem, c.elemOID, c.encode, c.fixed = elem, t.elem, appendArray, 20
		return c, nil
	}
	if t.elem != 0 || !c.compile(f.Kind, oid, t.typmod, isText) {
		return c, errNoEncoder
	}
	return c, nil
}

var errNoEncoder = errors.New("no encoder")

// compile chooses the encoder for values of the kind into the type.
func (c *column) compile(kind flow.Kind, oid uint32, typmod int32, isText bool) bool {
	c.typmod = typmod
	switch {
	case kind == flow.KindBool && oid == oidBool:
		c.encode, c.fixed = appendBool, 1
	case kind == flow.KindInt64 && oid == oidInt2:
		c.encode, c.fixed = appendInt2, 2
	case kind == flow.KindInt64 && oid == oidInt4:
		c.encode, c.fixed = appendInt4, 4
	case kind == flow.KindInt64 && oid == oidInt8:
		c.encode, c.fixed = appendInt8, 8
	case kind == flow.KindInt64 && oid == oidNumeric:
		c.encode, c.fixed = appendIntNumeric, 24
	case kind == flow.KindFloat64 && oid == oidFloat4:
		c.encode, c.fixed = appendFloat4, 4
	case kind == flow.KindFloat64 && oid == oidFloat8:
		c.encode, c.fixed = appendFloat8, 8
	case kind == flow.KindDecimal && oid == oidNumeric:
		c.encode, c.fixed = appendDecimal, 16
	case kind == flow.KindString && (oid == oidText || isText):
		c.encode = appendBytes
	case kind == flow.KindString && (oid == oidVarchar || oid == oidBpchar):
		c.encode = appendBytes
		if typmod >= 4 {
			c.limit, c.encode = int(typmod-4), appendLimited
		}
		if oid == oidBpchar {
			c.padded, c.encode = true, appendLimited
		}
	case kind == flow.KindString && oid == oidUUID:
		c.encode, c.fixed = appendUUIDText, 16
	case kind == flow.KindBytes && oid == oidUUID:
		c.encode, c.fixed = appendUUIDBytes, 16
	case kind == flow.KindBytes && oid == oidBytea:
		c.encode = appendBytes
	case kind == flow.KindTimestamp && (oid == oidTimestamptz || oid == oidTimestamp):
		// A timestamp without time zone is written in UTC.
		c.encode, c.fixed = appendTimestamp, 8
	case kind == flow.KindDate && oid == oidDate:
		c.encode, c.fixed = appendDate, 4
	case kind == flow.KindJSON && (oid == oidJSON || oid == oidText):
		c.encode = appendBytes
	case kind == flow.KindJSON && oid == oidJSONB:
		c.encode, c.fixed = appendJSONB, 1
	default:
		return false
	}
	return true
}

// bind points the encoder at the arrays of a batch.
func (c *column) bind(col *flow.Column) {
	c.nulls, c.ints, c.floats, c.bytes, c.offsets = col.Nulls, col.Ints, col.Floats, col.Bytes, col.Offsets
	if c.elem != nil {
		c.elem.bind(col.Elem)
	}
}

// size is what row i takes at most. A number with an exponent can take more,
// which costs an allocation and nothing else.
func (c *column) size(i int) int {
	n := 4 + c.fixed
	switch {
	case c.elem != nil:
		for j := c.offsets[i]; j < c.offsets[i+1]; j++ {
			n += c.elem.size(int(j))
		}
	case c.bytes != nil:
		n += len(c.bytes[i])
	}
	return n
}

func (c *column) null(i int) bool {
	return i>>6 < len(c.nulls) && c.nulls[i>>6]&(1<<(i&63)) != 0
}

func (c *column) appendNull(dst []byte) ([]byte, error) {
	if c.notNull {
		return dst, c.reject("null", "there is no value, and the column is NOT NULL")
	}
	return append(dst, 0xff, 0xff, 0xff, 0xff), nil
}

func (c *column) reject(class, format string, args ...any) error {
	return &flow.RecordError{Class: class, Column: c.name, Err: fmt.Errorf(format, args...)}
}

// rowEncoder encodes the rows of batches for COPY. Not for concurrent use.
type rowEncoder struct {
	columns []column
	// fixed is what a row takes without its variable parts; variable are the
	// columns that have some.
	fixed    int
	variable []int
}

func newRowEncoder(columns []column) *rowEncoder {
	e := &rowEncoder{columns: make([]column, len(columns)), fixed: 2}
	copy(e.columns, columns)
	for i := range e.columns {
		c := &e.columns[i]
		if c.elem != nil {
			elem := *c.elem
			c.elem = &elem
		}
		e.fixed += 4 + c.fixed
	}
	return e
}

// bind points the encoder at a batch's columns.
func (e *rowEncoder) bind(cols *flow.Columns) {
	e.variable = e.variable[:0]
	for i := range e.columns {
		c := &e.columns[i]
		c.bind(&cols.Cols[c.field])
		if c.bytes != nil || c.elem != nil {
			e.variable = append(e.variable, i)
		}
	}
}

// size is what row i takes at most.
func (e *rowEncoder) size(i int) int {
	n := e.fixed
	for _, k := range e.variable {
		c := &e.columns[k]
		if c.null(i) {
			continue // values at null rows are undefined
		}
		if c.elem != nil {
			n += c.size(i)
		} else {
			n += len(c.bytes[i])
		}
	}
	return n
}

// append appends row i. After an error, what it returns beyond dst is to be dropped.
// The rows of a key encoder (see column.key) are the same bytes for keys that are equal.
func (e *rowEncoder) append(dst []byte, i int) ([]byte, error) {
	dst = append(dst, byte(len(e.columns)>>8), byte(len(e.columns)))
	var err error
	word, bit := i>>6, uint64(1)<<(i&63)
	for k := range e.columns {
		c := &e.columns[k]
		if c.nulls[word]&bit == 0 {
			dst, err = c.encode(c, dst, i)
		} else {
			dst, err = c.appendNull(dst)
		}
		if err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func appendLen(dst []byte, n int) []byte { return binary.BigEndian.AppendUint32(dst, uint32(n)) }

func appendBool(c *column, dst []byte, i int) ([]byte, error) {
	return append(dst, 0, 0, 0, 1, byte(c.ints[i]&1)), nil
}

func appendInt2(c *column, dst []byte, i int) ([]byte, error) {
	v := c.ints[i]
	if v != int64(int16(v)) {
		return dst, c.reject("range", "%d is out of range for int2", v)
	}
	return append(dst, 0, 0, 0, 2, byte(v>>8), byte(v)), nil
}

func appendInt4(c *column, dst []byte, i int) ([]byte, error) {
	v := c.ints[i]
	if v != int64(int32(v)) {
		return dst, c.reject("range", "%d is out of range for int4", v)
	}
	return append(dst, 0, 0, 0, 4, byte(v>>24), byte(v>>16), byte(v>>8), byte(v)), nil
}

func appendInt8(c *column, dst []byte, i int) ([]byte, error) {
	return append8(dst, uint64(c.ints[i])), nil
}

func append8(dst []byte, v uint64) []byte {
	return append(dst, 0, 0, 0, 8,
		byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// float is the value of row i; to a key, -0 is 0, and every NaN is the same.
func (c *column) float(i int) float64 {
	v := c.floats[i]
	switch {
	case !c.key:
		return v
	case v == 0:
		return 0
	case math.IsNaN(v):
		return math.NaN()
	}
	return v
}

func appendFloat4(c *column, dst []byte, i int) ([]byte, error) {
	v := c.float(i)
	f := float32(v)
	if (math.IsInf(float64(f), 0) && !math.IsInf(v, 0)) || (f == 0 && v != 0) {
		return dst, c.reject("range", "%g is out of range for float4", v)
	}
	b := math.Float32bits(f)
	return append(dst, 0, 0, 0, 4, byte(b>>24), byte(b>>16), byte(b>>8), byte(b)), nil
}

func appendFloat8(c *column, dst []byte, i int) ([]byte, error) {
	return append8(dst, math.Float64bits(c.float(i))), nil
}

func appendTimestamp(c *column, dst []byte, i int) ([]byte, error) {
	v := c.ints[i]
	if v < minTimestamp+epochMicros { // the upper bound is beyond that of int64
		return dst, c.reject("range", "the time is out of range: %d µs from 1970-01-01 UTC", v)
	}
	return append8(dst, uint64(v-epochMicros)), nil
}

func appendDate(c *column, dst []byte, i int) ([]byte, error) {
	v := c.ints[i]
	if v < minDate+epochDays || v >= endDate+epochDays {
		return dst, c.reject("range", "the date is out of range: %d days from 1970-01-01", v)
	}
	d := uint32(int32(v - epochDays))
	return append(dst, 0, 0, 0, 4, byte(d>>24), byte(d>>16), byte(d>>8), byte(d)), nil
}

func appendBytes(c *column, dst []byte, i int) ([]byte, error) {
	v := c.bytes[i]
	return append(appendLen(dst, len(v)), v...), nil
}

// appendLimited is for varchar(n) and char(n). Spaces beyond n are cut off by
// the server, as SQL wants; other characters are an error.
func appendLimited(c *column, dst []byte, i int) ([]byte, error) {
	v := c.bytes[i]
	if c.limit > 0 && len(v) > c.limit {
		if n := utf8.RuneCount(bytes.TrimRight(v, " ")); n > c.limit {
			return dst, c.reject("range", "the text has %d characters, and the column holds %d", n, c.limit)
		}
		if c.key {
			v = truncate(v, c.limit)
		}
	}
	if c.key && c.padded {
		v = bytes.TrimRight(v, " ")
	}
	return append(appendLen(dst, len(v)), v...), nil
}

func truncate(v []byte, runes int) []byte {
	n := 0
	for ; runes > 0 && n < len(v); runes-- {
		_, size := utf8.DecodeRune(v[n:])
		n += size
	}
	return v[:n]
}

func appendUUIDBytes(c *column, dst []byte, i int) ([]byte, error) {
	v := c.bytes[i]
	if len(v) != 16 {
		return dst, c.reject("type", "a UUID has 16 bytes, not %d", len(v))
	}
	return append(append(dst, 0, 0, 0, 16), v...), nil
}

// appendUUIDText reads what PostgreSQL does: 32 hexadecimal digits, hyphens
// after any group of four, braces around it all.
func appendUUIDText(c *column, dst []byte, i int) ([]byte, error) {
	v := c.bytes[i]
	s := v
	if len(s) > 1 && s[0] == '{' && s[len(s)-1] == '}' {
		s = s[1 : len(s)-1]
	}
	dst = append(dst, 0, 0, 0, 16)
	digits := 0
	var b byte
	for k, ch := range s {
		switch {
		case ch >= '0' && ch <= '9':
			b = b<<4 | (ch - '0')
		case ch|0x20 >= 'a' && ch|0x20 <= 'f':
			b = b<<4 | ((ch | 0x20) - 'a' + 10)
		case ch == '-' && digits > 0 && digits < 32 && digits%4 == 0 && s[k-1] != '-':
			continue
		default:
			digits = 99
		}
		digits++
		if digits > 32 {
			break
		}
		if digits%2 == 0 {
			dst = append(dst, b)
		}
	}
	if digits != 32 {
		return dst, c.reject("type", "%q is not a UUID", shorten(v))
	}
	return dst, nil
}

// appendJSONB adds the version byte. U+0000 is refused here, by the record, not
// by the server for the batch.
func appendJSONB(c *column, dst []byte, i int) ([]byte, error) {
	v := c.bytes[i]
	if hasNULEscape(v) {
		return dst, c.reject("encoding", `the JSON holds \u0000, which jsonb cannot`)
	}
	return append(append(appendLen(dst, len(v)+1), 1), v...), nil
}

// hasNULEscape finds \u0000 whose backslash is not itself escaped.
func hasNULEscape(v []byte) bool {
	for off := 0; ; {
		k := bytes.Index(v[off:], []byte(`\u0000`))
		if k < 0 {
			return false
		}
		k += off
		slashes := 0
		for k-slashes > 0 && v[k-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return true
		}
		off = k + 1
	}
}

// appendArray writes a list as an array of one dimension; an empty one has none.
func appendArray(c *column, dst []byte, i int) ([]byte, error) {
	from, to := int(c.offsets[i]), int(c.offsets[i+1])
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dims, nulls := byte(1), byte(0)
	if from == to {
		dims = 0
	}
	for j := from; j < to; j++ {
		if c.elem.null(j) {
			nulls = 1
			break
		}
	}
	dst = append(dst, 0, 0, 0, dims, 0, 0, 0, nulls)
	dst = binary.BigEndian.AppendUint32(dst, c.elemOID)
	if dims > 0 {
		dst = appendLen(dst, to-from)
		dst = append(dst, 0, 0, 0, 1)
	}
	var err error
	for j := from; j < to; j++ {
		if c.elem.null(j) {
			dst = append(dst, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		if dst, err = c.elem.encode(c.elem, dst, j); err != nil {
			return dst, err
		}
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst, nil
}

func shorten(v []byte) []byte {
	if len(v) > 60 {
		return append(v[:57:57], "..."...)
	}
	return v
}
