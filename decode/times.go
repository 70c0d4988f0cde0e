package decode

import (
	"encoding/binary"
	"math"
	"time"
)

// The years 1 to 9999, which every target holds, in microseconds since 1970.
const (
	minMicros = -62135596800000000
	maxMicros = 253402300799999999

	microsPerDay = 24 * 60 * 60 * 1_000_000
)

// parseTimestamp reads an RFC 3339 time, to the microsecond, towards the past.
// A space or t may stand for T, and z for Z. Without a zone, if that is allowed,
// it is taken as UTC.
func parseTimestamp(b []byte, zoneless bool) (int64, fault) {
	if len(b) < len("2006-01-02T15:04:05") {
		return 0, wrongType
	}
	days, f := parseDays(b)
	if f == wrongType {
		return 0, wrongType
	}
	// XOR with the form leaves each digit's value, and 0 where the separators
	// are right. T, t and space are told apart below.
	w := binary.LittleEndian.Uint64(b[11:19]) ^ 0x30303a30303a3030 // "00:00:00"
	if (w+0x7676767676767676|w)&0x8080808080808080 != 0 || w&0x0000ff0000ff0000 != 0 ||
		(b[10] != 'T' && b[10] != ' ' && b[10] != 't') {
		return 0, wrongType
	}
	pairs := w*10 + w>>8 // every byte: 10 times itself plus the next
	hour, minute, second := pairs&0xff, pairs>>24&0xff, pairs>>48&0xff

	p := 19
	micros := int64(0)
	if p < len(b) && b[p] == '.' {
		p++
		start := p
		for p < len(b) && b[p]-'0' <= 9 {
			if p-start < 6 {
				micros = micros*10 + int64(b[p]-'0')
			}
			p++
		}
		n := p - start
		if n == 0 {
			return 0, wrongType
		}
		for ; n < 6; n++ {
			micros *= 10
		}
	}
	zone := int64(0) // minutes
	switch {
	case p+1 == len(b) && b[p]|0x20 == 'z':
	case p == len(b) && zoneless:
	case p+6 == len(b) && (b[p] == '+' || b[p] == '-') && b[p+3] == ':':
		h1, h0, m1, m0 := b[p+1]-'0', b[p+2]-'0', b[p+4]-'0', b[p+5]-'0'
		if h1 > 9 || h0 > 9 || m1 > 9 || m0 > 9 {
			return 0, wrongType
		}
		h, m := int64(h1)*10+int64(h0), int64(m1)*10+int64(m0)
		if h > 23 || m > 59 {
			return 0, outOfRange
		}
		if zone = h*60 + m; b[p] == '-' {
			zone = -zone
		}
	default:
		return 0, wrongType
	}
	if f != fine || hour > 23 || minute > 59 || second > 59 {
		return 0, outOfRange
	}
	seconds := (days*24+int64(hour))*3600 + (int64(minute)-zone)*60 + int64(second)
	return inMicros(seconds*1_000_000 + micros)
}

// parseDate reads 2006-01-02.
func parseDate(b []byte) (int64, fault) {
	if len(b) != len("2006-01-02") {
		return 0, wrongType
	}
	return parseDays(b)
}

var daysBefore = [...]int16{0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334}

var monthDays = [...]uint8{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// parseDays reads the date that b begins with, in days since 1970. b has 10
// bytes or more.
func parseDays(b []byte) (int64, fault) {
	w := binary.LittleEndian.Uint64(b[:8]) ^ 0x2d30302d30303030 // "0000-00-"
	d1, d0 := b[8]-'0', b[9]-'0'
	if (w+0x7676767676767676|w)&0x8080808080808080 != 0 || w&0xff0000ff00000000 != 0 || d1 > 9 || d0 > 9 {
		return 0, wrongType
	}
	pairs := w*10 + w>>8
	year := int64(pairs&0xff)*100 + int64(pairs>>16&0xff)
	month := pairs>>40&0xff - 1
	day := int64(d1)*10 + int64(d0)
	if year == 0 || month > 11 || day == 0 {
		return 0, outOfRange
	}
	leap := year%4 == 0 && (year%100 != 0 || year%400 == 0)
	if day > int64(monthDays[month]) && (month != 1 || day != 29 || !leap) {
		return 0, outOfRange
	}
	past := year - 1
	days := past*365 + past/4 - past/100 + past/400 + int64(daysBefore[month]) + day - 1
	if leap && month > 1 {
		days++
	}
	return days - 719162, fine // 1970-01-01
}

func inMicros(micros int64) (int64, fault) {
	if micros < minMicros || micros > maxMicros {
		return 0, outOfRange
	}
	return micros, fine
}

// floorDiv rounds towards the past. d is positive.
func floorDiv(n, d int64) int64 {
	q := n / d
	if n%d < 0 {
		q--
	}
	return q
}

// unixMicros turns a JSON number that counts units since 1970 into
// microseconds.
func unixMicros(b []byte, l layout) (int64, fault) {
	shift := 0
	switch l { //nolint:exhaustive // only the layouts that count reach this
	case layoutUnix:
		shift = 6
	case layoutUnixMs:
		shift = 3
	case layoutUnixNs:
		shift = -3
	}
	if v, end := plainInt(b, 0); end == len(b) {
		switch {
		case shift < 0:
			return inMicros(floorDiv(v, 1000))
		case shift == 6 && (v > math.MaxInt64/1_000_000 || v < math.MinInt64/1_000_000),
			shift == 3 && (v > math.MaxInt64/1000 || v < math.MinInt64/1000):
			return 0, outOfRange
		case shift == 6:
			return inMicros(v * 1_000_000)
		case shift == 3:
			return inMicros(v * 1000)
		}
		return inMicros(v)
	}
	d := decompose(b)
	if d.n == 0 {
		return 0, fine
	}
	d.exp += shift
	whole := d.n + d.exp
	if whole > 18 {
		return 0, outOfRange
	}
	micros := int64(d.head(max(whole, 0)))
	if d.neg {
		micros = -micros
		if d.exp < 0 { // something was cut off
			micros--
		}
	}
	return inMicros(micros)
}

// timeText reads a time that is written as text.
func (c *column) timeText(b []byte) (micros int64, f fault) {
	switch c.layout { //nolint:exhaustive // the rest counts units since 1970
	case layoutDefault, layoutRFC3339:
		return parseTimestamp(b, c.zoneless)
	case layoutGo:
		t, err := time.Parse(c.goLayout, viewString(b))
		if err != nil {
			return 0, wrongType
		}
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			return 0, outOfRange
		}
		return t.Unix()*1_000_000 + int64(t.Nanosecond()/1000), fine
	}
	if !isNumber(b) {
		return 0, wrongType
	}
	return unixMicros(b, c.layout)
}

// dateText reads a date that is written as text.
func (c *column) dateText(b []byte) (days int64, f fault) {
	if c.layout == layoutDefault {
		return parseDate(b)
	}
	micros, f := c.timeText(b)
	return floorDiv(micros, microsPerDay), f
}

// isNumber reports whether the whole of b is a JSON number.
func isNumber(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	end, _, ok := numberEnd(b, 0)
	return ok && end == len(b)
}
