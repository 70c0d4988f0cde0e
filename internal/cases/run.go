package cases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/dryrun"
)

// Result is how a case has ended.
type Result struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Case string `json:"case"`
	Pass bool   `json:"pass"`
	// Differences are empty if it has passed.
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is one thing that is not as expected.
type Difference struct {
	// What is compared: "row 1, column amount".
	What string `json:"what"`
	Want string `json:"want"`
	Got  string `json:"got"`
}

// Run runs the cases of a file. The error is about the file or the flow file, not about a
// case that fails.
func (f *File) Run(ctx context.Context, o config.Options) ([]Result, error) {
	dir := filepath.Dir(f.path)
	path := f.Flow
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Env)) {
		o.Environ = append(o.Environ, name+"="+f.Env[name])
	}
	file, err := config.LoadFile(path, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: flow: there is no file %s; %q is looked for from the folder of the file of cases", f.path, path, f.Flow)
	} else if err != nil {
		return nil, err
	}
	cfg, err := file.Build(nil, nil)
	if err != nil {
		return nil, err
	}
	defer cfg.Source.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was never opened
	defer cfg.Sink.Close(context.WithoutCancel(ctx))   //nolint:errcheck // it was never opened
	var results []Result
	for i := range f.Cases {
		c := &f.Cases[i]
		// A plan of its own: what a transform remembers does not pass from case to case.
		plan, err := dryrun.NewPlan(cfg, file.Writings())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		rows, err := c.process(ctx, &plan, dir)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: case %q: %w", f.path, c.line, c.Name, err)
		}
		r := Result{File: f.path, Line: c.line, Case: c.Name, Differences: c.compare(rows)}
		r.Pass = len(r.Differences) == 0
		results = append(results, r)
	}
	return results, nil
}

// process returns what became of each record.
func (c *Case) process(ctx context.Context, plan *dryrun.Plan, dir string) ([]dryrun.Row, error) {
	next := map[flow.Partition]int64{}
	var out []dryrun.Row
	for i := range c.Records {
		r := &c.Records[i]
		value, err := r.bytes(dir)
		if err != nil {
			return nil, fmt.Errorf("records[%d]: %w", i, err)
		}
		p := flow.Partition{Topic: r.Topic, ID: r.Partition}
		rec := flow.Record{Value: value, Offset: next[p]}
		if r.Offset != nil {
			rec.Offset = *r.Offset
		}
		next[p] = rec.Offset + 1
		if !r.Time.IsZero() {
			rec.Timestamp = r.Time.UnixMicro()
		}
		if r.Key != nil {
			rec.Key = []byte(*r.Key)
		}
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			rec.Headers = append(rec.Headers, flow.Header{Key: name, Value: []byte(r.Headers[name])})
		}
		rows, err := plan.Process(ctx, flow.Fetch{Partition: p, Records: []flow.Record{rec}, Next: rec.Offset + 1, LeaderEpoch: -1, End: rec.Offset + 1})
		if err != nil {
			return nil, fmt.Errorf("records[%d]: %w", i, err)
		}
		out = append(out, rows...)
	}
	return out, nil
}

func (c *Case) compare(got []dryrun.Row) []Difference {
	var diffs []Difference
	differ := func(what, want, got string) { diffs = append(diffs, Difference{what, want, got}) }
	var rows []*dryrun.Row
	var numbers []int // of the rows' records
	for i := range got {
		var want *DeadLetter
		for k := range c.DeadLetters {
			if c.DeadLetters[k].Record == i+1 {
				want = &c.DeadLetters[k]
			}
		}
		switch dead := got[i].Dead; {
		case dead == nil && want == nil:
			rows, numbers = append(rows, &got[i]), append(numbers, i+1)
		case dead == nil:
			differ(fmt.Sprintf("record %d", i+1), "a dead letter", "the row "+rowText(&got[i]))
		case want == nil:
			differ(fmt.Sprintf("record %d", i+1), "a row", fmt.Sprintf("a dead letter of class %s: %s", dead.Class, dead.Message))
		default:
			want.compare(i+1, dead, differ)
		}
	}
	for i := range max(len(rows), len(c.Rows)) {
		switch {
		case i >= len(c.Rows):
			differ(fmt.Sprintf("row %d", i+1), "no more rows", fmt.Sprintf("%s (record %d)", rowText(rows[i]), numbers[i]))
		case i >= len(rows):
			differ(fmt.Sprintf("row %d", i+1), c.Rows[i].text(), "no more rows")
		default:
			c.Rows[i].compare(fmt.Sprintf("row %d (record %d)", i+1, numbers[i]), rows[i], differ)
		}
	}
	return diffs
}

func (d *DeadLetter) compare(number int, got *dryrun.Dead, differ func(what, want, got string)) {
	for _, f := range []struct{ name, want, got string }{{"class", d.Class, got.Class}, {"column", d.Column, got.Column}, {"stage", d.Stage, string(got.Stage)}} {
		if f.want != "" && f.want != f.got {
			differ(fmt.Sprintf("dead letter of record %d, %s", number, f.name), f.want, f.got)
		}
	}
	if !strings.Contains(got.Message, d.Message) {
		differ(fmt.Sprintf("dead letter of record %d, message", number), "… "+d.Message+" …", got.Message)
	}
}

func (r *Row) text() string {
	if r.Record != nil {
		return *r.Record
	}
	return jsonText(r.Columns)
}

func (r *Row) compare(what string, got *dryrun.Row, differ func(what, want, got string)) {
	if got.Columns == nil {
		if r.Record == nil || *r.Record != string(got.Record) {
			differ(what, r.text(), string(got.Record))
		}
		return
	}
	if r.Record != nil {
		differ(what, *r.Record, rowText(got))
		return
	}
	if route, ok := r.Columns[RouteKey]; ok && route != got.Route {
		differ(what+", route", fmt.Sprint(route), got.Route)
	}
	if want, _ := r.Columns[TombstoneKey].(bool); want != got.Tombstone {
		differ(what+", tombstone", fmt.Sprint(want), fmt.Sprint(got.Tombstone))
	}
	seen := map[string]bool{RouteKey: true, TombstoneKey: true}
	for _, v := range got.Columns {
		seen[v.Name] = true
		if want := jsonText(r.Columns[v.Name]); !sameJSON(want, string(v.JSON)) {
			differ(what+", column "+v.Name, want, string(v.JSON))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Columns)) {
		if !seen[name] {
			differ(what+", column "+name, jsonText(r.Columns[name]), "there is no such column")
		}
	}
}

func rowText(r *dryrun.Row) string {
	if r.Columns == nil {
		return string(r.Record)
	}
	m := make(map[string]json.RawMessage, len(r.Columns))
	for _, v := range r.Columns {
		m[v.Name] = v.JSON
	}
	return jsonText(m)
}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// sameJSON compares values, not texts: numbers by their value, objects whatever the
// order of their fields. A number may be expected as a text, since YAML's own have only
// the digits of a float64.
func sameJSON(want, got string) bool {
	if want == got {
		return true
	}
	decode := func(s string) (v any, ok bool) {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		return v, d.Decode(&v) == nil
	}
	w, okw := decode(want)
	g, okg := decode(got)
	return okw && okg && sameValue(w, g)
}

func sameValue(want, got any) bool {
	switch got := got.(type) {
	case json.Number:
		var text string
		switch want := want.(type) {
		case json.Number:
			text = want.String()
		case string:
			text = want
		}
		x, okx := new(big.Rat).SetString(text)
		y, oky := new(big.Rat).SetString(got.String())
		return okx && oky && x.Cmp(y) == 0
	case []any:
		want, ok := want.([]any)
		return ok && slices.EqualFunc(want, got, sameValue)
	case map[string]any:
		want, ok := want.(map[string]any)
		return ok && maps.EqualFunc(want, got, sameValue)
	}
	return want == got
}

// Find returns the files of cases that the paths mean: files as they are, and in folders
// all that end in .test.yaml or .test.yml.
func Find(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			out = append(out, p)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".test.yaml") && !strings.HasSuffix(e.Name(), ".test.yml") {
				continue
			}
			path := filepath.Join(p, e.Name())
			if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() { // reading it says why
				out = append(out, path)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there are no cases: no file in %s ends in .test.yaml; %s, and penstock init proposes one", strings.Join(paths, ", "), form)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
