package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a log and some tables in memory, and a directory with flow files.
type world struct {
	t      *testing.T
	dir    string
	log    *flowtest.Log
	topics map[string]bool // that there are in the log
	// messages are those logged.
	messages messages
	metrics  *telemetry.Registry
	options  supervisor.Options

	mu     sync.Mutex // guards what follows
	tables map[string]*flowtest.Table
	opens  map[string]int
}

type sourceConfig struct {
	Topic string `yaml:"topic" required:"true" doc:"Topic."`
	// Logger is set when the flow is built, and is no change of the file.
	Logger *slog.Logger `yaml:"-"`
}

type sinkConfig struct {
	Table  string `yaml:"table" required:"true" doc:"Table."`
	Refuse string `yaml:"refuse" doc:"Why opening fails for good."`
	Break  string `yaml:"break" doc:"Why opening fails for a reason of unknown class."`
}

// sink is a table whose opening can be refused.
type sink struct {
	*flowtest.TableSink
	cfg  sinkConfig
	open func()
}

func (s *sink) Open(ctx context.Context, setup flow.Setup) error {
	s.open()
	switch {
	case s.cfg.Refuse != "":
		return flow.Fatal(errors.New(s.cfg.Refuse))
	case s.cfg.Break != "":
		return errors.New(s.cfg.Break)
	}
	return s.TableSink.Open(ctx, setup)
}

const partitions = 2

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), log: flowtest.NewLog(), topics: map[string]bool{}, metrics: telemetry.NewRegistry("test"), tables: map[string]*flowtest.Table{}, opens: map[string]int{}}
	registry := new(connect.Registry)
	err := registry.Add(
		connect.Source[sourceConfig]{Name: "log", Doc: "A log.", New: func(c sourceConfig) (flow.Source, error) {
			return w.log.Source(flowtest.LogOptions{Topics: []string{c.Topic}}), nil
		}},
		connect.Sink[sinkConfig]{Name: "table", Doc: "A table.", StoresDeadLetters: true, New: func(c sinkConfig) (flow.Sink, error) {
			return &sink{w.table(c.Table).Sink(), c, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.opens[c.Table]++
			}}, nil
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	w.options = supervisor.Options{
		Paths: []string{w.dir}, Metrics: w.metrics, Logger: slog.New(slog.NewTextHandler(&w.messages, nil)),
		Lint: func(paths []string) ([]*config.Linted, error) {
			return config.Lint(paths, config.Options{Registry: registry})
		},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.messages.String())
		}
	})
	return w
}

func (w *world) table(name string) *flowtest.Table {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tables[name] == nil {
		w.tables[name] = flowtest.NewTable(flowtest.TableOptions{})
	}
	return w.tables[name]
}

func (w *world) opened(table string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opens[table]
}

// file writes a flow file that moves topic name to table name. More is added to the sink's section,
// or, where it begins without a blank, at the end.
func (w *world) file(name string, more ...string) string {
	w.t.Helper()
	if !w.topics[name] {
		w.topics[name] = true
		w.log.Create(name, partitions)
	}
	sink, rest := "", ""
	for _, m := range more {
		if strings.HasPrefix(m, " ") {
			sink += m + "\n"
		} else {
			rest += m + "\n"
		}
	}
	return w.write(name+".yaml", fmt.Sprintf("flow: %[1]s\nsource:\n  log: {topic: %[1]s}\nsink:\n  table:\n    table: %[1]s\n%[2]sshutdown: {grace: 2s}\nretry: {initial: 1ms, max: 5ms, unknown_attempts: 1}\n%[3]s", name, sink, rest))
}

// write replaces a file as careful editors do.
func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// add writes n records to each partition of a topic.
func (w *world) add(topic string, n int) {
	for p := range int32(partitions) {
		for range n {
			w.log.Append(topic, p, flow.Record{Value: []byte("v")})
		}
	}
}

// exact checks that the table has every record of the topic once, in order.
func (w *world) exact(name string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	want := w.log.All(name)
	total := 0
	for _, records := range want {
		total += len(records)
	}
	table := w.table(name)
	_ = table.Wait(ctx, func() bool { n, _ := table.Len(); return n >= total })
	got := map[flow.Partition][]int64{}
	for _, r := range table.Rows() {
		got[r.Partition] = append(got[r.Partition], r.Offset)
	}
	for p, records := range want {
		offsets := make([]int64, len(records))
		for i := range records {
			offsets[i] = records[i].Offset
		}
		if !slices.Equal(got[p], offsets) {
			w.t.Errorf("%s: %d rows of %d records, or not in order", p, len(got[p]), len(offsets))
		}
	}
}

// start runs a supervisor until the test ends. Stop ends it before, and returns what Run did.
func (w *world) start() (s *supervisor.Supervisor, stop func() error) {
	w.t.Helper()
	s, err := supervisor.New(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	w.t.Cleanup(func() { _ = stop() })
	return s, stop
}

// await waits until the flow looks as wanted.
func (w *world) await(s *supervisor.Supervisor, name string, ok func(*supervisor.FlowView) bool) supervisor.FlowView {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	for {
		v, err := s.Flow(name)
		if err == nil && ok(&v) {
			return v
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			w.t.Fatalf("flow %s: %v: %+v", name, err, short(v))
		}
	}
}

// short leaves the histograms out.
func short(v supervisor.FlowView) supervisor.FlowView {
	v.Metrics = telemetry.Snapshot{}
	return v
}

func in(state flow.State) func(*supervisor.FlowView) bool {
	return func(v *supervisor.FlowView) bool { return v.Status.State == state }
}

// messages collects what is logged.
type messages struct {
	mu   sync.Mutex
	text strings.Builder
}

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(b)
}

func (m *messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

func (m *messages) count(text string) int { return strings.Count(m.String(), text) }
