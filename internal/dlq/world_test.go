package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// world is a flow whose dead letters are in a LetterLog, and its rows in a Table.
type world struct {
	t     *testing.T
	log   *flowtest.LetterLog
	table *flowtest.Table
	// plain: the sink keeps no positions.
	plain bool
	// bad says whether a record is refused by the decoder now.
	bad func(value string) bool
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, log: newLog(), table: flowtest.NewTable(flowtest.TableOptions{NoDeadLetters: true}),
		bad: func(v string) bool { return strings.Contains(v, "bad") },
	}
}

const letters = 24

// fill makes letters: of two topics with three partitions each, every fourth of them bad for good.
func (w *world) fill() {
	for i := range letters {
		w.log.Append(w.letter(i))
	}
}

func (w *world) letter(i int) flow.Letter {
	value := fmt.Sprintf(`{"n":%d,"state":"good"}`, i)
	if i%4 == 3 {
		value = fmt.Sprintf(`{"n":%d,"state":"bad"}`, i)
	}
	return flow.Letter{Flow: "orders", DeadLetter: flow.DeadLetter{
		ClusterID: "c1", Partition: flow.Partition{Topic: [...]string{"eu", "us"}[i%2], ID: int32(i / 2 % 3)}, TopicID: "t1",
		Record: &flow.Record{Key: fmt.Appendf(nil, "k%d", i), Value: []byte(value), Offset: 1000 + int64(i), Timestamp: 1, Headers: []flow.Header{{Key: "h", Value: []byte("v")}}},
		Stage:  flow.StageDecode, Class: [...]string{"type", "range"}[i%2], Column: "n", Message: "was wrong",
	}}
}

func (w *world) build() (flow.Config, error) {
	cfg := flow.Config{
		Name: "orders", Source: nothing{}, Sink: w.table.Sink(), DeadLetters: w.log.Queue(), Lanes: 2,
		Batch: flow.BatchLimits{Records: 3, Wait: time.Millisecond}, Logger: slog.New(slog.DiscardHandler),
		Retry:      flow.Retry{Initial: time.Millisecond, Max: time.Millisecond},
		Transforms: func(int) ([]flow.Transform, error) { return []flow.Transform{decoder{w}}, nil },
	}
	if w.plain {
		cfg.Sink = w.table.PlainSink()
	}
	return cfg, nil
}

// nothing is the source of a flow that is not run.
type nothing struct{}

func (nothing) Open(context.Context) (*flow.Log, error)      { return nil, errors.ErrUnsupported }
func (nothing) Subscribe(context.Context, flow.Intake) error { return errors.ErrUnsupported }
func (nothing) Read(context.Context) error                   { return errors.ErrUnsupported }
func (nothing) Close(context.Context) error                  { return nil }

// decoder puts what it is shown of a record into its key: topic, partition and offset.
type decoder struct{ w *world }

func (d decoder) Process(_ context.Context, b *flow.Batch) error {
	for i := range b.Records {
		r := &b.Records[i]
		if d.w.bad(string(r.Value)) {
			b.Reject(i, flow.StageDecode, &flow.RecordError{Class: "again", Column: "state", Err: errors.New("still wrong")})
			continue
		}
		p := b.Parts[r.Part]
		r.Key = fmt.Appendf(nil, "%s/%d/%d", p.Topic, p.ID, r.Offset)
	}
	return nil
}

func (w *world) queue() *Queue {
	w.t.Helper()
	q, err := New(w.build)
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

// redrive plans and redrives.
func (w *world) redrive(o Options) (*Result, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	p, err := w.queue().PlanRedrive(ctx, o)
	if err != nil {
		return nil, err
	}
	r, err := w.queue().Redrive(ctx, p, nil)
	if err == nil && ctx.Err() != nil {
		w.t.Fatal("the redrive came to no end")
	}
	return r, err
}

// verify checks that every letter is one row, or is dead with redrives, and nothing else is left.
func (w *world) verify(redrives int, atLeast bool) {
	w.t.Helper()
	rows := map[string]int{}
	for _, r := range w.table.Rows() {
		rows[string(r.Key)]++
		if n := len(r.Headers); n != 2 || r.Headers[0].Key != "h" || r.Headers[1].Key != flow.HeaderRedrives {
			w.t.Errorf("headers of a row: %v", r.Headers)
		}
	}
	dead := there(w.t, w.log, "orders")
	for i := range letters {
		l := w.letter(i)
		id := IDOf(&l).String()
		d, isDead := dead[id]
		delete(dead, id)
		switch n := rows[id]; {
		case !w.bad(string(l.Record.Value)) && (isDead || n == 0 || n > 1 && !atLeast):
			w.t.Errorf("%s is %d rows, and a letter: %t", id, n, isDead)
		case w.bad(string(l.Record.Value)) && (!isDead || n > 0):
			w.t.Errorf("%s, which fails, is %d rows, and a letter: %t", id, n, isDead)
		case isDead && (d.Redrives != redrives || d.Class != "again" || d.Message != "column state: still wrong" || d.ClusterID != "c1" || d.Job != "" ||
			d.TopicID != "t1" || !bytes.Equal(d.Record.Value, l.Record.Value) || string(d.Record.Key) != string(l.Record.Key) || len(d.Record.Headers) != 2):
			w.t.Errorf("%s as a letter: %+v, %+v", id, d, d.Record)
		}
	}
	for id := range dead {
		w.t.Errorf("%s is a letter, and was none", id)
	}
	w.clean()
}
