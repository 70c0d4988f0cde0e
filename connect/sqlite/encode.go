package sqlite

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// The layouts of times in TEXT: of fixed width, so that text order is time
// order, and readable by SQLite's date functions.
const (
	layoutTimestamptz = "2006-01-02T15:04:05.000000Z"
	layoutTimestamp   = "2006-01-02T15:04:05.000000"
	layoutDate        = "2006-01-02"
)

// The years 0000 to 9999, outside which the layouts lose their width and SQLite's
// functions their meaning.
var (
	minTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() - 1
)

const (
	microsPerDay = 24 * 60 * 60 * 1_000_000
	daySeconds   = 24 * 60 * 60
)

// storage is how a value is handed to SQLite.
type storage uint8

const (
	storeNull storage = iota
	storeInt
	storeFloat
	storeText // in encoder.buf, from off to off+n
	storeBlob
)

type value struct {
	as     storage
	i      int64
	f      float64
	off, n int
}

// encoder turns rows into values of SQLite. It is pure: what it makes depends
// on the columns and the table's declared types alone. Reused, it does not allocate.
type encoder struct {
	cols []encodedColumn
	vals []value
	// buf holds the bytes of the row's texts and blobs.
	buf []byte
}

type encodedColumn struct {
	name string
	// layout of a timestamp or date; "" in a column that is declared as an integer.
	layout string
	key    bool
}

func newEncoder(cfg *SinkConfig, fields []flow.Field, table []tableColumn) *encoder {
	e := &encoder{cols: make([]encodedColumn, len(fields)), vals: make([]value, len(fields))}
	for i, f := range fields {
		c := &e.cols[i]
		c.name = f.Name
		c.key = cfg.Mode != ModeAppend && slices.Contains(cfg.Key, f.Name)
		kind, declared := f.Kind, f.Type
		if kind == flow.KindList {
			kind, declared = f.Elem, strings.TrimSuffix(f.Type, "[]")
		}
		switch {
		case kind == flow.KindDate:
			c.layout = layoutDate
		case kind == flow.KindTimestamp && declared == "timestamp":
			c.layout = layoutTimestamp
		case kind == flow.KindTimestamp:
			c.layout = layoutTimestamptz
		}
		for _, t := range table {
			// The rule by which SQLite itself finds a column's affinity.
			if strings.EqualFold(t.name, f.Name) && f.Kind != flow.KindList && strings.Contains(strings.ToUpper(t.declared), "INT") {
				c.layout = ""
			}
		}
	}
	return e
}

// row encodes row i into vals and buf. With keysOnly the other columns are
// left alone. A *flow.RecordError says why the row cannot be written.
func (e *encoder) row(cols *flow.Columns, i int, keysOnly bool) error {
	e.buf = e.buf[:0]
	for k := range e.cols {
		c := &e.cols[k]
		if keysOnly && !c.key {
			continue
		}
		col := &cols.Cols[k]
		v := &e.vals[k]
		if col.Null(i) {
			if c.key {
				return &flow.RecordError{Class: "null", Column: c.name, Err: errors.New("is part of the key and must not be null")}
			}
			v.as = storeNull
			continue
		}
		if err := e.value(c, col, i, v); err != nil {
			return err
		}
	}
	return nil
}

func (e *encoder) value(c *encodedColumn, col *flow.Column, i int, v *value) error {
	switch col.Kind {
	case flow.KindBool, flow.KindInt64:
		v.as, v.i = storeInt, col.Ints[i]
	case flow.KindFloat64:
		if math.IsNaN(col.Floats[i]) {
			return &flow.RecordError{Class: "range", Column: c.name, Err: errors.New("is not a number (NaN), which SQLite would store as NULL")}
		}
		v.as, v.f = storeFloat, col.Floats[i]
	case flow.KindDecimal, flow.KindString, flow.KindJSON:
		v.as, v.off = storeText, len(e.buf)
		e.buf = append(e.buf, col.Bytes[i]...)
		v.n = len(e.buf) - v.off
	case flow.KindBytes:
		v.as, v.off = storeBlob, len(e.buf)
		e.buf = append(e.buf, col.Bytes[i]...)
		v.n = len(e.buf) - v.off
	case flow.KindTimestamp, flow.KindDate:
		if c.layout == "" {
			v.as, v.i = storeInt, col.Ints[i]
			return nil
		}
		v.as, v.off = storeText, len(e.buf)
		if !e.appendTime(c.layout, col.Kind, col.Ints[i]) {
			return timeRange(c.name)
		}
		v.n = len(e.buf) - v.off
	case flow.KindList:
		v.as, v.off = storeText, len(e.buf)
		if err := e.appendList(c, col.Elem, int(col.Offsets[i]), int(col.Offsets[i+1])); err != nil {
			return err
		}
		v.n = len(e.buf) - v.off
	default:
		return fmt.Errorf("column %s has unknown kind %d", c.name, col.Kind)
	}
	return nil
}

func timeRange(column string) error {
	return &flow.RecordError{Class: "range", Column: column, Err: errors.New("is outside the years 0000 to 9999, which SQLite's text form of a time can hold")}
}

func (e *encoder) appendTime(layout string, kind flow.Kind, n int64) bool {
	if kind == flow.KindDate {
		if n < minTime/microsPerDay || n > maxTime/microsPerDay {
			return false
		}
		e.buf = time.Unix(n*daySeconds, 0).UTC().AppendFormat(e.buf, layout)
		return true
	}
	if n < minTime || n > maxTime {
		return false
	}
	e.buf = time.UnixMicro(n).UTC().AppendFormat(e.buf, layout)
	return true
}

// appendList writes the elements from lo to hi as a JSON array.
func (e *encoder) appendList(c *encodedColumn, elem *flow.Column, lo, hi int) error {
	e.buf = append(e.buf, '[')
	for i := lo; i < hi; i++ {
		if i > lo {
			e.buf = append(e.buf, ',')
		}
		if i>>6 < len(elem.Nulls) && elem.Null(i) {
			e.buf = append(e.buf, "null"...)
			continue
		}
		switch elem.Kind {
		case flow.KindBool:
			e.buf = strconv.AppendBool(e.buf, elem.Ints[i] != 0)
		case flow.KindInt64:
			e.buf = strconv.AppendInt(e.buf, elem.Ints[i], 10)
		case flow.KindFloat64:
			f := elem.Floats[i]
			if math.IsNaN(f) || math.IsInf(f, 0) {
				return &flow.RecordError{Class: "range", Column: c.name, Err: errors.New("has an element that is not a finite number, which JSON cannot hold")}
			}
			e.buf = strconv.AppendFloat(e.buf, f, 'g', -1, 64)
		case flow.KindDecimal, flow.KindJSON:
			e.buf = append(e.buf, elem.Bytes[i]...)
		case flow.KindString:
			e.buf = appendJSONString(e.buf, elem.Bytes[i])
		case flow.KindBytes:
			e.buf = append(e.buf, '"')
			e.buf = hex.AppendEncode(e.buf, elem.Bytes[i])
			e.buf = append(e.buf, '"')
		case flow.KindTimestamp, flow.KindDate:
			e.buf = append(e.buf, '"')
			if !e.appendTime(c.layout, elem.Kind, elem.Ints[i]) {
				return timeRange(c.name)
			}
			e.buf = append(e.buf, '"')
		case flow.KindList:
			return fmt.Errorf("column %s: a list of lists cannot be stored", c.name)
		default:
			return fmt.Errorf("column %s has elements of unknown kind %d", c.name, elem.Kind)
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

// appendJSONString quotes text. Bytes that are not UTF-8 become U+FFFD; text
// columns have none.
func appendJSONString(dst, s []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		b := s[i]
		switch {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', digits[b>>4], digits[b&15])
		case b < utf8.RuneSelf:
			dst = append(dst, b)
		default:
			r, n := utf8.DecodeRune(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
			continue
		}
		i++
	}
	return append(dst, '"')
}
