package config

import (
	"strconv"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// meantText is what was probably meant by a text that the type refuses; empty where
// nobody can tell.
func meantText(t *connect.Type, f *connect.Field, text string) string {
	if f.Secret {
		return ""
	}
	word := strings.ToLower(strings.ReplaceAll(text, " ", ""))
	switch t.Kind {
	case connect.KindBool:
		switch word {
		case "yes", "on", "y", "1", "true":
			return "true"
		case "no", "off", "n", "0", "false":
			return "false"
		}
	case connect.KindDuration:
		return meantDuration(word)
	case connect.KindBytes:
		return meantBytes(word)
	case connect.KindFloat:
		if percent, ok := strings.CutSuffix(word, "%"); ok {
			if x, err := strconv.ParseFloat(percent, 64); err == nil {
				return strconv.FormatFloat(x/100, 'g', 6, 64)
			}
		}
	case connect.KindInt:
		digits := strings.NewReplacer(",", "", "_", "", "'", "").Replace(word)
		if digits != word && digits != "" && strings.Trim(digits, "0123456789") == "" {
			return digits
		}
	default: // whoever writes text means it
	}
	return ""
}

// durationUnits are how people write units, by what is understood.
var durationUnits = []struct{ unit, names string }{
	{"ms", "ms msec msecs millis millisecond milliseconds"},
	{"s", "s sec secs second seconds"},
	{"m", "m min mins minute minutes"},
	{"h", "h hr hrs hour hours"},
}

func meantDuration(word string) string {
	number := strings.TrimRight(word, "abcdefghijklmnopqrstuvwxyz")
	unit := word[len(number):]
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return ""
	}
	if unit == "" {
		unit = "s"
	}
	for _, u := range durationUnits {
		for name := range strings.FieldsSeq(u.names) {
			if _, err := time.ParseDuration(number + u.unit); name == unit && err == nil {
				return number + u.unit
			}
		}
	}
	return ""
}

func meantBytes(word string) string {
	number := strings.TrimRight(word, "abcdefghijklmnopqrstuvwxyz")
	unit := strings.TrimSuffix(word[len(number):], "s")
	names := map[string]string{
		"k": "KiB", "kb": "KB", "kib": "KiB", "kilobyte": "KB", "m": "MiB", "mb": "MB", "mib": "MiB", "megabyte": "MB", "mebibyte": "MiB",
		"g": "GiB", "gb": "GB", "gib": "GiB", "gigabyte": "GB", "gibibyte": "GiB", "byte": "B",
	}
	meant := number + names[unit]
	if _, err := connect.ParseBytes(meant); names[unit] == "" || err != nil {
		return ""
	}
	return meant
}
