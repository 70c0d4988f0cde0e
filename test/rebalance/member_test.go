package rebalance

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/connect/postgres"
	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
)

// memberConfig is a member of the group: a flow from the topic to the table,
// exactly once.
type memberConfig struct {
	Name       string // of the member, unique in a test
	Broker     string
	Topic      string
	Group      string
	Protocol   string
	Assignor   string
	InstanceID string
	Heartbeat  time.Duration
	Session    time.Duration
	Database   string
	// Hold is how long the member takes to let partitions go.
	Hold time.Duration
}

// eventKind is what a member tells of a partition.
type eventKind string

const (
	assigned eventKind = "assigned" // the group has given it the partition; nothing is done yet
	revoked  eventKind = "revoked"  // the group takes the partition; nothing is done yet
	written  eventKind = "written"  // a batch is durable
)

// event is one line of a member's report.
type event struct {
	Member     string    `json:"-"`
	Kind       eventKind `json:"kind"`
	At         time.Time `json:"at"`
	Partition  int32     `json:"partition"`
	From, Next int64     // of a batch
}

// runMember runs the flow until ctx ends.
func runMember(ctx context.Context, c memberConfig, report func(event)) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	source, err := kafka.NewSource(kafka.SourceConfig{
		Connection: kafka.Connection{Brokers: []string{c.Broker}}, Topics: []string{c.Topic}, Group: c.Group, InstanceID: c.InstanceID,
		Protocol: c.Protocol, Assignor: c.Assignor, SessionTimeout: c.Session, HeartbeatInterval: c.Heartbeat, Logger: log,
	})
	if err != nil {
		return err
	}
	sink, err := postgres.NewSink(postgres.SinkConfig{URL: c.Database, TableConfig: postgres.TableConfig{Table: "t"}})
	if err != nil {
		return err
	}
	f, err := flow.New(flow.Config{
		Name: c.Group, Source: timedSource{source, report}, Sink: timedSink{sink, report}, Logger: log,
		Revoked: func(ctx context.Context, _ []flow.Partition, _ bool) {
			select {
			case <-time.After(c.Hold):
			case <-ctx.Done():
			}
		},
		Transforms: func(int) ([]flow.Transform, error) {
			d, err := decode.NewJSON(decode.JSONConfig{Columns: []decode.Column{
				{Name: "part", Type: "int4", From: "partition"}, {Name: "off", Type: "int8", From: "offset"},
			}})
			return []flow.Transform{d}, err
		},
	})
	if err != nil {
		return err
	}
	return f.Run(ctx)
}

// timedSource reports what the group says, when it says it.
type timedSource struct {
	*kafka.Source
	report func(event)
}

func (s timedSource) Subscribe(ctx context.Context, in flow.Intake) error {
	return s.Source.Subscribe(ctx, timedIntake{in, s.report})
}

type timedIntake struct {
	flow.Intake
	report func(event)
}

func (i timedIntake) Assigned(ctx context.Context, ps []flow.PartitionInfo) ([]flow.Position, error) {
	now := time.Now()
	for k := range ps {
		i.report(event{Kind: assigned, At: now, Partition: ps[k].ID})
	}
	return i.Intake.Assigned(ctx, ps)
}

func (i timedIntake) Revoked(ctx context.Context, ps []flow.Partition, lost bool) {
	now := time.Now()
	for _, p := range ps {
		i.report(event{Kind: revoked, At: now, Partition: p.ID})
	}
	i.Intake.Revoked(ctx, ps, lost)
}

// timedSink reports batches, when they are durable.
type timedSink struct {
	*postgres.Sink
	report func(event)
}

func (s timedSink) Writer(lane int) (flow.Writer, error) {
	w, err := s.Sink.Writer(lane)
	return timedWriter{w, s.report}, err
}

type timedWriter struct {
	flow.Writer
	report func(event)
}

func (w timedWriter) Write(ctx context.Context, b *flow.Batch) error {
	if err := w.Writer.Write(ctx, b); err != nil {
		return err
	}
	now := time.Now()
	for _, p := range b.Parts {
		w.report(event{Kind: written, At: now, Partition: p.ID, From: p.From, Next: p.Next})
	}
	return nil
}

var (
	_ flow.Committer       = timedSource{}
	_ flow.Pauser          = timedSource{}
	_ flow.Seeker          = timedSource{}
	_ flow.Checkpointer    = timedSink{}
	_ flow.DeadLetterStore = timedSink{}
	_ flow.LaneLimiter     = timedSink{}
)

const memberEnv = "PENSTOCK_REBALANCE_MEMBER"

// memberMain is a member in a process of its own: events to standard output, and
// it leaves when standard input ends. So it also ends with its parent.
func memberMain() error {
	var c memberConfig
	if err := json.Unmarshal([]byte(os.Getenv(memberEnv)), &c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	return runMember(ctx, c, func(e event) {
		mu.Lock()
		defer mu.Unlock()
		if out.Encode(e) != nil {
			cancel() // nobody listens any more
		}
	})
}

// process is a member in a process of its own.
type process struct {
	name, instance string
	cmd            *exec.Cmd
	stdin          io.Closer
	read           chan error // the end of its report
}

// startMember starts a process of this test binary.
func startMember(t *testing.T, c memberConfig, report func(event)) *process {
	t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{name: c.Name, instance: c.InstanceID, cmd: exec.CommandContext(context.Background(), exe), read: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), memberEnv+"="+string(raw))
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	stdout, errOut := p.cmd.StdoutPipe()
	if err := cmp.Or(err, errOut); err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		var failed error
		for lines.Scan() {
			e := event{Member: c.Name}
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w: %s", c.Name, err, lines.Bytes()))
				continue
			}
			report(e)
		}
		p.read <- errors.Join(failed, lines.Err())
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.kill()
		}
	})
	return p
}

// leave makes the member leave in order, and returns when it has ended.
func (p *process) leave() error {
	return errors.Join(p.stdin.Close(), <-p.read, p.cmd.Wait())
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	read := <-p.read
	_ = p.cmd.Wait() // says that it was killed
	return errors.Join(err, read)
}
