package decode

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// maxDepth is how deep objects and arrays may be nested.
const maxDepth = 512

// Words of eight equal bytes, to look at eight bytes of a string at once.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stops has the high bit of every byte of w set that ends a plain run of a
// string: a quote, a backslash, a control character or anything but ASCII.
// Subtraction borrows from the byte above, so bytes above the first stop may
// be set for nothing; the lowest set bit is always right.
func stops(w uint64) uint64 {
	return ((w ^ ones*'"' - ones) | (w ^ ones*'\\' - ones) | (w - ones*0x20) | w) & highs
}

// plainEnd returns the first byte at or after p that cannot simply be passed over in
// a string (see stops), or len(data).
func plainEnd(data []byte, p int) int {
	for len(data)-p >= 32 {
		s := data[p : p+32 : p+32]
		m0 := stops(binary.LittleEndian.Uint64(s[0:]))
		m1 := stops(binary.LittleEndian.Uint64(s[8:]))
		m2 := stops(binary.LittleEndian.Uint64(s[16:]))
		m3 := stops(binary.LittleEndian.Uint64(s[24:]))
		if m0|m1|m2|m3 != 0 {
			switch {
			case m0 != 0:
				return p + bits.TrailingZeros64(m0)>>3
			case m1 != 0:
				return p + 8 + bits.TrailingZeros64(m1)>>3
			case m2 != 0:
				return p + 16 + bits.TrailingZeros64(m2)>>3
			}
			return p + 24 + bits.TrailingZeros64(m3)>>3
		}
		p += 32
	}
	for len(data)-p >= 8 {
		if m := stops(binary.LittleEndian.Uint64(data[p:])); m != 0 {
			return p + bits.TrailingZeros64(m)>>3
		}
		p += 8
	}
	for p < len(data) {
		if c := data[p]; c == '"' || c == '\\' || c < 0x20 || c >= utf8.RuneSelf {
			break
		}
		p++
	}
	return p
}

// skipSpace returns the first byte at or after p that is not white space, or
// len(data).
func skipSpace(data []byte, p int) int {
	for p < len(data) && (data[p] == ' ' || data[p] == '\n' || data[p] == '\r' || data[p] == '\t') {
		p++
	}
	return p
}

// parser checks JSON. Its methods return where what they passed ends, or
// refused; then err says why the document is refused.
type parser struct {
	err *refusal
	// nul is set when a string is passed that holds U+0000.
	nul bool
}

// refused is returned in place of a position.
const refused = -1

// skip passes the value at data[p].
func (j *parser) skip(data []byte, p, depth int) int {
	if p >= len(data) {
		return j.unexpected(data, p, "a value")
	}
	switch c := data[p]; c {
	case '"':
		return j.skipString(data, p+1)
	case '{':
		return j.skipObject(data, p+1, depth+1)
	case '[':
		return j.skipArray(data, p+1, depth+1)
	case 't':
		if len(data)-p >= 4 && string(data[p:p+4]) == "true" {
			return p + 4
		}
	case 'f':
		if len(data)-p >= 5 && string(data[p:p+5]) == "false" {
			return p + 5
		}
	case 'n':
		if isNull(data, p) {
			return p + 4
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		end, _, ok := numberEnd(data, p)
		if !ok {
			return j.unexpected(data, end, "a digit (numbers are written like -12.5e3, without leading zeros)")
		}
		return end
	}
	return j.unexpected(data, p, "a value")
}

func isNull(data []byte, p int) bool {
	return len(data)-p >= 4 && string(data[p:p+4]) == "null"
}

// skipObject passes the rest of an object, from after its brace.
func (j *parser) skipObject(data []byte, p, depth int) int {
	if depth > maxDepth {
		return j.tooDeep(p)
	}
	if p = skipSpace(data, p); p < len(data) && data[p] == '}' {
		return p + 1
	}
	for {
		if p >= len(data) || data[p] != '"' {
			return j.unexpected(data, p, "a key in double quotes")
		}
		if p = j.skipString(data, p+1); p < 0 {
			return p
		}
		if p >= len(data) || data[p] != ':' {
			if p = skipSpace(data, p); p >= len(data) || data[p] != ':' {
				return j.unexpected(data, p, "a colon after the key")
			}
		}
		if p++; p < len(data) && data[p] <= ' ' {
			p = skipSpace(data, p)
		}
		if p = j.skip(data, p, depth); p < 0 {
			return p
		}
		if p < len(data) && data[p] <= ' ' {
			p = skipSpace(data, p)
		}
		switch {
		case p < len(data) && data[p] == ',':
			if p++; p < len(data) && data[p] <= ' ' {
				p = skipSpace(data, p)
			}
		case p < len(data) && data[p] == '}':
			return p + 1
		default:
			return j.unexpected(data, p, "a comma or } after a value")
		}
	}
}

// skipArray passes the rest of an array, from after its bracket.
func (j *parser) skipArray(data []byte, p, depth int) int {
	if depth > maxDepth {
		return j.tooDeep(p)
	}
	if p = skipSpace(data, p); p < len(data) && data[p] == ']' {
		return p + 1
	}
	for {
		if p = j.skip(data, p, depth); p < 0 {
			return p
		}
		if p < len(data) && data[p] <= ' ' {
			p = skipSpace(data, p)
		}
		switch {
		case p < len(data) && data[p] == ',':
			if p++; p < len(data) && data[p] <= ' ' {
				p = skipSpace(data, p)
			}
		case p < len(data) && data[p] == ']':
			return p + 1
		default:
			return j.unexpected(data, p, "a comma or ] after a value")
		}
	}
}

// skipString passes the rest of a string, from after its quote.
func (j *parser) skipString(data []byte, p int) int {
	p = plainEnd(data, p)
	if p < len(data) && data[p] == '"' {
		return p + 1
	}
	return j.skipOddString(data, p)
}

// skipOddString passes the rest of a string from its first byte that is not plain.
func (j *parser) skipOddString(data []byte, p int) int {
	for p < len(data) {
		switch c := data[p]; {
		case c == '"':
			return p + 1
		case c == '\\':
			if p = j.skipEscape(data, p); p < 0 {
				return p
			}
		case c < 0x20:
			return j.refuse(classMalformed, p, "a control character (byte %#02x) in a string; it must be escaped", c)
		case c < utf8.RuneSelf:
			p = plainEnd(data, p)
		default:
			r, n := utf8.DecodeRune(data[p:])
			if r == utf8.RuneError && n == 1 {
				return j.refuse(classEncoding, p, "a string is not valid UTF-8 (byte %#02x)", c)
			}
			p += n
		}
	}
	return j.refuse(classMalformed, len(data), "the document ends inside a string")
}

// skipEscape passes the escape at data[p], a surrogate pair as one.
func (j *parser) skipEscape(data []byte, p int) int {
	if p+1 >= len(data) {
		return j.refuse(classMalformed, len(data), "the document ends inside a string")
	}
	switch data[p+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return p + 2
	case 'u':
		u := hex4(data, p+2)
		switch {
		case u < 0:
			return j.refuse(classMalformed, p, "\\u needs four hexadecimal digits after it")
		case u == 0:
			j.nul = true
		case u >= 0xdc00 && u < 0xe000:
			return j.refuse(classEncoding, p, "the surrogate \\u%04x has none before it to make a pair", u)
		case u >= 0xd800 && u < 0xdc00:
			if p+7 >= len(data) || data[p+6] != '\\' || data[p+7] != 'u' {
				return j.refuse(classEncoding, p, "the surrogate \\u%04x has none after it to make a pair", u)
			}
			low := hex4(data, p+8)
			if low < 0 {
				return j.refuse(classMalformed, p+6, "\\u needs four hexadecimal digits after it")
			}
			if low < 0xdc00 || low >= 0xe000 {
				return j.refuse(classEncoding, p, "the surrogate \\u%04x has none after it to make a pair", u)
			}
			return p + 12
		}
		return p + 6
	}
	return j.refuse(classMalformed, p, "\\%c is not an escape of JSON", printable(data[p+1]))
}

// hex4 reads four hexadecimal digits; -1 if they are none.
func hex4(data []byte, p int) rune {
	if p+4 > len(data) {
		return -1
	}
	var u rune
	for _, c := range data[p : p+4] {
		switch {
		case c-'0' <= 9:
			u = u<<4 | rune(c-'0')
		case c|0x20-'a' <= 5:
			u = u<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return u
}

// unescape appends the content of a string, which has been checked.
func unescape(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			n := i + 1
			for n < len(s) && s[n] != '\\' {
				n++
			}
			dst = append(dst, s[i:n]...)
			i = n
			continue
		}
		c := s[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(s, i)
			i += 4
			if r >= 0xd800 && r < 0xdc00 {
				r = 0x10000 + (r-0xd800)<<10 + (hex4(s, i+2) - 0xdc00)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// checkDocument passes a whole document and reports whether a string of it
// holds U+0000.
func checkDocument(data []byte) (nul bool, err *refusal) {
	var j parser
	p := j.skip(data, skipSpace(data, 0), 0)
	if p >= 0 {
		j.end(data, p)
	}
	return j.nul, j.err
}

// end checks that nothing follows the document, which ended at p.
func (j *parser) end(data []byte, p int) {
	if p = skipSpace(data, p); p < len(data) {
		j.unexpected(data, p, "the end of the document")
	}
}
