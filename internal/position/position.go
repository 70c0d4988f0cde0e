// Package position shows where a flow stands, and sets it to another place while it does not run.
//
// What belongs here: what a person may name as a place, the plan of a change with its
// consequences in sentences, and carrying it out. What does not: how positions are stored
// (flow.Repositioner), and asking the person.
//
// Positions are kept by the sink, if it is a flow.Checkpointer, else by the source. A plan is made, shown, and
// applied as it was shown: where the flow has moved since, it is refused.
package position

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
)

// Position is where a flow stands in one partition.
type Position struct {
	flow.Partition
	// Offset is the next to write; -1 where the flow has no position yet.
	Offset int64
	// Begin and End are what the log holds; -1 where the partition is not in the log any more.
	Begin, End int64
	// Note says what is wrong with the position; empty where nothing is.
	Note string
}

// Lag is the number of offsets that are not written yet and still in the log.
func (p *Position) Lag() int64 {
	if p.Offset < 0 {
		return 0
	}
	return max(0, p.End-max(p.Offset, p.Begin))
}

// RunningError refuses a change of the positions of a flow that runs.
type RunningError struct {
	Flow string
	// Members are the processes that run it.
	Members []string
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("flow %s runs: stop it before its positions are set (penstock stop %[1]s, or end the process; one that was killed is "+
		"a member until its session has timed out); it is run by %s", e.Flow, strings.Join(e.Members, "; "))
}

// MovedError refuses a plan that is not true any more.
type MovedError struct {
	Flow string
	// What is different now, in a sentence.
	What string
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("flow %s: %s since the plan was made: make it again", e.Flow, e.What)
}

// Show returns the positions of a flow in all partitions of its topics, and those that it has
// in others, in order. The flow may run, here or elsewhere. It closes what cfg holds.
func Show(ctx context.Context, cfg flow.Config) ([]Position, error) {
	v, err := look(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, closeAll(ctx, cfg))
	}
	return v.positions(), closeAll(ctx, cfg)
}

// Make says what setting the positions to the target would do. writings are how the sink writes, by
// route: the consequence depends on it. The flow may run. It closes what cfg holds.
func Make(ctx context.Context, cfg flow.Config, writings []config.Writing, t Target) (*Plan, error) {
	p, err := prepare(ctx, cfg, writings, t)
	return p, errors.Join(err, closeAll(ctx, cfg))
}

func prepare(ctx context.Context, cfg flow.Config, writings []config.Writing, t Target) (*Plan, error) {
	v, err := look(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var at []flow.Position
	if !t.Time.IsZero() {
		p, ok := cfg.Source.(flow.Positioner)
		if !ok {
			return nil, errors.New("the source of this flow does not know the times of its records: give offsets, or beginning or end")
		}
		if at, err = p.At(ctx, t.Time); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	v.writings = writings
	return v.plan(t, at)
}

// Apply sets the positions as the plan says. It is refused with a *RunningError while a process
// runs the flow, and with a *MovedError where the flow or the log is not as it was when the plan was made.
// cfg is another than that of Make, which was closed; Apply closes it, too.
func Apply(ctx context.Context, cfg flow.Config, p *Plan) error {
	return errors.Join(apply(ctx, cfg, p), closeAll(ctx, cfg))
}

func apply(ctx context.Context, cfg flow.Config, p *Plan) error {
	if len(p.Moves) == 0 {
		return nil
	}
	v, err := look(ctx, cfg)
	switch {
	case err != nil:
		return err
	case len(v.members) > 0:
		return &RunningError{Flow: cfg.Name, Members: v.members}
	}
	if err := v.same(p); err != nil {
		return err
	}
	positions := make([]flow.Position, len(p.Moves))
	for i := range p.Moves {
		m := &p.Moves[i]
		positions[i] = flow.Position{Partition: m.Partition, TopicID: m.TopicID, Offset: m.To, LeaderEpoch: -1}
	}
	if err := v.keeper.SetPositions(ctx, v.setup, positions); err != nil {
		return fmt.Errorf("setting the positions of flow %s: %w", cfg.Name, err)
	}
	_, inGroup := cfg.Sink.(flow.GroupCheckpointer)
	if r, ok := cfg.Source.(flow.Repositioner); ok && v.whole && !inGroup {
		_ = r.SetPositions(ctx, v.setup, positions) // for lag tools only: without it they are right again when the flow has caught up
	}
	return nil
}

// view is a flow's log and positions at one moment.
type view struct {
	flow     string
	log      *flow.Log
	setup    flow.Setup
	stored   []flow.Position
	keeper   flow.Repositioner // nil: nobody can set them
	members  []string
	route    func(topic string) int
	writings []config.Writing
	// whole: a partition without a position below or beside others that have one means
	// to the engine that somebody removed it.
	whole bool
}

// look asks source and sink. It opens the source, and nothing else.
func look(ctx context.Context, cfg flow.Config) (*view, error) {
	v := &view{flow: cfg.Name, route: func(topic string) int {
		return max(0, slices.IndexFunc(cfg.Routes, func(r flow.Route) bool { return r.Match(topic) }))
	}}
	var err error
	if v.log, err = cfg.Source.Open(ctx); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if v.setup, err = config.Setup(cfg, v.log); err != nil {
		return nil, err
	}
	if p, ok := cfg.Source.(flow.Positioner); ok {
		if v.members, err = p.Members(ctx); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	if _, v.whole = cfg.Sink.(flow.Checkpointer); v.whole {
		inspector, ok := cfg.Sink.(flow.Inspector)
		if !ok {
			return nil, errors.New("the sink of this flow keeps its positions and does not tell them without being opened")
		}
		v.keeper, _ = cfg.Sink.(flow.Repositioner)
		if v.stored, err = inspector.Inspect(ctx, v.setup); err != nil {
			return nil, fmt.Errorf("reading the flow's positions: %w", err)
		}
		return v, v.catchUp(ctx, cfg.Source)
	}
	v.keeper, _ = cfg.Source.(flow.Repositioner)
	for i := range v.log.Partitions {
		if p := &v.log.Partitions[i]; p.Committed >= 0 {
			v.stored = append(v.stored, flow.Position{Partition: p.Partition, TopicID: p.TopicID, Offset: p.Committed, LeaderEpoch: p.LeaderEpoch})
		}
	}
	return v, nil
}

// catchUp asks for the ends of the log again if a position is beyond them: a flow that runs may have moved
// on since the source was opened, and that is no log which has lost its tail.
func (v *view) catchUp(ctx context.Context, source any) error {
	p, ok := source.(flow.Positioner)
	if !ok || !slices.ContainsFunc(v.stored, func(s flow.Position) bool {
		info := v.info(s.Partition)
		return info != nil && s.Offset > info.End
	}) {
		return nil
	}
	ends, err := p.At(ctx, time.Now().Add(farAhead))
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for i := range ends {
		if info := v.info(ends[i].Partition); info != nil {
			info.End = max(info.End, ends[i].Offset)
		}
	}
	return nil
}

// farAhead is beyond the times of all records, but those of clocks that are very wrong.
const farAhead = 100 * 365 * 24 * time.Hour

func closeAll(ctx context.Context, cfg flow.Config) error {
	ctx = context.WithoutCancel(ctx)
	err := errors.Join(cfg.Source.Close(ctx), cfg.Sink.Close(ctx))
	if cfg.DeadLetters != nil {
		err = errors.Join(err, cfg.DeadLetters.Close(ctx))
	}
	return err
}

// at is what is stored of a partition; nil if nothing is.
func (v *view) at(p flow.Partition) *flow.Position {
	i := slices.IndexFunc(v.stored, func(s flow.Position) bool { return s.Partition == p })
	if i < 0 {
		return nil
	}
	return &v.stored[i]
}

// info is what the log has of a partition; nil if it has none.
func (v *view) info(p flow.Partition) *flow.PartitionInfo {
	i := slices.IndexFunc(v.log.Partitions, func(i flow.PartitionInfo) bool { return i.Partition == p })
	if i < 0 {
		return nil
	}
	return &v.log.Partitions[i]
}

func (v *view) positions() []Position {
	var out []Position
	for i := range v.log.Partitions {
		info := &v.log.Partitions[i]
		p := Position{Partition: info.Partition, Offset: -1, Begin: info.Begin, End: info.End}
		if s := v.at(info.Partition); s != nil {
			p.Offset, p.Note = s.Offset, wrong(s, info)
		}
		out = append(out, p)
	}
	for _, s := range v.stored {
		if v.info(s.Partition) == nil {
			out = append(out, Position{Partition: s.Partition, Offset: s.Offset, Begin: -1, End: -1, Note: "is not in the log any more, and is not read"})
		}
	}
	slices.SortFunc(out, func(a, b Position) int { return compare(a.Partition, b.Partition) })
	return out
}

// remade says that the topic is another one by now.
func remade(s *flow.Position, info *flow.PartitionInfo) bool {
	return s.TopicID != "" && info.TopicID != "" && s.TopicID != info.TopicID
}

// wrong says why the flow cannot go on at s; empty if it can.
func wrong(s *flow.Position, info *flow.PartitionInfo) string {
	switch {
	case remade(s, info):
		return "is of a topic that was deleted and made anew"
	case s.Offset < info.Begin:
		return fmt.Sprintf("offsets %d to %d are gone: retention removed them before they were read", s.Offset, info.Begin-1)
	case s.Offset > info.End:
		return "is beyond the end of the log: the topic has lost its tail, or another cluster answers"
	}
	return ""
}

func compare(a, b flow.Partition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.ID) - int(b.ID)
}
