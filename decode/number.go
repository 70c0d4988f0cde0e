package decode

import (
	"math"
	"strconv"
	"unsafe"
)

// fault says what is wrong with a value that is well-formed JSON.
type fault uint8

const (
	fine fault = iota
	wrongType
	outOfRange
	invalidUTF8
	nulCharacter
)

// viewString is b as a string, without a copy. The string must not outlive
// the call that it is passed to.
func viewString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// plainInt reads the integer at data[p], where it has at most 18 digits and
// neither fraction nor exponent, and returns its end. Whatever else is there
// has end 0: another number, a wrong one, or none.
func plainInt(data []byte, p int) (v int64, end int) {
	q := p
	neg := data[q] == '-'
	if neg {
		q++
	}
	start := q
	for q < len(data) {
		d := data[q] - '0'
		if d > 9 {
			if c := data[q]; c == '.' || c|0x20 == 'e' {
				return 0, 0
			}
			break
		}
		v = v*10 + int64(d)
		q++
	}
	if n := q - start; n == 0 || n > 18 || (n > 1 && data[start] == '0') {
		return 0, 0
	}
	if neg {
		v = -v
	}
	return v, q
}

// numberEnd returns where the number at data[p] ends, and whether it has an
// exponent. Where the grammar is broken, ok is false and end is the byte at fault.
func numberEnd(data []byte, p int) (end int, exponent, ok bool) {
	if data[p] == '-' {
		p++
	}
	start := p
	p = digitsEnd(data, p)
	if p == start || (data[start] == '0' && p > start+1) {
		return min(p, start+1), false, false
	}
	if p < len(data) && data[p] == '.' {
		start = p + 1
		if p = digitsEnd(data, start); p == start {
			return p, false, false
		}
	}
	if p < len(data) && data[p]|0x20 == 'e' {
		exponent = true
		p++
		if p < len(data) && (data[p] == '+' || data[p] == '-') {
			p++
		}
		start = p
		if p = digitsEnd(data, start); p == start {
			return p, true, false
		}
	}
	return p, exponent, true
}

func digitsEnd(data []byte, p int) int {
	for p < len(data) && data[p]-'0' <= 9 {
		p++
	}
	return p
}

var pow10 = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
	1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// plainFloat reads the number at data[p] and returns its end, if it is one that
// floating point gets right in one operation: a mantissa below 2^53 and a power
// of ten of at most 22, both of them exact, so that the one multiplication or
// division rounds correctly (Clinger). Whatever else is there has end 0.
func plainFloat(data []byte, p int) (f float64, end int) {
	q := p
	neg := data[q] == '-'
	if neg {
		q++
	}
	start := q
	var m uint64
	for q < len(data) {
		d := data[q] - '0'
		if d > 9 {
			break
		}
		m = m*10 + uint64(d)
		q++
	}
	digits := q - start
	if digits == 0 || (digits > 1 && data[start] == '0') {
		return 0, 0
	}
	exp := 0
	if q < len(data) && data[q] == '.' {
		q++
		frac := q
		for q < len(data) {
			d := data[q] - '0'
			if d > 9 {
				break
			}
			m = m*10 + uint64(d)
			q++
		}
		if q == frac {
			return 0, 0
		}
		exp = frac - q
		digits -= exp
	}
	if digits > 19 || m >= 1<<53 {
		return 0, 0
	}
	if q < len(data) && data[q]|0x20 == 'e' {
		q++
		if q == len(data) {
			return 0, 0
		}
		sign := data[q]
		if sign == '+' || sign == '-' {
			q++
		}
		e, from := 0, q
		for q < len(data) && q-from < 4 {
			d := data[q] - '0'
			if d > 9 {
				break
			}
			e = e*10 + int(d)
			q++
		}
		if q == from || q-from == 4 {
			return 0, 0
		}
		if sign == '-' {
			e = -e
		}
		exp += e
	}
	f = float64(m)
	switch {
	case exp == 0:
	case exp < 0 && exp >= -22:
		f /= pow10[-exp]
	case exp > 0 && exp <= 22:
		f *= pow10[exp]
	default:
		return 0, 0
	}
	if neg {
		f = -f
	}
	return f, q
}

// parseFloat reads the whole of b, a JSON number.
func parseFloat(b []byte) (float64, fault) {
	f, err := strconv.ParseFloat(viewString(b), 64)
	if err != nil { // the grammar is right, so it is too large
		return 0, outOfRange
	}
	return f, fine
}

// toFloat4 rounds f, the nearest float64 to the number b, to the float4
// nearest to the number.
func toFloat4(f float64, b []byte) (float64, fault) {
	// Rounding twice is wrong only where the first result lies in the middle
	// between two float4 (or near their smallest).
	if math.Float64bits(f)&(1<<29-1) == 1<<28 || (f != 0 && math.Abs(f) < 1e-37) {
		if g, err := strconv.ParseFloat(viewString(b), 32); err == nil {
			f = g
		}
	}
	g := float64(float32(f))
	if math.IsInf(g, 0) {
		return 0, outOfRange
	}
	return g, fine
}

// decimal is a JSON number as digits × 10^exp. digits is a part of the
// number's text: it begins and ends with a digit other than 0, and may have the
// point inside.
type decimal struct {
	neg    bool
	digits []byte
	n      int // digits without the point
	exp    int
}

// maxExponent is where exponents stop being told apart; far above what any type holds.
const maxExponent = 1 << 30

// decompose takes a JSON number apart.
func decompose(b []byte) (d decimal) {
	if b[0] == '-' {
		d.neg = true
		b = b[1:]
	}
	frac, end := 0, len(b)
	for i, c := range b {
		if c == '.' {
			frac = i + 1
		} else if c|0x20 == 'e' {
			end = i
			break
		}
	}
	if end < len(b) {
		e := b[end+1:]
		neg := e[0] == '-'
		if neg || e[0] == '+' {
			e = e[1:]
		}
		for _, c := range e {
			d.exp = min(d.exp*10+int(c-'0'), maxExponent)
		}
		if neg {
			d.exp = -d.exp
		}
	}
	m := b[:end]
	if frac > 0 {
		d.exp -= end - frac
	}
	for len(m) > 0 && (m[0] == '0' || m[0] == '.') {
		if m[0] == '.' {
			frac = 0
		}
		m = m[1:]
	}
	for len(m) > 0 && (m[len(m)-1] == '0' || m[len(m)-1] == '.') {
		if m[len(m)-1] == '.' {
			frac = 0
		} else {
			d.exp++
		}
		m = m[:len(m)-1]
	}
	d.digits, d.n = m, len(m)
	if frac > 0 && d.n > 0 {
		d.n--
	}
	if d.n == 0 {
		d.exp = 0
	}
	return d
}

// head is the number made of the first n digits, and zeros where there are
// fewer. n is at most 19.
func (d *decimal) head(n int) (u uint64) {
	for _, c := range d.digits {
		if n == 0 {
			return u
		}
		if c != '.' {
			u = u*10 + uint64(c-'0')
			n--
		}
	}
	if u == 0 {
		return 0
	}
	for ; n > 0; n-- {
		u *= 10
	}
	return u
}

// exactInt is the JSON number b as an integer, if it is whole.
func exactInt(b []byte) (int64, fault) {
	d := decompose(b)
	switch {
	case d.n == 0:
		return 0, fine
	case d.exp < 0:
		return 0, wrongType
	case d.n+d.exp > 19:
		return 0, outOfRange
	}
	u := d.head(d.n + d.exp)
	switch {
	case d.neg && u <= 1<<63:
		return -int64(u), fine
	case !d.neg && u < 1<<63:
		return int64(u), fine
	}
	return 0, outOfRange
}

// The limits of PostgreSQL's numeric: digits before and after the point.
const (
	numericWhole = 131072
	numericScale = 16383
)

// fitsDecimal checks the JSON number b against the column's precision.
func (c *column) fitsDecimal(b []byte, exponent bool) fault {
	// No point and no sign counted: cheap, and right for nearly all numbers.
	if c.precision == 0 {
		if !exponent && len(b) <= numericScale {
			return fine
		}
	} else if !exponent && c.scale >= 0 && len(b) <= c.precision-c.scale {
		return fine
	}
	d := decompose(b)
	if d.n == 0 {
		return fine
	}
	whole := d.n + d.exp
	if whole > numericWhole || -d.exp > numericScale {
		return outOfRange
	}
	if c.precision == 0 {
		return fine
	}
	limit := c.precision - c.scale
	switch {
	case whole < limit:
		return fine
	case whole > limit:
		return outOfRange
	}
	// As many digits as there is room for: it overflows if it rounds up to the
	// next power of ten.
	i := 0
	for _, digit := range d.digits {
		switch {
		case digit == '.':
			continue
		case i == c.precision:
			if digit >= '5' {
				return outOfRange
			}
			return fine
		case digit != '9':
			return fine
		}
		i++
	}
	return fine
}
