// Package connect holds what all connectors share: how a connector describes
// its configuration (Spec, read off the tags of its configuration struct), the
// value types that need care there (Secret, Bytes), and the Registry, an
// explicit value that a program builds. Nothing registers itself.
//
// A connector lives in a package below this one. It imports flow and its client
// library, never another connector.
//
// # Configuration structs
//
// One struct per connector; its exported fields carry tags, from which YAML
// decoding, lint, the JSON Schema and the reference pages are all made:
//
//	Brokers []string      `yaml:"brokers" doc:"Addresses to start from." required:"true"`
//	Start   string        `yaml:"start" default:"earliest" enum:"earliest,latest" doc:"..."`
//	Timeout time.Duration `yaml:"timeout" default:"30s" doc:"..."`
//	Buffer  connect.Bytes `yaml:"buffer" default:"4MiB" doc:"..."`
//	TLS     *TLS          `yaml:"tls" doc:"..."`
//	Columns []Column      `yaml:"columns" keyed:"Name" short:"Type" doc:"..."`
//
// keyed says that the slice of structs is written as a YAML mapping, in order,
// whose keys become the named field; short says that a scalar in place of the
// mapping below a key sets that field alone (device_id: text). secret:"true"
// marks a string that may hold a secret in part (a URL). required:"brokers" on an
// embedded struct makes that field of it required here.
//
// Field types: string, bool (false is the default), int, int32, int64, float64,
// time.Duration, Bytes, Secret, slices and string-keyed maps of these, structs
// and pointers to structs (absent means nil). The zero value of a field means
// its default; Defaults fills it in, for YAML and for Go programs alike. A
// method Validate() error on the struct (pointer receiver) refuses impossible
// combinations with a *FieldError.
package connect

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Secret is a string that no log, error, page or dump shows.
type Secret string

// Reveal returns the secret itself, for the client library.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size in bytes. Text forms: 1048576, 512KiB, 4MiB, 1GiB, 10MB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"B", 1},
}

// ParseBytes reads the text form of Bytes.
func ParseBytes(s string) (Bytes, error) {
	num, factor := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(num, u.suffix); ok {
			num, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf("%q is not a size; write a whole number of bytes, or one with a unit, like 512KiB or 4MiB", s)
	}
	return Bytes(n * factor), nil
}

func (b Bytes) String() string {
	for _, u := range []int{2, 1, 0} {
		if f := byteUnits[u].factor; b != 0 && int64(b)%f == 0 {
			return strconv.FormatInt(int64(b)/f, 10) + byteUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// FieldError is an error about one field of a configuration struct. Path is
// the field's YAML path below the struct ("tls.cert_file"), which lets the
// caller point at its line.
type FieldError struct {
	Path string
	Err  error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// Errorf makes a FieldError.
func Errorf(path, format string, args ...any) *FieldError {
	return &FieldError{Path: path, Err: fmt.Errorf(format, args...)}
}
