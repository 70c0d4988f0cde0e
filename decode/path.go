package decode

import (
	"errors"
	"fmt"
	"strings"
)

// rootPath is the path of the whole document.
const rootPath = "$"

// parsePath splits a dotted path into keys. A key in double quotes may hold
// dots; in it, a backslash stands before a quote or a backslash. The path $
// has no keys; as the first of several it must be quoted.
func parsePath(path string) ([]string, error) {
	if path == rootPath {
		return nil, nil
	}
	if rest, ok := strings.CutPrefix(path, rootPath+"."); ok {
		return nil, fmt.Errorf("path %s: paths do not begin with $, which alone is the whole document; write %s, or \"$\" in double quotes if it is a key", path, rest)
	}
	var keys []string
	rest := path
	for {
		var key string
		if strings.HasPrefix(rest, `"`) {
			var err error
			if key, rest, err = quotedKey(rest); err != nil {
				return nil, fmt.Errorf("path %s: %w", path, err)
			}
		} else {
			end := strings.IndexByte(rest, '.')
			if end < 0 {
				end = len(rest)
			}
			key, rest = rest[:end], rest[end:]
			if key == "" {
				return nil, fmt.Errorf("path %s: an empty key; write it as \"\" if it is meant", path)
			}
			if strings.ContainsAny(key, `"[]`) {
				return nil, fmt.Errorf(`path %s: write array indices as a.0.b, and put a key that holds quotes or brackets in double quotes`, path)
			}
		}
		keys = append(keys, key)
		if rest == "" {
			return keys, nil
		}
		if rest[0] != '.' {
			return nil, fmt.Errorf("path %s: a dot is missing after the quoted key %q", path, key)
		}
		rest = rest[1:]
	}
}

func quotedKey(s string) (key, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i < len(s) && (s[i] == '"' || s[i] == '\\') {
				b.WriteByte(s[i])
				continue
			}
			return "", "", errors.New(`in a quoted key a backslash stands before " or \ only`)
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("the closing quote of a key is missing")
}

// index returns the array index that a key stands for, -1 if it is none.
func index(key string) int {
	if key == "" || len(key) > 9 || (key[0] == '0' && len(key) > 1) {
		return -1
	}
	n := 0
	for i := range len(key) {
		d := key[i] - '0'
		if d > 9 {
			return -1
		}
		n = n*10 + int(d)
	}
	return n
}
