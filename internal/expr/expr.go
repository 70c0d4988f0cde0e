// Package expr evaluates what a person says about a record on the command line
// or in an API call: filters, which keep some records, and edits, which change
// the JSON value of one. The language is CEL (https://cel.dev).
//
// What belongs here: the variables of a record, and the two kinds of
// expression. What does not: anything that runs for every record of a flow; an
// expression costs microseconds.
//
// # Variables
//
//	topic      string     of the record
//	partition  int
//	offset     int
//	time       timestamp  of the record
//	key        string     empty where there is none
//	value      dyn        parsed JSON; a string where it is no JSON; null for a tombstone
//	headers    map        of strings; of a header that repeats, the last
//	class      string     of a dead letter, with column and message; else empty
//	column     string
//	message    string
//
// Whole JSON numbers are int (uint, double where too large), others double. Besides CEL's standard functions
// there are its extensions for strings (split, replace, trim, lowerAscii, …), math and optional values.
package expr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/penstockdev/penstock/flow"
)

// costLimit bounds one evaluation, in CEL's units: about one per operation, and a
// tenth per character that is compared or searched. It is a fraction of a second.
const costLimit = 5_000_000

// variables are what messages list.
const variables = "topic, partition, offset, time, key, value, headers, class, column, message"

// Env is a record as expressions see it. Its slices are only read. An Env serves one
// record and one goroutine: make a new one, or assign all of it.
type Env struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time
	Key       []byte
	Value     []byte
	Headers   []flow.Header
	// Class, Column and Message are those of a dead letter.
	Class, Column, Message string

	value ref.Val // Value, once something has asked for it
}

// Record returns the Env of a record.
func Record(p flow.Partition, r *flow.Record) Env {
	return Env{
		Topic: p.Topic, Partition: p.ID, Offset: r.Offset, Time: time.UnixMicro(r.Timestamp).UTC(),
		Key: r.Key, Value: r.Value, Headers: r.Headers,
	}
}

// ResolveName makes Env an activation of CEL.
func (e *Env) ResolveName(name string) (any, bool) {
	switch name {
	case "topic":
		return e.Topic, true
	case "partition":
		return int64(e.Partition), true
	case "offset":
		return e.Offset, true
	case "time":
		return e.Time, true
	case "key":
		return string(e.Key), true
	case "value":
		if e.value == nil {
			e.value = types.DefaultTypeAdapter.NativeToValue(parse(e.Value))
		}
		return e.value, true
	case "headers":
		m := make(map[string]string, len(e.Headers))
		for i := range e.Headers {
			m[e.Headers[i].Key] = string(e.Headers[i].Value)
		}
		return m, true
	case "class":
		return e.Class, true
	case "column":
		return e.Column, true
	case "message":
		return e.Message, true
	}
	return nil, false
}

// Parent makes Env an activation of CEL.
func (e *Env) Parent() cel.Activation { return nil }

// parse is the value of the variable value.
func parse(b []byte) any {
	if b == nil {
		return types.NullValue
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return string(b)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return string(b)
	}
	return numbers(v)
}

// numbers replaces the numbers in v.
func numbers(v any) any {
	switch v := v.(type) {
	case nil:
		return types.NullValue
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		n, _ := strconv.ParseFloat(v.String(), 64) // ±Inf where it is too large
		return n
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("topic", cel.StringType),
		cel.Variable("partition", cel.IntType),
		cel.Variable("offset", cel.IntType),
		cel.Variable("time", cel.TimestampType),
		cel.Variable("key", cel.StringType),
		cel.Variable("value", cel.DynType),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("class", cel.StringType),
		cel.Variable("column", cel.StringType),
		cel.Variable("message", cel.StringType),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Math(),
	)
})

// compile makes a program of an expression.
func compile(src string) (cel.Program, *cel.Type, error) {
	env, err := environment()
	if err != nil {
		return nil, nil, fmt.Errorf("the environment of expressions: %w", err)
	}
	ast, issues := env.Compile(src)
	if err := issues.Err(); err != nil {
		hint := ""
		if strings.Contains(err.Error(), "undeclared reference") {
			hint = "\nthe variables are " + variables
		}
		return nil, nil, fmt.Errorf("the expression is not valid:\n%s%s", strings.ReplaceAll(err.Error(), "<input>:", ""), hint)
	}
	program, err := env.Program(ast, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, nil, fmt.Errorf("the expression %q: %w", src, err)
	}
	return program, ast.OutputType(), nil
}

// Filter says of a record whether it is meant. It may be used by several goroutines.
type Filter struct {
	src      string
	program  cel.Program
	failures atomic.Int64
	first    atomic.Pointer[error]
}

// NewFilter compiles an expression that is true or false:
//
//	class == 'type' && value.amount > 100 && time > timestamp('2026-01-31T12:00:00Z')
func NewFilter(src string) (*Filter, error) {
	program, out, err := compile(src)
	if err != nil {
		return nil, err
	}
	if !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the expression %q gives a %s, not true or false: compare it with something, as in %s == …", src, out, src)
	}
	return &Filter{src: src, program: program}, nil
}

// String is the expression.
func (f *Filter) String() string { return f.src }

// Match reports whether the record is meant. An expression that cannot be evaluated for this record (there is
// no such field, a text is compared with a number, it costs too much) does not match:
// the error says why, and is counted.
func (f *Filter) Match(e *Env) (bool, error) {
	out, _, err := f.program.Eval(e)
	if err == nil {
		if b, ok := out.(types.Bool); ok {
			return bool(b), nil
		}
		err = fmt.Errorf("the result is a %s, not true or false", out.Type().TypeName())
	}
	err = fmt.Errorf("the expression %q on %s[%d], offset %d: %w", f.src, e.Topic, e.Partition, e.Offset, err)
	f.failures.Add(1)
	f.first.CompareAndSwap(nil, &err)
	return false, err
}

// Failures returns how many records did not match because the expression could
// not be evaluated, and the first error.
func (f *Filter) Failures() (int64, error) {
	if err := f.first.Load(); err != nil {
		return f.failures.Load(), *err
	}
	return 0, nil
}
