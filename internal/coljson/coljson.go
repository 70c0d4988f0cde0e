// Package coljson writes the values of typed columns as JSON: what a sink
// prints, and what it stores where the target has no type of its own for a value.
//
// What belongs here: the one form in which Penstock writes a value as JSON.
//
//	int, float, numeric     a number, a numeric digit by digit as it was written
//	bool                    true, false
//	text, uuid              a string
//	timestamptz, timestamp  a string: 2026-01-31T12:00:00.000000Z, without the Z for a timestamp
//	date                    a string: 2026-01-31
//	bytea                   a string of hex digits
//	json, jsonb             as it is
//	arrays                  an array
package coljson

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// The layouts of times, of fixed width, so that text order is time order.
const (
	LayoutTimestamptz = "2006-01-02T15:04:05.000000Z"
	LayoutTimestamp   = "2006-01-02T15:04:05.000000"
	LayoutDate        = "2006-01-02"
)

// The years 0000 to 9999, outside which the layouts lose their width.
var (
	minTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() - 1
)

const (
	daySeconds   = 24 * 60 * 60
	microsPerDay = daySeconds * 1_000_000
)

// The errors of values that have no JSON form.
var (
	ErrTime   = errors.New("is outside the years 0000 to 9999, which the text form of a time can hold")
	ErrNumber = errors.New("is not a finite number, and JSON has no other")
)

// Layout is the layout of a column of timestamps or dates, or of an array of them; ""
// for other columns.
func Layout(f *flow.Field) string {
	kind := f.Kind
	if kind == flow.KindList {
		kind = f.Elem
	}
	switch {
	case kind == flow.KindDate:
		return LayoutDate
	case kind != flow.KindTimestamp:
		return ""
	case strings.TrimSuffix(f.Type, "[]") == "timestamp":
		return LayoutTimestamp
	default:
		return LayoutTimestamptz
	}
}

// AppendTime writes a timestamp (microseconds) or date (days) without quotes.
func AppendTime(dst []byte, layout string, n int64) ([]byte, error) {
	if layout == LayoutDate {
		if n < minTime/microsPerDay || n > maxTime/microsPerDay {
			return dst, ErrTime
		}
		return time.Unix(n*daySeconds, 0).UTC().AppendFormat(dst, layout), nil
	}
	if n < minTime || n > maxTime {
		return dst, ErrTime
	}
	return time.UnixMicro(n).UTC().AppendFormat(dst, layout), nil
}

// Append writes row i of the column.
func Append(dst []byte, col *flow.Column, i int) ([]byte, error) {
	if col.Null(i) {
		return append(dst, "null"...), nil
	}
	if col.Kind != flow.KindList {
		return scalar(dst, col, i, Layout(&col.Field))
	}
	layout := Layout(&col.Field)
	dst = append(dst, '[')
	for k := int(col.Offsets[i]); k < int(col.Offsets[i+1]); k++ {
		if k > int(col.Offsets[i]) {
			dst = append(dst, ',')
		}
		// Nulls of elements are appended with them, and may end before the last.
		if k>>6 < len(col.Elem.Nulls) && col.Elem.Null(k) {
			dst = append(dst, "null"...)
			continue
		}
		var err error
		if dst, err = scalar(dst, col.Elem, k, layout); err != nil {
			return dst, fmt.Errorf("has an element that %w", err)
		}
	}
	return append(dst, ']'), nil
}

func scalar(dst []byte, col *flow.Column, i int, layout string) ([]byte, error) {
	switch col.Kind {
	case flow.KindBool:
		return strconv.AppendBool(dst, col.Ints[i] != 0), nil
	case flow.KindInt64:
		return strconv.AppendInt(dst, col.Ints[i], 10), nil
	case flow.KindFloat64:
		f := col.Floats[i]
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return dst, ErrNumber
		}
		return strconv.AppendFloat(dst, f, 'g', -1, 64), nil
	case flow.KindDecimal, flow.KindJSON:
		return append(dst, col.Bytes[i]...), nil
	case flow.KindString:
		return AppendString(dst, col.Bytes[i]), nil
	case flow.KindBytes:
		dst = append(dst, '"')
		dst = hex.AppendEncode(dst, col.Bytes[i])
		return append(dst, '"'), nil
	case flow.KindTimestamp, flow.KindDate:
		dst = append(dst, '"')
		dst, err := AppendTime(dst, layout, col.Ints[i])
		return append(dst, '"'), err
	case flow.KindList:
		return dst, errors.New("is a list within a list")
	default:
		return dst, fmt.Errorf("has unknown kind %d", col.Kind)
	}
}

// AppendString quotes text. Bytes that are not UTF-8 become U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0 // of what can be copied as it is
	for i := 0; i < len(s); {
		b := s[i]
		if b >= 0x20 && b != '"' && b != '\\' && b < utf8.RuneSelf {
			i++
			continue
		}
		if b >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case b >= utf8.RuneSelf:
			dst = append(dst, "\uFFFD"...)
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b == '\n':
			dst = append(dst, '\\', 'n')
		case b == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[b>>4], digits[b&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
