package flowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// Case is one case of the suite. It fails through the testing.TB that it is
// given, so that the suite itself can be tested with broken connectors.
type Case struct {
	Name string
	Run  func(t testing.TB)
}

func run(t *testing.T, cases []Case) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.Run(t) })
	}
}

// Variables, so that the tests of the suite itself need not wait for so long.
var (
	// patience bounds a case: whatever takes longer hangs.
	patience = 60 * time.Second
	// soon bounds what must happen at once when a context ends, on a busy machine.
	soon = 10 * time.Second
)

// caseContext ends when the case should have.
func caseContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Item is a row as the suite writes it and reads it back: columns key (text),
// seq (int8) and payload (text). Records carry the same as JSON in their value,
// and the key as their key.
type Item struct {
	Key     string `json:"key"`
	Seq     int64  `json:"seq"`
	Payload string `json:"payload"`
}

// items makes n items with distinct keys, from sequence number first on.
func items(first, n int) []Item {
	out := make([]Item, n)
	for i := range out {
		out[i] = Item{Key: fmt.Sprintf("k%d", first+i), Seq: int64(first + i), Payload: fmt.Sprintf("payload %d", first+i)}
	}
	return out
}

// epoch is when the suite's records are made: 2026-01-01 in microseconds.
const epoch = int64(1_767_225_600_000_000)

// Record is the item as a record.
func (it Item) Record() flow.Record {
	value, err := json.Marshal(it)
	if err != nil {
		panic(err) // strings and a number
	}
	return flow.Record{
		Key: []byte(it.Key), Value: value, Timestamp: epoch + it.Seq,
		Headers: []flow.Header{{Key: "trace", Value: []byte(it.Key)}, {Key: "trace", Value: nil}},
	}
}

// ItemFields are the columns of an Item.
func ItemFields() []flow.Field {
	return []flow.Field{
		{Name: "key", Type: "text", Kind: flow.KindString, Required: true},
		{Name: "seq", Type: "int8", Kind: flow.KindInt64},
		{Name: "payload", Type: "text", Kind: flow.KindString},
	}
}

// itemDecoder makes the columns of items. It rejects what is not JSON. A
// tombstone has its key and nulls.
type itemDecoder struct{}

var _ flow.Schemer = (*itemDecoder)(nil)

// Fields implements flow.Schemer.
func (d *itemDecoder) Fields() []flow.Field { return ItemFields() }

// Process implements flow.Transform.
func (d *itemDecoder) Process(_ context.Context, b *flow.Batch) error {
	if b.Columns == nil {
		b.Columns = flow.NewColumns(ItemFields())
	}
	b.Columns.Reset(len(b.Records))
	cols := b.Columns.Cols
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		r := &b.Records[i]
		if r.Value == nil {
			cols[0].Bytes[i] = r.Key
			cols[1].SetNull(i)
			cols[2].SetNull(i)
			continue
		}
		var it Item
		if err := json.Unmarshal(r.Value, &it); err != nil {
			b.Reject(i, flow.StageDecode, &flow.RecordError{Class: "malformed", Err: err})
			continue
		}
		cols[0].Bytes[i] = []byte(it.Key)
		cols[1].Ints[i] = it.Seq
		cols[2].Bytes[i] = []byte(it.Payload)
	}
	return nil
}

// checkingDecoder is an itemDecoder without columns, for sinks of raw records.
type checkingDecoder struct{}

// Process implements flow.Transform.
func (checkingDecoder) Process(_ context.Context, b *flow.Batch) error {
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		if r := &b.Records[i]; r.Value != nil && !json.Valid(r.Value) {
			b.Reject(i, flow.StageDecode, &flow.RecordError{Class: "malformed", Err: errors.New("not JSON")})
		}
	}
	return nil
}

// within runs f and fails if it takes longer than d.
func within(t testing.TB, d time.Duration, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		t.Fatalf("%s has not returned after %s", what, d)
		return nil
	}
}

// discard takes an error that a cleanup has no use for.
func discard(error) {}

// eventually asks cond until it holds.
func eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		began := time.Now()
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", d, what)
		}
		// A condition that takes long (it reads a table) is asked more rarely.
		<-time.After(min(2*time.Millisecond+time.Since(began), time.Second))
	}
}

func must(t testing.TB, err error, what string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// quickRetry keeps tests short.
var quickRetry = flow.Retry{Initial: time.Millisecond, Max: 20 * time.Millisecond}

var quiet = slog.New(slog.DiscardHandler)
