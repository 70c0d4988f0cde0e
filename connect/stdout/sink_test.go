package stdout

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var fields = []flow.Field{
	{Name: "id", Type: "text", Kind: flow.KindString},
	{Name: "temp", Type: "float8", Kind: flow.KindFloat64},
}

func batch() *flow.Batch {
	b := flow.NewBatch([]flow.Record{
		{Key: []byte("k"), Value: []byte("{\n\"a\": 1}"), Offset: 5, Headers: []flow.Header{{Key: "h", Value: []byte{0xff}}}},
		{Value: []byte("not json"), Offset: 6},
		{Value: nil, Offset: 7},
	}, []flow.Part{{Partition: flow.Partition{Topic: "t", ID: 2}, From: 5, Next: 8, End: 3}})
	return b
}

func columns(b *flow.Batch) {
	b.Columns = flow.NewColumns(fields)
	b.Columns.Reset(3)
	c := b.Columns.Cols
	c[0].Bytes[0], c[0].Bytes[1], c[0].Bytes[2] = []byte("ü\n"), []byte("longer"), []byte("bad")
	c[1].Floats[0], c[1].Floats[2] = 1.5, math.NaN()
	c[1].SetNull(1)
}

func run(t *testing.T, format string, decoded bool, b *flow.Batch) (out, dead string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	s, err := NewSink(SinkConfig{Format: format, Output: &stdout, Errors: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	setup := flow.Setup{Flow: "f", Lanes: 1}
	if decoded {
		setup.Fields = fields
	}
	if err := s.Open(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	w, err := s.Writer(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), s.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

func TestFormats(t *testing.T) {
	const dead = `{"dead_letter":{"flow":"f","cluster_id":"","topic_id":"","stage":"write","class":"range","column":"temp","message":"column temp: is not a finite number, and JSON has no other"},` +
		`"record":{"topic":"t","partition":2,"offset":7,"timestamp":"1970-01-01T00:00:00.000000Z","key":null,"headers":[],"value":null}}` + "\n"
	for _, c := range []struct {
		name, format string
		decoded      bool
		out, dead    string
	}{
		{"rows as JSON", FormatJSON, true, `{"id":"ü\n","temp":1.5}` + "\n" + `{"id":"longer","temp":null}` + "\n", dead},
		{"rows as a table", FormatTable, true, "id      temp\n------  ----\nü\uFFFD      1.5\nlonger  \n", dead},
		{"records as JSON", FormatJSON, false, `{"topic":"t","partition":2,"offset":5,"timestamp":"1970-01-01T00:00:00.000000Z","key":"k","headers":[["h",{"base64":"/w=="}]],"value":{"a":1}}
{"topic":"t","partition":2,"offset":6,"timestamp":"1970-01-01T00:00:00.000000Z","key":null,"headers":[],"value":"not json"}
{"topic":"t","partition":2,"offset":7,"timestamp":"1970-01-01T00:00:00.000000Z","key":null,"headers":[],"value":null}
`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := batch()
			if c.decoded {
				columns(b)
			}
			out, deadOut := run(t, c.format, c.decoded, b)
			if diff := cmp.Diff(c.out, out); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.dead, deadOut); diff != "" {
				t.Errorf("dead letters (-want +got):\n%s", diff)
			}
		})
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestOutputThatIsGoneIsFatal(t *testing.T) {
	s, err := NewSink(SinkConfig{Output: brokenPipe{}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Writer(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(t.Context(), batch()); flow.ClassOf(err) != flow.ClassFatal {
		t.Errorf("got %v, want a fatal error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Write(ctx, batch()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := connect.SpecOf[SinkConfig](); err != nil {
		t.Error(err)
	}
	if _, err := NewSink(SinkConfig{Format: "xml"}); err == nil {
		t.Error("format xml was accepted")
	}
}
