package decode

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
)

// setText converts text into row i of col: the content of a JSON string in
// any column but text and json, or a key, header or default. b may be kept as a
// view. Text must have been checked (see checkText).
func (c *column) setText(col *flow.Column, i int, b []byte, scratch *[]byte) fault {
	switch c.op {
	case opText, opJSON:
		col.Bytes[i] = b
	case opInt, opFloat, opDecimal:
		if !isNumber(b) {
			return wrongType
		}
		return c.setNumber(col, i, b)
	case opBool:
		switch string(b) {
		case "true":
			col.Ints[i] = 1
		case "false":
			col.Ints[i] = 0
		default:
			return wrongType
		}
	case opTime:
		v, f := c.timeText(b)
		col.Ints[i] = v
		return f
	case opDate:
		v, f := c.dateText(b)
		col.Ints[i] = v
		return f
	case opUUID:
		if !isUUID(b) {
			return wrongType
		}
		col.Bytes[i] = b
	case opBytes:
		return c.setBytes(col, i, b, scratch)
	}
	return fine
}

// setNumber converts the JSON number b.
func (c *column) setNumber(col *flow.Column, i int, b []byte) fault {
	switch c.op { //nolint:exhaustive // the others are no numbers
	case opInt:
		v, f := exactInt(b)
		if f == fine && (v < c.min || v > c.max) {
			f = outOfRange
		}
		col.Ints[i] = v
		return f
	case opFloat:
		v, f := parseFloat(b)
		if f == fine && c.float4 {
			v, f = toFloat4(v, b)
		}
		col.Floats[i] = v
		return f
	case opDecimal:
		col.Bytes[i] = b
		return c.fitsDecimal(b, true)
	}
	return wrongType
}

// setBytes decodes the text form of bytea.
func (c *column) setBytes(col *flow.Column, i int, b []byte, scratch *[]byte) fault {
	start := len(*scratch)
	buf, err := *scratch, error(nil)
	switch c.layout {
	case layoutHex:
		if len(b) >= 2 && b[0] == '\\' && b[1] == 'x' { // as PostgreSQL prints it
			b = b[2:]
		}
		buf, err = hex.AppendDecode(buf, b)
	case layoutBase64URL:
		buf, err = decodeBase64(base64.RawURLEncoding, buf, b)
	default:
		buf, err = decodeBase64(base64.RawStdEncoding, buf, b)
	}
	if err != nil {
		return wrongType
	}
	*scratch = buf
	col.Bytes[i] = buf[start:len(buf):len(buf)]
	return fine
}

// decodeBase64 accepts text with its padding, and without.
func decodeBase64(raw *base64.Encoding, dst, b []byte) ([]byte, error) {
	if len(b)%4 == 0 {
		for range 2 {
			if n := len(b); n > 0 && b[n-1] == '=' {
				b = b[:n-1]
			}
		}
	}
	if bytes.ContainsAny(b, "\r\n") { // which the decoder would skip
		return dst, base64.CorruptInputError(0)
	}
	return raw.AppendDecode(dst, b)
}

// isUUID reports whether b is a UUID in its canonical form, in either case.
func isUUID(b []byte) bool {
	if len(b) != 36 {
		return false
	}
	for i, c := range b {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if c-'0' > 9 && c|0x20-'a' > 5 {
				return false
			}
		}
	}
	return true
}

// checkText says whether b can be text in a database.
func checkText(b []byte) fault {
	if !utf8.Valid(b) {
		return invalidUTF8
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nulCharacter
	}
	return fine
}
