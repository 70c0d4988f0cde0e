package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/dryrun"
)

// Fate is what a letter would become.
type Fate struct {
	ID    string `json:"id"`
	Route string `json:"route,omitempty"`
	Table string `json:"table,omitempty"`
	// Row is what it would become, Record its value where the flow does not decode, Dead why it would fail again.
	Row    map[string]json.RawMessage `json:"row,omitempty"`
	Record *string                    `json:"record,omitempty"`
	Dead   *dryrun.Dead               `json:"dead_letter,omitempty"`
}

// Preview decodes the first letters of the plan, edited as it says. Nothing is written. writings are
// those of the flow file.
func (q *Queue) Preview(ctx context.Context, p *Plan, writings []config.Writing) (fates []Fate, err error) {
	cfg, err := q.build()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeConfig(context.WithoutCancel(ctx), &cfg)) }()
	decoding, err := dryrun.NewPlan(cfg, writings)
	if err != nil {
		return nil, err
	}
	fates = make([]Fate, 0, len(p.samples))
	for i := range p.samples {
		l := &p.samples[i]
		r := *l.Record
		if p.edit != nil {
			e := env(l)
			if r.Value, err = p.edit.Apply(&e); err != nil {
				return nil, err
			}
		}
		rows, err := decoding.Process(ctx, flow.Fetch{Partition: l.Partition, Records: []flow.Record{r}, Next: r.Offset + 1, LeaderEpoch: -1})
		if err != nil {
			return nil, err
		}
		fates = append(fates, fateOf(IDOf(l), &rows[0]))
	}
	return fates, nil
}

func fateOf(id ID, row *dryrun.Row) Fate {
	f := Fate{ID: id.String(), Route: row.Route, Table: row.Table, Dead: row.Dead}
	switch {
	case row.Dead != nil:
	case row.Columns != nil:
		f.Row = make(map[string]json.RawMessage, len(row.Columns))
		for _, v := range row.Columns {
			f.Row[v.Name] = v.JSON
		}
	default:
		s := strings.ToValidUTF8(string(row.Record), "\ufffd")
		f.Record = &s
	}
	return f
}
