package config

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// maxSecretFile bounds what ${file:} reads.
const maxSecretFile = 64 << 10

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reference is a whole value that is one variable: harmless to show.
var reference = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*|file:[^}]*)\}$`)

// interpolator replaces ${...} in the scalars of a file.
type interpolator struct {
	lookup func(string) (string, bool)
	// secrets are the contents of files.
	secrets []string
}

// expand returns the text with its references replaced. The error names no
// values.
func (p *interpolator) expand(s string) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			b.WriteString(s)
			return b.String(), nil
		}
		b.WriteString(s[:i])
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			s = s[i+2:]
		case '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return "", fmt.Errorf("${ without its }; write $$ for a dollar sign before a brace")
			}
			v, err := p.value(s[i+2 : i+end])
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			s = s[i+end+1:]
		default:
			b.WriteByte('$')
			s = s[i+1:]
		}
	}
}

func (p *interpolator) value(ref string) (string, error) {
	if path, ok := strings.CutPrefix(ref, "file:"); ok {
		return p.file(path)
	}
	name, fallback, hasFallback := strings.Cut(ref, ":-")
	if !variableName.MatchString(name) {
		return "", fmt.Errorf("${...} holds no variable name; write ${NAME}, ${NAME:-default} or ${file:/path}")
	}
	v, ok := p.lookup(name)
	switch {
	case hasFallback && v == "":
		return fallback, nil
	case !ok:
		return "", fmt.Errorf("the environment variable %s is not set; set it, or give a default: ${%s:-...}", name, name)
	}
	return v, nil
}

func (p *interpolator) file(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the file of ${file:...} cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("the file of ${file:...} cannot be read: %w", err)
	}
	if len(data) > maxSecretFile {
		return "", fmt.Errorf("the file %s is larger than 64 KiB, too large for a value", path)
	}
	v := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	p.secrets = append(p.secrets, v)
	return v, nil
}
