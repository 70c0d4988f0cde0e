package sqlite

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
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

func newEncoder(to *target) *encoder {
	e := &encoder{cols: make([]encodedColumn, len(to.fields)), vals: make([]value, len(to.fields))}
	for i, f := range to.fields {
		c := &e.cols[i]
		c.name = f.Name
		c.key = to.Mode != ModeAppend && slices.Contains(to.Key, f.Name)
		c.layout = coljson.Layout(&f)
		for _, t := range to.cols {
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
		var err error
		if e.buf, err = coljson.AppendTime(e.buf, c.layout, col.Ints[i]); err != nil {
			return &flow.RecordError{Class: "range", Column: c.name, Err: err}
		}
		v.n = len(e.buf) - v.off
	case flow.KindList:
		v.as, v.off = storeText, len(e.buf)
		var err error
		if e.buf, err = coljson.Append(e.buf, col, i); err != nil {
			return &flow.RecordError{Class: "range", Column: c.name, Err: err}
		}
		v.n = len(e.buf) - v.off
	default:
		return fmt.Errorf("column %s has unknown kind %d", c.name, col.Kind)
	}
	return nil
}
