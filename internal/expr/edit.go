package expr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/tidwall/sjson"
)

// whole is the path of the value itself.
const whole = "."

// Edit changes the value of a record. It may be used by several goroutines.
type Edit struct{ assignments []assignment }

type assignment struct {
	src, path string
	program   cel.Program
}

// NewEdit compiles assignments, which are applied in order, each to what the one before has made:
//
//	amount=int(value.amount)        a field of the JSON value; made if there is none
//	items.0.price=9.5               below others: names and indexes; \. for a dot in a name, :0 for the name 0
//	tags.-1='late'                  added to an array
//	old=optional.none()             removed
//	.=value.replace("'", '"')       the whole value: text is taken as it is, else JSON
func NewEdit(assignments []string) (*Edit, error) {
	e := &Edit{}
	for _, src := range assignments {
		path, expression, ok := strings.Cut(src, "=")
		path = strings.TrimSpace(path)
		if !ok || path == "" {
			return nil, fmt.Errorf("the edit %q: want path=expression, as in amount=int(value.amount)", src)
		}
		if path != whole && strings.ContainsAny(path, "*?#|@ \t") {
			return nil, fmt.Errorf("the edit %q: the path %q has a character that paths cannot have: names and indexes are separated by dots", src, path)
		}
		if err := checkPath(path); err != nil {
			return nil, fmt.Errorf("the edit %q: %w", src, err)
		}
		program, _, err := compile(strings.TrimSpace(expression))
		if err != nil {
			return nil, fmt.Errorf("the edit %q: %w", src, err)
		}
		e.assignments = append(e.assignments, assignment{src, path, program})
	}
	return e, nil
}

// largestIndex bounds the indexes of a path: an array is filled up to it.
const largestIndex = 9_999

func checkPath(path string) error {
	if path == whole {
		return nil
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(path, `\.`, "_"), ".") {
		if part == "" {
			return fmt.Errorf("the path %q has an empty name: write %s", path, strings.Join(strings.FieldsFunc(path, func(r rune) bool { return r == '.' }), "."))
		}
		// A name of digits is one in an object: but where there is none yet, it makes an array.
		if n, err := strconv.ParseUint(part, 10, 64); errors.Is(err, strconv.ErrRange) || err == nil && n > largestIndex {
			return fmt.Errorf("the path %q has the index %s, and the largest is %d: of an object whose names are numbers, write :%s", path, part, largestIndex, part)
		}
	}
	return nil
}

// Apply returns the record's value as the assignments make it; e.Value itself is left as it is.
// The bytes that no assignment is about stay as they are.
func (ed *Edit) Apply(e *Env) ([]byte, error) {
	now := *e
	for i := range ed.assignments {
		a := &ed.assignments[i]
		value, err := a.apply(&now)
		if err != nil {
			return nil, fmt.Errorf("the edit %q: %w", a.src, err)
		}
		now.Value, now.value = value, nil
	}
	return now.Value, nil
}

func (a *assignment) apply(e *Env) ([]byte, error) {
	if a.path != whole {
		switch v := bytes.TrimLeft(e.Value, " \t\r\n"); {
		case !json.Valid(v):
			return nil, errors.New("the value is no JSON; the path . replaces all of it")
		case v[0] != '{' && v[0] != '[':
			return nil, errors.New("the value is neither an object nor an array; the path . replaces all of it")
		}
	}
	out, _, err := a.program.Eval(e)
	if err != nil {
		return nil, err
	}
	if o, ok := out.(*types.Optional); ok {
		if !o.HasValue() {
			if a.path == whole {
				return nil, nil // a tombstone
			}
			return sjson.DeleteBytes(e.Value, a.path)
		}
		out = o.GetValue()
	}
	if s, ok := out.(types.String); ok && a.path == whole {
		return []byte(s), nil
	}
	raw, err := jsonOf(out)
	if err != nil {
		return nil, err
	}
	if a.path == whole {
		return raw, nil
	}
	return sjson.SetRawBytes(e.Value, a.path, raw)
}

// jsonOf is the JSON text of a result.
func jsonOf(v ref.Val) ([]byte, error) {
	p, err := plain(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// plain is a result as encoding/json takes it. CEL's own conversion would make
// texts of whole numbers beyond 2^53.
func plain(v ref.Val) (any, error) {
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool, types.Int, types.Uint, types.Double, types.String:
		return v.Value(), nil
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.String(), nil
	case types.Bytes:
		return []byte(v), nil // base64
	case traits.Mapper:
		m := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			name, ok := k.(types.String)
			if !ok {
				return nil, fmt.Errorf("a JSON object has names that are texts, not %s", k.Type().TypeName())
			}
			p, err := plain(v.Get(k))
			if err != nil {
				return nil, err
			}
			m[string(name)] = p
		}
		return m, nil
	case traits.Lister:
		l := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			p, err := plain(it.Next())
			if err != nil {
				return nil, err
			}
			l = append(l, p)
		}
		return l, nil
	}
	return nil, fmt.Errorf("a %s cannot be written as JSON", v.Type().TypeName())
}
