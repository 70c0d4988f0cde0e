package decode

import (
	"github.com/penstockdev/penstock/flow"
)

// misfit is returned in place of a position where a value is not right for
// its column: then rows.fault and rows.at say why. The value has not been
// passed, and may be malformed.
const misfit = -2

// rows stores JSON values in columns.
type rows struct {
	parser
	cols *flow.Columns
	// fault and at, a position in the document, go with misfit.
	fault fault
	at    int
}

func (r *rows) misfit(f fault, at int) int {
	r.fault, r.at = f, at
	return misfit
}

// string reads the string at data[p], as a view where it has no escapes. nul
// says that it holds U+0000.
func (r *rows) string(data []byte, p int) (s []byte, end int, nul bool) {
	q := plainEnd(data, p+1)
	if q < len(data) && data[q] == '"' {
		return data[p+1 : q : q], q + 1, false
	}
	return r.oddString(data, p, q)
}

func (r *rows) oddString(data []byte, p, q int) (s []byte, end int, nul bool) {
	r.nul = false
	if end = r.skipOddString(data, q); end < 0 {
		return nil, end, false
	}
	s = data[p+1 : end-1 : end-1]
	for i, c := range s {
		if c == '\\' {
			buf := r.cols.Scratch
			start := len(buf)
			buf = append(buf, s[:i]...)
			buf = unescape(buf, s[i:])
			r.cols.Scratch = buf
			return buf[start:len(buf):len(buf)], end, r.nul
		}
	}
	return s, end, r.nul
}

// scalar stores the value at data[p] in row i of col and returns its end,
// refused or misfit. There is a byte at p.
func (r *rows) scalar(c *column, col *flow.Column, i int, data []byte, p, depth int) int {
	switch c.op {
	case opText:
		if data[p] != '"' {
			return r.misfit(wrongType, p)
		}
		s, end, nul := r.string(data, p)
		if nul {
			return r.misfit(nulCharacter, p)
		}
		col.Bytes[i] = s
		return end

	case opInt:
		v, end := plainInt(data, p)
		if end == 0 {
			return r.number(c, col, i, data, p)
		}
		if v < c.min || v > c.max {
			return r.misfit(outOfRange, p)
		}
		col.Ints[i] = v
		return end

	case opFloat:
		v, end := plainFloat(data, p)
		if end == 0 {
			return r.number(c, col, i, data, p)
		}
		if c.float4 {
			var f fault
			if v, f = toFloat4(v, data[p:end]); f != fine {
				return r.misfit(f, p)
			}
		}
		col.Floats[i] = v
		return end

	case opDecimal:
		if !beginsNumber(data[p]) {
			return r.number(c, col, i, data, p)
		}
		end, exponent, ok := numberEnd(data, p)
		if !ok {
			return r.misfit(wrongType, p)
		}
		s := data[p:end:end]
		if f := c.fitsDecimal(s, exponent); f != fine {
			return r.misfit(f, p)
		}
		col.Bytes[i] = s
		return end

	case opBool:
		if len(data)-p >= 4 && string(data[p:p+4]) == "true" {
			col.Ints[i] = 1
			return p + 4
		}
		if len(data)-p >= 5 && string(data[p:p+5]) == "false" {
			col.Ints[i] = 0
			return p + 5
		}
		if c.layout == layoutString && data[p] == '"' {
			return r.text(c, col, i, data, p)
		}
		return r.misfit(wrongType, p)

	case opTime, opDate:
		if data[p] != '"' {
			return r.number(c, col, i, data, p)
		}
		return r.text(c, col, i, data, p)

	case opUUID, opBytes:
		if data[p] != '"' {
			return r.misfit(wrongType, p)
		}
		return r.text(c, col, i, data, p)

	case opJSON:
		if isNull(data, p) {
			return r.misfit(wrongType, p)
		}
		r.nul = false
		end := r.skip(data, p, depth)
		if end < 0 {
			return end
		}
		if r.nul && c.binary {
			return r.misfit(nulCharacter, p)
		}
		col.Bytes[i] = data[p:end:end]
		return end
	}
	return r.misfit(wrongType, p)
}

func beginsNumber(c byte) bool { return c == '-' || c-'0' <= 9 }

// number stores what the fast paths leave: numbers of any form, or in a
// string, or what is no number at all.
func (r *rows) number(c *column, col *flow.Column, i int, data []byte, p int) int {
	if data[p] == '"' && c.layout == layoutString {
		return r.text(c, col, i, data, p)
	}
	if !beginsNumber(data[p]) {
		return r.misfit(wrongType, p)
	}
	end, _, ok := numberEnd(data, p)
	if !ok {
		return r.misfit(wrongType, p)
	}
	b := data[p:end:end]
	var f fault
	switch {
	case c.op != opTime && c.op != opDate:
		f = c.setNumber(col, i, b)
	case c.layout < layoutUnix || c.layout > layoutUnixNs:
		f = wrongType
	default:
		var v int64
		if v, f = unixMicros(b, c.layout); c.op == opDate {
			v = floorDiv(v, microsPerDay)
		}
		col.Ints[i] = v
	}
	if f != fine {
		return r.misfit(f, p)
	}
	return end
}

// text stores the string at data[p] in a column that is not text.
func (r *rows) text(c *column, col *flow.Column, i int, data []byte, p int) int {
	s, end, _ := r.string(data, p)
	if end < 0 {
		return end
	}
	if f := c.setText(col, i, s, &r.cols.Scratch); f != fine {
		return r.misfit(f, p)
	}
	return end
}

// list stores the elements of the array at data[p] in the given row, and returns
// its end, refused or misfit.
func (r *rows) list(c *column, col *flow.Column, row int, data []byte, p, depth int) int {
	if data[p] != '[' {
		return r.misfit(wrongType, p)
	}
	elems := col.Elem
	truncate(elems, int(col.Offsets[row]))
	if depth++; depth > maxDepth {
		return r.tooDeep(p + 1)
	}
	if p = skipSpace(data, p+1); p < len(data) && data[p] == ']' {
		return p + 1
	}
	for {
		if p >= len(data) {
			return r.unexpected(data, p, "a value")
		}
		i := grow(elems)
		if isNull(data, p) {
			elems.SetNull(i)
			p += 4
		} else if p = r.scalar(c, elems, i, data, p, depth); p < 0 {
			return p
		}
		p = skipSpace(data, p)
		switch {
		case p < len(data) && data[p] == ',':
			p = skipSpace(data, p+1)
		case p < len(data) && data[p] == ']':
			return p + 1
		default:
			return r.unexpected(data, p, "a comma or ] after a value")
		}
	}
}

// whole stores the whole document b in row 0 of the only column: a default.
func (r *rows) whole(c *column, b []byte) error {
	p := skipSpace(b, 0)
	if p == len(b) {
		r.unexpected(b, p, "a value")
		return r.err.in("default")
	}
	col := &r.cols.Cols[0]
	end := 0
	if c.list {
		if end = r.list(c, col, 0, b, p, 0); end >= 0 {
			col.Offsets[1] = elemCount(col.Elem)
		}
	} else {
		end = r.scalar(c, col, 0, b, p, 0)
	}
	if end == misfit {
		if p = r.skip(b, p, 0); p >= 0 {
			return c.faultError(r.fault, b[r.at:], r.at).Err
		}
	}
	if end >= 0 {
		r.end(b, end)
	}
	if r.err != nil {
		return r.err.in("default")
	}
	return nil
}

// grow adds an element, not null and with a zero value, and returns its index.
func grow(elems *flow.Column) int {
	i := int(elemCount(elems))
	if i&63 == 0 {
		elems.Nulls = append(elems.Nulls, 0)
	}
	switch elems.Kind {
	case flow.KindFloat64:
		elems.Floats = append(elems.Floats, 0)
	case flow.KindBool, flow.KindInt64, flow.KindTimestamp, flow.KindDate:
		elems.Ints = append(elems.Ints, 0)
	case flow.KindDecimal, flow.KindString, flow.KindBytes, flow.KindJSON:
		elems.Bytes = append(elems.Bytes, nil)
	case flow.KindList: // lists of lists are refused when the type is read
	}
	return i
}

// elemCount is the number of elements of all rows.
func elemCount(elems *flow.Column) int32 {
	return int32(len(elems.Ints) + len(elems.Floats) + len(elems.Bytes))
}

// truncate leaves the first n elements.
func truncate(elems *flow.Column, n int) {
	if int(elemCount(elems)) == n {
		return
	}
	elems.Ints = elems.Ints[:min(n, len(elems.Ints))]
	elems.Floats = elems.Floats[:min(n, len(elems.Floats))]
	elems.Bytes = elems.Bytes[:min(n, len(elems.Bytes))]
	elems.Nulls = elems.Nulls[:(n+63)/64]
	if n&63 != 0 {
		elems.Nulls[n/64] &= 1<<(n&63) - 1
	}
}
