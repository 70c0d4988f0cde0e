package position

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

const patience = 60 * time.Second

// site is a flow file on a topic of real Kafka with two partitions of 100 records each.
type site struct {
	topic string
	file  string
}

// recordsBegan is the time of record 0; each is a second after the one before.
var recordsBegan = time.Now().Add(-time.Hour).Truncate(time.Second)

// newSite makes the topic. sink is a part of the file, in which TOPIC is a name of the test's own.
func newSite(t *testing.T, sink string) *site {
	t.Helper()
	brokers := testservice.Kafka(t)
	s := &site{topic: testservice.Name(t)}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	t.Cleanup(func() {
		_, _ = adm.DeleteTopics(context.Background(), s.topic, s.topic+"_out")
		cl.Close()
	})
	for _, topic := range []string{s.topic, s.topic + "_out"} {
		if _, err := adm.CreateTopic(t.Context(), 2, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
		testservice.AwaitTopic(t, adm, topic, 2)
	}
	var records []*kgo.Record
	for i := range 200 {
		records = append(records, &kgo.Record{
			Topic: s.topic, Partition: int32(i % 2), Value: fmt.Appendf(nil, `{"id":%d}`, i), Timestamp: recordsBegan.Add(time.Duration(i/2) * time.Second),
		})
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	s.file = strings.ReplaceAll(fmt.Sprintf("flow: TOPIC\nsource:\n  kafka: {brokers: [%q], topics: [TOPIC], group: TOPIC}\n%s", brokers, sink), "TOPIC", s.topic)
	return s
}

func (s *site) build(t *testing.T) (flow.Config, []config.Writing) {
	t.Helper()
	r, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	f, err := config.Load("flow.yaml", []byte(s.file), config.Options{Registry: r})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.Build(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, f.Writings()
}

func (s *site) plan(t *testing.T, target Target) *Plan {
	t.Helper()
	cfg, writings := s.build(t)
	p, err := Make(t.Context(), cfg, writings, target)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *site) apply(t *testing.T, p *Plan) error {
	t.Helper()
	cfg, _ := s.build(t)
	return Apply(t.Context(), cfg, p)
}

func (s *site) show(t *testing.T) (offsets []int64) {
	t.Helper()
	cfg, _ := s.build(t)
	ps, err := Show(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ps {
		if ps[i].Begin != 0 || ps[i].End != 100 || ps[i].Note != "" {
			t.Errorf("%+v", ps[i])
		}
		offsets = append(offsets, ps[i].Offset)
	}
	return offsets
}

// run runs the flow until it has written the records, and lets during look at it then.
func (s *site) run(t *testing.T, records int64, during func()) {
	t.Helper()
	cfg, _ := s.build(t)
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st := f.Status()
		if st.Records >= records && len(st.Partitions) == 2 && st.Lag() == 0 {
			break
		}
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("the flow has ended: %v", err)
		case <-deadline:
			t.Fatalf("%+v", st)
		}
	}
	during()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := f.Status().Records; n != records {
		t.Errorf("%d records were written, not %d", n, records)
	}
}

func moves(p *Plan) (out []brief) {
	for _, m := range p.Moves {
		out = append(out, brief{m.ID, m.From, m.To, m.Again, m.Skipped})
	}
	return out
}

// TestPositionsAreSetWhereverTheyAreKept sets the positions of a flow that never ran, of one
// that runs, and of one that was stopped.
func TestPositionsAreSetWhereverTheyAreKept(t *testing.T) {
	const decode = "decode:\n  json: {columns: {id: int8}}\n"
	for name, sink := range map[string]string{
		"postgres":            decode + fmt.Sprintf("sink:\n  postgres: {url: %q, table: rows, create_table: true}\n", testservice.Postgres(t)),
		"sqlite":              decode + fmt.Sprintf("sink:\n  sqlite: {path: %q, table: rows, create_table: true}\n", filepath.Join(t.TempDir(), "t.db")),
		"kafka exactly once":  "sink:\n  kafka: {topic: TOPIC_out}\n",
		"kafka at least once": "sink:\n  kafka: {topic: TOPIC_out, delivery: at_least_once}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, sink)

			fresh := s.plan(t, Target{Time: recordsBegan.Add(90 * time.Second)})
			if d := cmp.Diff([]brief{{0, -1, 90, 0, 90}, {1, -1, 90, 0, 90}}, moves(fresh)); d != "" {
				t.Fatal(d)
			}
			if err := s.apply(t, fresh); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]int64{90, 90}, s.show(t)); d != "" {
				t.Error(d)
			}
			var running *RunningError
			s.run(t, 20, func() {
				p := s.plan(t, offsets0(s.topic, 40, -1))
				if len(p.Members) != 1 || !strings.Contains(p.Consequence, "The flow runs") {
					t.Errorf("of a flow that runs: %+v", p)
				}
				if err := s.apply(t, p); !errors.As(err, &running) || len(running.Members) != 1 {
					t.Errorf("of a flow that runs: %v", err)
				}
			})
			stale, p := s.plan(t, offsets0(s.topic, 10, -1)), s.plan(t, offsets0(s.topic, 40, 95))
			if d := cmp.Diff([]brief{{0, 100, 40, 60, 0}, {1, 100, 95, 5, 0}}, moves(p)); d != "" {
				t.Fatal(d)
			}
			if err := s.apply(t, p); err != nil {
				t.Fatal(err)
			}
			var moved *MovedError
			if err := s.apply(t, stale); !errors.As(err, &moved) {
				t.Errorf("a plan that is not true any more: %v", err)
			}
			if err := s.apply(t, s.plan(t, Target{End: true, Only: []flow.Partition{{Topic: s.topic, ID: 1}}})); err != nil {
				t.Fatal(err)
			}
			s.run(t, 60, func() {})
			if d := cmp.Diff([]int64{100, 100}, s.show(t)); d != "" {
				t.Error(d)
			}
			cfg, writings := s.build(t)
			if _, err := Make(t.Context(), cfg, writings, offsets0(s.topic, 101, -1)); err == nil || !strings.Contains(err.Error(), "which holds 0 to 100") {
				t.Errorf("beyond the end: %v", err)
			}
		})
	}
}

func offsets0(topic string, of ...int64) Target {
	t := Target{Offsets: map[flow.Partition]int64{}}
	for p, o := range offsets(of...).Offsets {
		t.Offsets[flow.Partition{Topic: topic, ID: p.ID}] = o
	}
	return t
}
