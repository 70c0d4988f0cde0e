package propose

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/dryrun"
)

// Record is a record that was looked at.
type Record struct {
	Partition flow.Partition
	flow.Record
}

// Sample reads up to n records of what the source reads: half from the beginning of its
// partitions, half from the end, since producers change. It takes part in nothing. The source is
// open, and is not closed.
func Sample(ctx context.Context, source flow.Source, log *flow.Log, n int) ([]Record, error) {
	peeker, ok := source.(flow.Peeker)
	if !ok {
		return nil, errors.New("the source cannot be looked into without taking part in it")
	}
	half := (n + 1) / 2
	each := int64(max(1, half/max(1, len(log.Partitions))))
	var oldest, newest []flow.Position
	for _, p := range log.Partitions {
		pos := flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Begin, LeaderEpoch: -1}
		if p.Begin < p.End {
			oldest = append(oldest, pos)
		}
		if p.End-p.Begin > each {
			pos.Offset = p.End - each
			newest = append(newest, pos)
		}
	}
	type key struct {
		flow.Partition
		offset int64
	}
	seen := map[key]bool{}
	var out []Record
	for _, from := range [][]flow.Position{oldest, newest} {
		if len(from) == 0 {
			continue
		}
		taken := map[flow.Partition]int64{}
		err := peeker.Peek(ctx, from, half, func(f flow.Fetch) {
			for i := range f.Records {
				at := key{f.Partition, f.Records[i].Offset}
				if len(out) >= n || taken[f.Partition] >= each || seen[at] {
					continue
				}
				taken[f.Partition]++
				seen[at] = true
				out = append(out, Record{f.Partition, f.Records[i]})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Options say what the flow is to be.
type Options struct {
	Name, Topic string
	// File is the name of the flow file. Default: Name.yaml.
	File    string
	Brokers []string
	// Sink is postgres, sqlite or stdout.
	Sink string
	// Target are the sink's fields but for the table, as they are to be in the file.
	Target map[string]string
	// Table is the table's name, Existing the table if there is one.
	Table    string
	Existing *connect.Table
	// Config are the options with which the file will be read.
	Config config.Options
}

// Proposal is a first flow file.
type Proposal struct {
	// File is the flow file's text, Cases that of a file for penstock test; empty where no record
	// can be shown as text.
	File, Cases string `json:"-"`
	// Records were looked at, of which Documents are JSON objects and Tombstones have no value.
	Records    int `json:"records"`
	Documents  int `json:"documents"`
	Tombstones int `json:"tombstones"`

	Columns []Column `json:"columns"`
	Fit     Fit      `json:"-"`
	// Rows and Dead are what the flow would make of the records; Dead by class.
	Rows int            `json:"rows"`
	Dead map[string]int `json:"dead_letters"`
	// Notes are sentences that a person should read.
	Notes []string `json:"notes"`
}

// Make proposes a flow for the records.
func Make(ctx context.Context, records []Record, o Options) (*Proposal, error) {
	p := &Proposal{Records: len(records), Dead: map[string]int{}, Notes: []string{}}
	root := &shape{}
	var keys []string
	for i := range records {
		r := &records[i]
		if r.Value == nil {
			p.Tombstones++
			continue
		}
		if len(bytes.TrimSpace(r.Value)) > 0 && bytes.TrimSpace(r.Value)[0] == '{' && root.document(r.Value) {
			p.Documents++
		}
		if r.Key != nil {
			keys = append(keys, string(r.Key))
		}
	}
	if err := p.judge(records, o.Topic); err != nil {
		return nil, err
	}
	p.Columns = root.columns()
	if len(p.Columns) == 0 {
		return nil, fmt.Errorf("the %d documents of topic %s have no fields", p.Documents, o.Topic)
	}
	if root.omitted {
		p.Notes = append(p.Notes, fmt.Sprintf("the documents have more than %d fields; the others have no column, and were not looked at", len(root.children)))
	}
	fields := p.Columns
	if o.Existing != nil {
		p.Fit = fit(p.Columns, o.Existing)
		p.Columns = p.Fit.Columns
		p.noteFit(o.Existing)
		if len(p.Columns) == 0 {
			return nil, fmt.Errorf("no field of the documents of topic %s is called like a column of table %s (%s); the documents have %s",
				o.Topic, o.Existing.Name, strings.Join(slices.Concat(p.Fit.Unfilled, p.Fit.Must), ", "), strings.Join(p.Fit.Unused, ", "))
		}
	}
	p.noteKey(records, keys, fields, o.Existing)
	p.File = o.file(p)
	if err := p.try(ctx, records, o); err != nil {
		return nil, err
	}
	p.File = o.file(p) // with what the trial has taught of the columns
	return p, nil
}

// judge refuses records of which no columns can be made.
func (p *Proposal) judge(records []Record, topic string) error {
	values := p.Records - p.Tombstones
	if values == 0 {
		return fmt.Errorf("topic %s has no records with a value to look at: produce some, or write the file by hand (penstock explain kafka json postgres)", topic)
	}
	if p.Documents*2 < values {
		i := slices.IndexFunc(records, func(r Record) bool { return r.Value != nil })
		what := ""
		if v := records[i].Value; len(v) > 5 && v[0] == 0 {
			what = "; they begin like those of a schema registry (Avro, Protobuf), which cannot be decoded yet"
		}
		return fmt.Errorf("the values of topic %s are no JSON objects: %d of %d are, and one begins with %q%s; "+
			"check that it is the right topic; as they are, records can be copied into another topic (penstock explain sink.kafka)",
			topic, p.Documents, values, short(records[i].Value), what)
	}
	if p.Documents < values {
		p.Notes = append(p.Notes, fmt.Sprintf("%d of %d values are no JSON objects, and would become dead letters", values-p.Documents, values))
	}
	return nil
}

func short(v []byte) string {
	v = v[:min(len(v), maxExample)]
	return strings.ToValidUTF8(string(v), "·")
}

// noteKey says which of the documents' fields the records' key is, and what to do with the
// column that it has become.
func (p *Proposal) noteKey(records []Record, keys []string, fields []Column, table *connect.Table) {
	if len(keys) == 0 {
		return
	}
	i := slices.IndexFunc(fields, func(c Column) bool { return !strings.Contains(c.Path, ".") && p.keyIs(records, pathOf(&c)) })
	if i < 0 {
		p.Notes = append(p.Notes, "the records have keys that are no field of theirs; a column {type: text, from: key} would keep them")
		return
	}
	field := pathOf(&fields[i])
	note := "the records' key is the field " + field
	k := slices.IndexFunc(p.Columns, func(c Column) bool { return pathOf(&c) == field })
	switch {
	case k < 0:
		note += ", for which table " + table.Name + " has no column"
	case table == nil:
		note += fmt.Sprintf(": mode: upsert with key: [%s] keeps the newest of each", p.Columns[k].Name)
	case !slices.ContainsFunc(table.Keys, func(key []string) bool { return len(key) == 1 && key[0] == p.Columns[k].Name }):
		note += fmt.Sprintf(": mode: upsert with key: [%s] would keep the newest of each, once table %s has a unique index on it", p.Columns[k].Name, table.Name)
	} // else noteFit has said so
	p.Notes = append(p.Notes, note)
}

// keyIs says whether the field of that name is the key, in nearly all records that have one.
func (p *Proposal) keyIs(records []Record, field string) bool {
	compared, same := 0, 0
	for i := range records {
		r := &records[i]
		var doc map[string]json.RawMessage
		if r.Key == nil || r.Value == nil || json.Unmarshal(r.Value, &doc) != nil {
			continue
		}
		var s string
		if json.Unmarshal(doc[field], &s) != nil {
			s = string(doc[field])
		}
		if s == string(r.Key) {
			same++
		}
		compared++
	}
	return compared > 0 && same*20 >= compared*19
}

func (p *Proposal) noteFit(t *connect.Table) {
	if len(p.Fit.Must) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("table %s has columns that must be filled and nothing in the documents is called so: %s; "+
			"give them a path, a default, or a default in the table", t.Name, strings.Join(p.Fit.Must, ", ")))
	}
	if len(p.Fit.Unfilled) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("columns of table %s that stay empty or have their default: %s", t.Name, strings.Join(p.Fit.Unfilled, ", ")))
	}
	if len(p.Fit.Unused) > 0 {
		p.Notes = append(p.Notes, "fields of the documents that table "+t.Name+" has no column for: "+strings.Join(p.Fit.Unused, ", "))
	}
	if len(t.Keys) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("table %s has the key (%s): mode: upsert or ignore with key: [%s] can write a record again without an error",
			t.Name, strings.Join(t.Keys[0], ", "), strings.Join(t.Keys[0], ", ")))
	}
}

// try makes rows of the records by the proposed file, and cases of a few of them.
func (p *Proposal) try(ctx context.Context, records []Record, o Options) error {
	file, err := config.Load(o.Name+".yaml", []byte(p.File), o.Config)
	if err != nil {
		return fmt.Errorf("the proposed file is not right, which is a mistake of penstock init:\n%w\n%s", err, p.File)
	}
	cfg, err := file.Build(nil, nil)
	if err != nil {
		return err
	}
	defer cfg.Source.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was never opened
	defer cfg.Sink.Close(context.WithoutCancel(ctx))   //nolint:errcheck // it was never opened
	plan, err := dryrun.NewPlan(cfg, file.Writings())
	if err != nil {
		return err
	}
	w := casesWriter{flow: cmp.Or(o.File, o.Name+".yaml"), target: o.Target}
	why, wrong := map[string]string{}, map[string]int{}
	for i := range records {
		r := &records[i]
		rows, err := plan.Process(ctx, flow.Fetch{Partition: r.Partition, Records: []flow.Record{r.Record}, Next: r.Offset + 1, LeaderEpoch: -1, End: r.Offset + 1})
		if err != nil {
			return err
		}
		row := &rows[0]
		if row.Dead == nil {
			p.Rows++
		} else {
			p.Dead[row.Dead.Class]++
			wrong[row.Dead.Column]++
			if why[row.Dead.Class] == "" {
				why[row.Dead.Class] = fmt.Sprintf("%s offset %d: %s", r.Partition, r.Offset, row.Dead.Message)
			}
		}
		w.add(r, row)
	}
	for i := range p.Columns {
		if c := &p.Columns[i]; wrong[c.Name] > 0 && c.Sure != Guessed {
			c.Sure, c.Why = Guessed, strings.TrimPrefix(fmt.Sprintf("%s, and %d records become dead letters by it", c.Why, wrong[c.Name]), ", and ")
		}
	}
	for _, class := range slices.Sorted(maps.Keys(why)) {
		p.Notes = append(p.Notes, fmt.Sprintf("%d of %d records would become dead letters of class %s, for example %s", p.Dead[class], p.Records, class, why[class]))
	}
	if p.Cases = w.text(); p.Cases == "" {
		p.Notes = append(p.Notes, fmt.Sprintf("no file of cases is proposed: no record is text of at most %d KiB", maxValue>>10))
	}
	return nil
}

// Skeleton is a flow file with which the topic and the table can be looked at.
func (o *Options) Skeleton() string {
	return o.file(&Proposal{Columns: []Column{{Name: "value", Type: "json", Path: "$"}}})
}

// file is the text of the flow file.
func (o *Options) file(p *Proposal) string {
	var b strings.Builder
	line := func(indent int, format string, args ...any) {
		b.WriteString(strings.Repeat("  ", indent) + fmt.Sprintf(format, args...) + "\n")
	}
	line(0, "# Proposed from %d records of topic %s, of which %d become rows: see what is said", p.Records, o.Topic, p.Documents)
	line(0, "# beside each column, and change what you know better. `penstock explain json` has all of it.")
	line(0, "flow: %s", scalar(o.Name))
	line(0, "source:")
	line(1, "kafka:")
	brokers := make([]string, len(o.Brokers))
	for i, broker := range o.Brokers {
		brokers[i] = scalar(broker)
	}
	line(2, "brokers: [%s]", strings.Join(brokers, ", "))
	line(2, "topics: [%s]", scalar(o.Topic))
	line(0, "decode:")
	line(1, "json:")
	line(2, "columns:")
	width := 0
	texts := make([]string, len(p.Columns))
	for i := range p.Columns {
		texts[i] = p.Columns[i].yaml()
		width = max(width, min(utf8.RuneCountInString(texts[i]), 60))
	}
	for i := range p.Columns {
		line(3, "%-*s  # %s", width, texts[i], p.Columns[i].comment(p.Documents))
	}
	line(0, "sink:")
	line(1, "%s:", o.Sink)
	for _, k := range slices.Sorted(maps.Keys(o.Target)) {
		line(2, "%s: %s", k, o.Target[k])
	}
	if o.Table != "" {
		line(2, "table: %s", scalar(o.Table))
		if o.Existing == nil {
			line(2, "create_table: true")
		}
	}
	return b.String()
}

func (c *Column) yaml() string {
	if c.Path == "" && c.Format == "" && !c.Required {
		return scalar(c.Name) + ": " + c.Type
	}
	parts := []string{"type: " + typeText(c.Type)}
	if c.Path != "" {
		path := c.Path
		if path != "$" { // a dollar begins a variable
			path = strings.ReplaceAll(path, "$", "$$")
		}
		parts = append(parts, "path: "+scalar(path))
	}
	if c.Format != "" {
		parts = append(parts, "format: "+scalar(c.Format))
	}
	if c.Required {
		parts = append(parts, "required: true")
	}
	return fmt.Sprintf("%s: {%s}", scalar(c.Name), strings.Join(parts, ", "))
}

// typeText is a type within a flow mapping, where brackets and commas mean something.
func typeText(t string) string {
	if strings.ContainsAny(t, "[],") {
		return `"` + t + `"`
	}
	return t
}

func (c *Column) comment(documents int) string {
	out := fmt.Sprintf("%s: in %d of %d", c.Sure, c.Seen, documents)
	if c.Example != "" {
		out += ", like " + c.Example
	}
	if c.Why != "" {
		out += "; " + c.Why
	}
	return out
}

// scalar is a text as YAML has it, quoted where it must be.
func scalar(s string) string {
	if s == "" || strings.ContainsAny(s, "{}[],#&*!|>'\"%@`\n\t\\") || strings.Contains(s, ": ") {
		text, _ := json.Marshal(s) //nolint:errchkjson // a string always can be; JSON's strings are YAML's
		return string(text)
	}
	text, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSpace(string(text))
}
