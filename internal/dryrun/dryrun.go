// Package dryrun shows what a flow would make of the next records, without
// writing anything, joining a group or taking a checkpoint over.
package dryrun

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
)

// Row is one record and what the flow would make of it.
type Row struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	// Route and Table are those that the record takes, in a flow with routes.
	Route string `json:"route,omitempty"`
	Table string `json:"table,omitempty"`
	// Columns are the row's, in order; nil for a dead letter.
	Columns []Value `json:"-"`
	// Record is the value of a record in a flow that does not decode.
	Record []byte `json:"-"`
	// Tombstone says that the record has a key and no value: it deletes in mode
	// upsert.
	Tombstone bool `json:"tombstone,omitempty"`
	// Dead is why the record would become a dead letter.
	Dead *Dead `json:"dead_letter,omitempty"`
}

// Dead is a dead letter.
type Dead struct {
	Stage   flow.Stage `json:"stage"`
	Class   string     `json:"class"`
	Column  string     `json:"column,omitempty"`
	Message string     `json:"message"`
}

// Report is what a dry run has found.
type Report struct {
	Plan
	Rows []Row
	// FromCheckpoint says that reading began where the flow stopped, not at
	// its configured start.
	FromCheckpoint bool
}

// Plan is what a flow makes of records, whatever they are read from.
type Plan struct {
	// Routes are what records can go through; one in a flow without routes.
	Routes []Route
}

// Route is what becomes of the records that take it.
type Route struct {
	config.Writing
	// Columns are the names of the columns; nil where nothing decodes.
	Columns []string

	match      func(topic string) bool
	transforms []flow.Transform
}

// Run reads the next n records of the flow, fewer if there are no more, decodes
// them, and applies the rules of writing. What the table itself would refuse
// is not found. It closes what the configuration holds. The flow may be
// running elsewhere meanwhile. writings are how the sink writes, by route: their
// modes and keys decide which records become dead letters.
func Run(ctx context.Context, cfg flow.Config, writings []config.Writing, n int) (report *Report, err error) {
	defer func() {
		closing := context.WithoutCancel(ctx)
		err = errors.Join(err, cfg.Source.Close(closing), cfg.Sink.Close(closing))
	}()
	peeker, ok := cfg.Source.(flow.Peeker)
	if !ok {
		return nil, errors.New("the source of this flow cannot be read without taking part in it, so there is no dry run of it")
	}
	log, err := cfg.Source.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	setup, err := config.Setup(cfg, log)
	if err != nil {
		return nil, err
	}
	report = &Report{}
	if report.Plan, err = NewPlan(cfg, writings); err != nil {
		return nil, err
	}
	positions, stored, err := where(ctx, cfg.Sink, setup, log)
	if err != nil {
		return nil, fmt.Errorf("reading the flow's checkpoint: %w", err)
	}
	report.FromCheckpoint = stored

	var fetches []flow.Fetch
	if err := peeker.Peek(ctx, positions, n, func(f flow.Fetch) { fetches = append(fetches, f) }); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	for _, f := range fetches {
		f.Records = f.Records[:min(len(f.Records), n-len(report.Rows))]
		if len(f.Records) == 0 {
			continue
		}
		rows, err := report.Process(ctx, f)
		if err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, rows...)
	}
	return report, nil
}

// NewPlan makes the transforms of a flow. writings are how the sink writes, by route.
func NewPlan(cfg flow.Config, writings []config.Writing) (Plan, error) {
	all := cfg.Routes
	if len(all) == 0 {
		all = []flow.Route{{Match: func(string) bool { return true }, Transforms: cfg.Transforms}}
	}
	p := Plan{Routes: make([]Route, len(all))}
	for i, r := range all {
		to := &p.Routes[i]
		to.match = r.Match
		if i < len(writings) {
			to.Writing = writings[i]
		}
		if r.Transforms != nil {
			var err error
			if to.transforms, err = r.Transforms(0); err != nil {
				return Plan{}, err
			}
		}
		for _, t := range to.transforms {
			s, ok := t.(flow.Schemer)
			if !ok {
				continue
			}
			to.Columns = nil // the last one counts
			for _, f := range s.Fields() {
				to.Columns = append(to.Columns, f.Name)
			}
		}
	}
	return p, nil
}

// Process makes rows and dead letters of the records of one fetch, by the route of
// its topic.
func (p *Plan) Process(ctx context.Context, f flow.Fetch) ([]Row, error) {
	for i := range p.Routes {
		if p.Routes[i].match(f.Topic) {
			return p.Routes[i].process(ctx, f)
		}
	}
	return nil, fmt.Errorf("no route takes topic %s: add one, or do not read the topic", f.Topic)
}

// where is where the flow would read on.
func where(ctx context.Context, sink flow.Sink, setup flow.Setup, log *flow.Log) (from []flow.Position, stored bool, err error) {
	var checkpoint []flow.Position
	switch s := sink.(type) {
	case flow.Inspector:
		if checkpoint, err = s.Inspect(ctx, setup); err != nil {
			return nil, false, err
		}
	case flow.Checkpointer:
		return nil, false, errors.New("the sink of this flow does not tell its checkpoint without being opened, so there is no dry run of it")
	default: // the source keeps the positions
		for _, p := range log.Partitions {
			if p.Committed >= 0 {
				checkpoint = append(checkpoint, flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Committed, LeaderEpoch: p.LeaderEpoch})
			}
		}
	}
	for _, p := range log.Partitions {
		pos := flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Start, LeaderEpoch: p.LeaderEpoch}
		i := slices.IndexFunc(checkpoint, func(c flow.Position) bool { return c.Partition == p.Partition })
		switch {
		case i >= 0:
			pos = checkpoint[i]
		case len(checkpoint) > 0:
			pos.Offset = p.Begin // a partition that is newer than the flow
		}
		if pos.TopicID != "" && p.TopicID != "" && pos.TopicID != p.TopicID || pos.Offset < p.Begin || pos.Offset > p.End {
			return nil, false, &flow.PositionLostError{Position: pos, Begin: p.Begin, End: p.End, TopicIDNow: p.TopicID}
		}
		from = append(from, pos)
	}
	return from, len(checkpoint) > 0, nil
}

// reject makes dead letters of the rows that the sink would refuse by its mode
// and key, whatever its table is like.
func (to *Route) reject(b *flow.Batch) {
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		if b.Records[i].Value == nil && (to.Mode == "append" || to.Mode == "ignore") {
			b.Reject(i, flow.StageWrite, &flow.RecordError{
				Class: "tombstone", Err: fmt.Errorf("a tombstone deletes a row, which needs mode upsert; the mode is %s", to.Mode),
			})
			continue
		}
		if b.Columns == nil || to.Mode != "ignore" && to.Mode != "upsert" {
			continue
		}
		for k := range b.Columns.Cols {
			if c := &b.Columns.Cols[k]; slices.Contains(to.Key, c.Name) && c.Null(i) {
				b.Reject(i, flow.StageWrite, &flow.RecordError{
					Class: "null", Column: c.Name, Err: errors.New("there is no value, and the column is part of the key"),
				})
				break
			}
		}
	}
}

// process runs the transforms over the records of one fetch.
func (to *Route) process(ctx context.Context, f flow.Fetch) ([]Row, error) {
	records := f.Records
	for i := range records {
		records[i].Part = 0
	}
	b := flow.NewBatch(records, []flow.Part{{
		Partition: f.Partition, TopicID: f.TopicID, From: records[0].Offset, Next: f.Next, LeaderEpoch: f.LeaderEpoch, End: len(records),
	}})
	for _, t := range to.transforms {
		if err := t.Process(ctx, b); err != nil {
			return nil, err
		}
	}
	to.reject(b)
	rows := make([]Row, len(records))
	for i := range records {
		r := &records[i]
		rows[i] = Row{Topic: f.Topic, Partition: f.ID, Offset: r.Offset, Tombstone: r.Value == nil}
		if to.Route != "" {
			rows[i].Route, rows[i].Table = to.Route, to.Table
		}
		switch {
		case b.Rejected(i):
		case b.Columns == nil:
			rows[i].Record = slices.Clone(r.Value)
		default:
			rows[i].Columns = values(b.Columns, i)
		}
	}
	for _, d := range b.DeadLetters() {
		for i := range rows {
			if rows[i].Offset == d.Record.Offset {
				rows[i].Dead = &Dead{Stage: d.Stage, Class: d.Class, Column: d.Column, Message: d.Message}
			}
		}
	}
	return rows, nil
}
