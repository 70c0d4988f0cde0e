package postgres

import (
	"encoding/binary"
	"strconv"
)

// The bounds of numeric without a declared precision.
const (
	maxNumericDigits = 131072 // before the point
	maxNumericScale  = 16383  // after it
)

func appendDecimal(c *column, dst []byte, i int) ([]byte, error) {
	return appendNumeric(c, dst, c.bytes[i])
}

func appendIntNumeric(c *column, dst []byte, i int) ([]byte, error) {
	var buf [20]byte
	return appendNumeric(c, dst, strconv.AppendInt(buf[:0], c.ints[i], 10))
}

// appendNumeric writes a JSON number in the binary form of numeric, exactly: base 10,000 digits,
// with as many decimal places as the text has. A number with more decimal
// places than numeric(p,s) has is rounded half away from zero, and one with
// more digits before the point than it has room for is rejected: both as
// PostgreSQL does with the text. (One difference: a number with more than 16,383
// decimal places is rounded too, and not refused.)
func appendNumeric(c *column, dst, text []byte) ([]byte, error) {
	digits, point, scale, neg, ok := scanDecimal(c.digits[:0], text)
	c.digits = digits
	if !ok {
		return dst, c.reject("type", "%q is not a number", shorten(text))
	}
	// As point is the number of digits before the decimal point, leading zeros
	// not counted, the value is 0.digits × 10^point.
	if c.typmod >= 4 {
		precision := int((c.typmod - 4) >> 16)
		s := int(((c.typmod-4)&0x7ff)^1024) - 1024
		digits, point = roundDecimal(digits, point, s)
		scale = max(s, 0)
		if len(digits) > 0 && point > precision-s {
			return dst, c.reject("range", "%s is out of range for numeric(%d,%d)", shorten(text), precision, s)
		}
	}
	if len(digits) == 0 {
		scale = min(scale, maxNumericScale)
	} else if point > maxNumericDigits || scale > maxNumericScale {
		return dst, c.reject("range", "%s is out of range for numeric", shorten(text))
	}
	if c.key {
		scale = 0 // 1.0 and 1.00 are equal
	}
	if len(digits) == 0 {
		return append(dst, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, byte(scale>>8), byte(scale)), nil
	}
	// The first group of four holds the digits down to the next point that is a
	// multiple of four places away.
	weight := (point+4*maxNumericScale-1)/4 - maxNumericScale // the floor of (point-1)/4
	pad := (weight+1)*4 - point
	groups := (pad + len(digits) + 3) / 4
	dst = appendLen(dst, 8+2*groups)
	dst = binary.BigEndian.AppendUint16(dst, uint16(groups))
	dst = binary.BigEndian.AppendUint16(dst, uint16(int16(weight)))
	sign := byte(0)
	if neg {
		sign = 0x40
	}
	dst = append(dst, sign, 0, byte(scale>>8), byte(scale))
	g, n := 0, pad
	for _, d := range digits {
		g = g*10 + int(d)
		if n++; n == 4 {
			dst = append(dst, byte(g>>8), byte(g))
			g, n = 0, 0
		}
	}
	if n > 0 {
		for ; n < 4; n++ {
			g *= 10
		}
		dst = append(dst, byte(g>>8), byte(g))
	}
	return dst, nil
}

// scanDecimal reads a JSON number into its significant digits (values, not
// characters; neither first nor last is 0), the position of the decimal point relative to
// their start, and the number of decimal places that it is written with.
func scanDecimal(digits, text []byte) (_ []byte, point, scale int, neg, ok bool) {
	i := 0
	if i < len(text) && text[i] == '-' {
		neg = true
		i++
	}
	start := i
	for ; i < len(text) && text[i]-'0' < 10; i++ {
		if d := text[i] - '0'; d != 0 || len(digits) > 0 {
			digits = append(digits, d)
			point++
		}
	}
	if i == start || (text[start] == '0' && i > start+1) {
		return digits, 0, 0, false, false
	}
	if i < len(text) && text[i] == '.' {
		i++
		start = i
		for ; i < len(text) && text[i]-'0' < 10; i++ {
			scale++
			switch d := text[i] - '0'; {
			case d != 0 || len(digits) > 0:
				digits = append(digits, d)
			default:
				point--
			}
		}
		if i == start {
			return digits, 0, 0, false, false
		}
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		i++
		negExp := false
		if i < len(text) && (text[i] == '-' || text[i] == '+') {
			negExp = text[i] == '-'
			i++
		}
		start = i
		exp := 0
		for ; i < len(text) && text[i]-'0' < 10; i++ {
			exp = min(exp*10+int(text[i]-'0'), 1<<24)
		}
		if i == start {
			return digits, 0, 0, false, false
		}
		if negExp {
			exp = -exp
		}
		point += exp
		scale = max(0, scale-exp)
	}
	for len(digits) > 0 && digits[len(digits)-1] == 0 {
		digits = digits[:len(digits)-1]
	}
	return digits, point, scale, neg, i == len(text)
}

// roundDecimal rounds to s decimal places, half away from zero.
func roundDecimal(digits []byte, point, s int) ([]byte, int) {
	keep := point + s
	if keep >= len(digits) {
		return digits, point
	}
	if keep < 0 {
		return digits[:0], point
	}
	up := digits[keep] >= 5
	digits = digits[:keep]
	for up {
		n := len(digits)
		switch {
		case n == 0:
			digits, point, up = append(digits, 1), point+1, false
		case digits[n-1] == 9:
			digits = digits[:n-1]
		default:
			digits[n-1]++
			up = false
		}
	}
	for len(digits) > 0 && digits[len(digits)-1] == 0 {
		digits = digits[:len(digits)-1]
	}
	return digits, point
}
