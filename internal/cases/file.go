// Package cases runs the unit tests of a flow: records in, rows and dead letters out,
// compared with what a file says. It connects to nothing. What belongs here: the form of such a
// file, and the comparison. What becomes of a record is package dryrun's.
package cases

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// File is a file of cases for one flow.
type File struct {
	// Flow is the path of the flow file, from the folder of this file.
	Flow string `yaml:"flow"`
	// Env are environment variables that the flow file needs, beside those that are set.
	Env   map[string]string `yaml:"env"`
	Cases []Case            `yaml:"cases"`
	path  string
	text  []byte
}

// Case is a test: what becomes of some records.
type Case struct {
	Name    string   `yaml:"name"`
	Records []Record `yaml:"records"`
	// Rows are what is written, in the order of the records.
	Rows        []Row        `yaml:"rows"`
	DeadLetters []DeadLetter `yaml:"dead_letters"`
	line        int
}

// Record is one record. Its value is one of Value, ValueText, ValueBase64 and ValueFile, or
// it has none: a tombstone.
type Record struct {
	// Value becomes JSON.
	Value any `yaml:"value"`
	// ValueText is the value byte by byte, which need not be JSON.
	ValueText   *string `yaml:"value_text"`
	ValueBase64 *string `yaml:"value_base64"`
	// ValueFile is a path from the folder of this file.
	ValueFile string `yaml:"value_file"`

	Key       *string           `yaml:"key"`
	Headers   map[string]string `yaml:"headers"`
	Topic     string            `yaml:"topic"`
	Partition int32             `yaml:"partition"`
	// Offset is by default that of the record before, plus one.
	Offset *int64    `yaml:"offset"`
	Time   time.Time `yaml:"time"`
}

// Row is a row: columns by name, RouteKey and TombstoneKey. Columns that are
// not named are expected to be null. A string is a record of a flow that does not decode.
type Row struct {
	Columns map[string]any
	Record  *string
}

// Names in an expected row that are no columns.
const (
	// RouteKey names the route that the record takes; it need not be said.
	RouteKey = "(route)"
	// TombstoneKey says whether the record is a tombstone, which deletes the row of its key; default: no.
	TombstoneKey = "(tombstone)"
)

// UnmarshalYAML takes a mapping of columns, or a text.
func (r *Row) UnmarshalYAML(unmarshal func(any) error) error {
	if err := unmarshal(&r.Columns); err == nil {
		return nil
	}
	r.Columns = nil
	return unmarshal(&r.Record)
}

// DeadLetter is a record that is not written, and why. What is not said is not compared.
type DeadLetter struct {
	// Record is the number of the record in the case, from 1.
	Record int    `yaml:"record"`
	Class  string `yaml:"class"`
	Column string `yaml:"column"`
	Stage  string `yaml:"stage"`
	// Message is a part of the message.
	Message string `yaml:"message"`
}

// maxFile bounds a file of cases.
const maxFile = 16 << 20

// Read reads a file of cases. Errors name file, line and column.
func Read(path string) (*File, error) {
	f, err := os.Open(path) //nolint:gosec // the user's own file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB", path, maxFile>>20)
	}
	file := &File{}
	err = yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(file)
	file.path, file.text = path, text
	switch {
	case errors.Is(err, io.EOF): // nothing, or comments alone
	case err != nil:
		return nil, file.located(err)
	}
	file.locate()
	return file, file.check()
}

// located says where the error is, with the line.
func (f *File) located(err error) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	p := at.GetToken().Position
	return fmt.Errorf("%s:%d:%d: %s\n%s\n    %s", f.path, p.Line, p.Column, at.GetMessage(), frame(f.text, p.Line, p.Column), f.hint())
}

// form is where the form of a file of cases can be looked up.
const form = "penstock test --help shows what a file of cases holds"

// hint is what to do about a file that is no file of cases.
func (f *File) hint() string {
	var top map[string]any
	if yaml.Unmarshal(f.text, &top) == nil && top["source"] != nil {
		return "this is a flow file; its cases are in one of their own, *.test.yaml: " + form
	}
	return form
}

// frame is a line with a caret.
func frame(text []byte, line, column int) string {
	lines := bytes.Split(text, []byte("\n"))
	if line < 1 || line > len(lines) {
		return ""
	}
	return fmt.Sprintf("  %d | %s\n  %*s | %*s", line, lines[line-1], len(fmt.Sprint(line)), "", max(column, 1), "^")
}

// locate finds the lines of the cases, for messages.
func (f *File) locate() {
	for i := range f.Cases {
		p, err := yaml.PathString(fmt.Sprintf("$.cases[%d]", i))
		if err != nil {
			continue
		}
		var node ast.Node
		if node, err = p.ReadNode(bytes.NewReader(f.text)); err == nil {
			f.Cases[i].line = node.GetToken().Position.Line
		}
	}
}

func (f *File) check() error {
	if f.Flow == "" {
		return fmt.Errorf("%s:1:1: flow: says which flow file is tested, like flow: orders.yaml; %s", f.path, form)
	}
	if len(f.Cases) == 0 {
		return fmt.Errorf("%s:1:1: cases: there are none; %s", f.path, form)
	}
	for i := range f.Cases {
		c := &f.Cases[i]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: case %q: %s", f.path, c.line, c.Name, fmt.Sprintf(format, args...))
		}
		if len(c.Records) == 0 {
			return fail("there are no records; %s", form)
		}
		for k, d := range c.DeadLetters {
			if d.Record < 1 || d.Record > len(c.Records) {
				return fail("dead_letters[%d]: record is the number of one of the %d records, from 1; got %d", k, len(c.Records), d.Record)
			}
		}
		for k := range c.Records {
			if n := c.Records[k].values(); n > 1 {
				return fail("records[%d] has %d values; want one of value, value_text, value_base64 and value_file", k, n)
			}
		}
	}
	return nil
}

func (r *Record) values() int {
	n := 0
	for _, is := range []bool{r.Value != nil, r.ValueText != nil, r.ValueBase64 != nil, r.ValueFile != ""} {
		if is {
			n++
		}
	}
	return n
}

// bytes are the record's value; nil for a tombstone.
func (r *Record) bytes(dir string) ([]byte, error) {
	switch {
	case r.Value != nil:
		v, err := json.Marshal(r.Value)
		if err != nil {
			return nil, fmt.Errorf("value: %w", err)
		}
		return v, nil
	case r.ValueText != nil:
		return []byte(*r.ValueText), nil
	case r.ValueBase64 != nil:
		v, err := base64.StdEncoding.DecodeString(*r.ValueBase64)
		if err != nil {
			return nil, fmt.Errorf("value_base64: %w", err)
		}
		return v, nil
	case r.ValueFile != "":
		path := r.ValueFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		v, err := os.ReadFile(path) //nolint:gosec // the user's own file
		if err != nil {
			return nil, fmt.Errorf("value_file, from the folder of this file: %w", err)
		}
		return v, nil
	}
	return nil, nil
}
