package decode

import (
	"slices"

	"github.com/penstockdev/penstock/flow"
)

// part stores a column that is read from a part of the record that is not a
// document.
func (j *JSON) part(k int, b *flow.Batch, rec *flow.Record) error {
	c, col := &j.plan.columns[k], &j.cols.Cols[k]
	switch c.from {
	case fromPartition:
		return j.integer(c, col, int64(b.Parts[rec.Part].ID))
	case fromOffset:
		return j.integer(c, col, rec.Offset)
	case fromTimestamp:
		return j.timestamp(c, col, rec.Timestamp)
	case fromTopic:
		col.Bytes[j.row] = j.topic(b.Parts[rec.Part].Topic)
		return nil
	case fromHeader:
		return j.raw(k, lastHeader(rec, c.header))
	case fromKey:
		return j.raw(k, rec.Key)
	case fromRaw:
		if rec.Value == nil {
			j.setNull(k)
			return nil
		}
		return j.raw(k, rec.Value)
	case fromValue:
	}
	return nil
}

// topic is the name as bytes that are never written again.
func (j *JSON) topic(name string) []byte {
	b, ok := j.topics[name]
	if !ok {
		b = []byte(name)
		j.topics[name] = b
	}
	return b
}

// lastHeader is the value of the last header of that name, nil if none.
func lastHeader(rec *flow.Record, name string) []byte {
	for _, h := range slices.Backward(rec.Headers) {
		if h.Key == name {
			return h.Value
		}
	}
	return nil
}

// raw stores bytes that are no document: text that is converted, or the bytes
// of a bytea column as they are.
func (j *JSON) raw(k int, b []byte) error {
	if b == nil {
		return j.absent(k, false)
	}
	c, col := &j.plan.columns[k], &j.cols.Cols[k]
	f := fine
	switch {
	case c.op == opBytes && c.layout == layoutDefault:
		col.Bytes[j.row] = b
		return nil
	case c.op == opJSON:
		nul, refused := checkDocument(b)
		if refused != nil {
			err := refused.in(c.part())
			return &flow.RecordError{Class: refused.class, Column: c.Name, Err: err}
		}
		if nul && c.binary {
			f = nulCharacter
		} else if isNull(b, skipSpace(b, 0)) {
			return j.absent(k, true)
		}
	case c.op == opText:
		f = checkText(b)
	}
	if f == fine {
		f = c.setText(col, j.row, b, &j.cols.Scratch)
	}
	if f != fine {
		return c.faultError(f, b, -1)
	}
	return nil
}

func (j *JSON) integer(c *column, col *flow.Column, v int64) error {
	if v < c.min || v > c.max {
		return c.faultError(outOfRange, decimalText(v), -1)
	}
	col.Ints[j.row] = v
	return nil
}

// timestamp stores the record's own time, which is in microseconds.
func (j *JSON) timestamp(c *column, col *flow.Column, micros int64) error {
	if c.op == opInt {
		switch c.layout { //nolint:exhaustive // compile allows these
		case layoutUnix:
			micros = floorDiv(micros, 1_000_000)
		case layoutUnixMs:
			micros = floorDiv(micros, 1000)
		case layoutUnixNs:
			if v := micros * 1000; v/1000 == micros {
				micros = v
				break
			}
			return c.faultError(outOfRange, decimalText(micros), -1)
		}
		return j.integer(c, col, micros)
	}
	v, f := inMicros(micros)
	if f != fine {
		return c.faultError(f, decimalText(micros), -1)
	}
	if c.op == opDate {
		v = floorDiv(v, microsPerDay)
	}
	col.Ints[j.row] = v
	return nil
}
