package flow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// routed is a sink that takes routes, and notes which batches it saw.
type routed struct {
	*flowtest.TableSink
	routes int
	setup  flow.Setup

	mu   sync.Mutex
	seen map[int][]string // topics by route
}

func (s *routed) Routes() int { return s.routes }

func (s *routed) Open(ctx context.Context, setup flow.Setup) error {
	s.setup = setup
	return s.TableSink.Open(ctx, setup)
}

func (s *routed) Writer(lane int) (flow.Writer, error) {
	w, err := s.TableSink.Writer(lane)
	return &routedWriter{w, s}, err
}

type routedWriter struct {
	flow.Writer
	s *routed
}

func (w *routedWriter) Write(ctx context.Context, b *flow.Batch) error {
	w.s.mu.Lock()
	for i := range b.Parts {
		if t := b.Parts[i].Topic; !slices.Contains(w.s.seen[b.Route], t) {
			w.s.seen[b.Route] = append(w.s.seen[b.Route], t)
		}
	}
	if b.Columns == nil || b.Columns.Cols[0].Name != fmt.Sprint("route", b.Route) {
		w.s.seen[b.Route] = append(w.s.seen[b.Route], "with other columns")
	}
	w.s.mu.Unlock()
	return w.Writer.Write(ctx, b)
}

// columnOf decodes nothing into a column that is named for its route.
type columnOf int

func (c columnOf) Fields() []flow.Field {
	return []flow.Field{{Name: fmt.Sprint("route", int(c)), Type: "text", Kind: flow.KindString}}
}

func (c columnOf) Process(_ context.Context, b *flow.Batch) error {
	if b.Columns == nil {
		b.Columns = flow.NewColumns(c.Fields())
	}
	b.Columns.Reset(len(b.Records))
	return nil
}

func route(n int, match func(string) bool) flow.Route {
	return flow.Route{Name: fmt.Sprint(n), Match: match, Transforms: func(int) ([]flow.Transform, error) {
		return []flow.Transform{columnOf(n)}, nil
	}}
}

func TestEveryBatchTakesTheRouteOfItsTopics(t *testing.T) {
	log := flowtest.NewLog()
	topics := []string{"orders", "orders.eu", "users"}
	for _, topic := range topics {
		log.Create(topic, 3)
		for i := range 300 {
			log.Append(topic, int32(i%3), flow.Record{Value: []byte(topic)})
		}
	}
	table := flowtest.NewTable(flowtest.TableOptions{})
	sink := &routed{TableSink: table.Sink(), routes: 2, seen: map[int][]string{}}
	p := start(t, flow.Config{
		Sink: sink, Lanes: 2, Batch: flow.BatchLimits{Records: 50},
		Routes: []flow.Route{
			route(0, func(topic string) bool { return strings.HasPrefix(topic, "orders") }),
			route(1, func(string) bool { return true }),
		},
	}, log.Source(flowtest.LogOptions{Topics: topics, Group: "g"}))
	awaitDurable(t, table, 900)
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if err := flowtest.Audit(log.All(topics...), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Error(err)
	}
	slices.Sort(sink.seen[0])
	if got := fmt.Sprint(sink.seen); got != "map[0:[orders orders.eu] 1:[users]]" {
		t.Errorf("topics by route: %s", got)
	}
	if len(sink.setup.Routes) != 2 || sink.setup.Fields != nil || sink.setup.Routes[1][0].Name != "route1" {
		t.Errorf("the sink was told %+v", sink.setup)
	}
}

func TestATopicWithoutARouteIsRefused(t *testing.T) {
	log := logOf(10, 1)
	table := flowtest.NewTable(flowtest.TableOptions{})
	sink := &routed{TableSink: table.Sink(), routes: 1, seen: map[int][]string{}}
	cfg := flow.Config{Sink: sink, Routes: []flow.Route{route(0, func(topic string) bool { return topic == "other" })}}
	p := start(t, cfg, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	if err := p.wait(t); err == nil || !strings.Contains(err.Error(), "no route takes topic t") {
		t.Errorf("got %v", err)
	}
	if rows, _ := table.Len(); rows != 0 {
		t.Errorf("%d rows", rows)
	}
	cfg.Name, cfg.Source, cfg.Sink = "f", log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}), table.Sink()
	if _, err := flow.New(cfg); err == nil || !strings.Contains(err.Error(), "1 routes and its sink is configured for 0") {
		t.Errorf("a sink without routes: %v", err)
	}
}

// What a user keeps per partition is set up before its first record and taken
// down after its last one.
func TestHooksEncloseTheRecordsOfAPartition(t *testing.T) {
	log, table := logOf(100, 4), flowtest.NewTable(flowtest.TableOptions{})
	var mu sync.Mutex
	open := map[flow.Partition]bool{}
	var problems []string
	hooked := func() flow.Config {
		sink := table.Sink()
		return flow.Config{
			Sink: sink, Lanes: 2,
			Assigned: func(_ context.Context, ps []flow.Position) {
				mu.Lock()
				defer mu.Unlock()
				for _, p := range ps {
					open[p.Partition] = true
				}
			},
			Revoked: func(_ context.Context, ps []flow.Partition, _ bool) {
				mu.Lock()
				defer mu.Unlock()
				for _, p := range ps {
					delete(open, p)
				}
			},
			Transforms: func(int) ([]flow.Transform, error) {
				return []flow.Transform{transformFunc(func(b *flow.Batch) {
					mu.Lock()
					defer mu.Unlock()
					for i := range b.Parts {
						if !open[b.Parts[i].Partition] {
							problems = append(problems, b.Parts[i].String()+" is not open")
						}
					}
				})}, nil
			},
		}
	}
	p := start(t, hooked(), log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g"}))
	awaitDurable(t, table, 100)
	mu.Lock()
	if len(open) != 4 {
		t.Errorf("open: %v", open)
	}
	mu.Unlock()
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	if len(open) != 0 || len(problems) != 0 {
		t.Errorf("open after the end: %v; %v", open, problems)
	}
}

type transformFunc func(b *flow.Batch)

func (f transformFunc) Process(_ context.Context, b *flow.Batch) error {
	f(b)
	return nil
}
