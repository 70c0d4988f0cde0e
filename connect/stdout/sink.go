package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
)

// The formats.
const (
	FormatJSON  = "json"
	FormatTable = "table"
)

// SinkConfig configures the sink.
type SinkConfig struct {
	Format string `yaml:"format" default:"json" enum:"json,table" doc:"json: one object per line. table: aligned columns, as wide as the first rows need."`

	// Output takes the rows and Errors the dead letters. Default: standard output
	// and standard error.
	Output io.Writer `yaml:"-"`
	Errors io.Writer `yaml:"-"`
}

// Validate refuses formats that do not exist.
func (c *SinkConfig) Validate() error {
	if c.Format != FormatJSON && c.Format != FormatTable {
		return connect.Errorf("format", "%q is neither json nor table", c.Format)
	}
	return nil
}

// Sink prints rows. Make it with NewSink.
type Sink struct {
	cfg   SinkConfig
	setup flow.Setup

	// mu keeps the batches of different lanes apart.
	mu    sync.Mutex
	table *table // nil until the first rows have set the widths
}

var (
	_ flow.Sink            = (*Sink)(nil)
	_ flow.DeadLetterStore = (*Sink)(nil)
	_ flow.Writer          = (*writer)(nil)
)

// NewSink makes a sink.
func NewSink(cfg SinkConfig) (*Sink, error) {
	if cfg.Format == "" {
		cfg.Format = FormatJSON
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Output == nil {
		cfg.Output = os.Stdout
	}
	if cfg.Errors == nil {
		cfg.Errors = os.Stderr
	}
	return &Sink{cfg: cfg}, nil
}

// StoresDeadLetters is true: they are printed to standard error.
func (s *Sink) StoresDeadLetters() bool { return true }

// Open notes the columns.
func (s *Sink) Open(_ context.Context, setup flow.Setup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setup, s.table = setup, nil
	return nil
}

// Writer makes the writer of a lane.
func (s *Sink) Writer(int) (flow.Writer, error) { return &writer{sink: s, setup: s.setup}, nil }

// Close does nothing: standard output stays open.
func (s *Sink) Close(context.Context) error { return nil }

// writer renders the batches of a lane. What it prints is made first, then written
// in one piece.
type writer struct {
	sink  *Sink
	setup flow.Setup
	rows  []byte
	dead  []byte
	cells [][]string
}

// Write prints the rows, then the dead letters.
func (w *writer) Write(ctx context.Context, b *flow.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.rows, w.dead, w.cells = w.rows[:0], w.dead[:0], w.cells[:0]
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		if err := w.render(b, i); err != nil {
			b.Reject(i, flow.StageWrite, err)
		}
	}
	for _, d := range b.DeadLetters() {
		d.ClusterID = w.setup.ClusterID
		w.dead = appendDeadLetter(w.dead, w.setup.Flow, &d)
	}
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	if len(w.cells) > 0 {
		if w.sink.table == nil {
			w.sink.table = newTable(w.header(), w.cells)
			w.rows = w.sink.table.header(w.rows)
		}
		for _, cells := range w.cells {
			w.rows = w.sink.table.row(w.rows, cells)
		}
	}
	return errors.Join(put(w.sink.cfg.Output, w.rows), put(w.sink.cfg.Errors, w.dead))
}

// Close does nothing.
func (w *writer) Close() error { return nil }

// put writes. An output that is gone will not come back.
func put(to io.Writer, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if _, err := to.Write(text); err != nil {
		return flow.Fatal(fmt.Errorf("printing: %w", err))
	}
	return nil
}

// render adds row i to rows or cells.
func (w *writer) render(b *flow.Batch, i int) error {
	asTable := w.sink.cfg.Format == FormatTable
	if b.Columns == nil {
		p := partOf(b, i)
		if asTable {
			r := &b.Records[i]
			w.cells = append(w.cells, []string{
				p.Topic, strconv.Itoa(int(p.ID)), strconv.FormatInt(r.Offset, 10), timestamp(r.Timestamp), printable(r.Key), printable(r.Value),
			})
			return nil
		}
		w.rows = appendRecord(w.rows, p.Partition, &b.Records[i], true)
		w.rows = append(w.rows, '\n')
		return nil
	}
	var cells []string
	start := len(w.rows)
	for k := range b.Columns.Cols {
		col := &b.Columns.Cols[k]
		at := len(w.rows)
		if !asTable {
			w.rows = append(w.rows, ",{"[b2i(k == 0)])
			w.rows = coljson.AppendString(w.rows, col.Name)
			w.rows = append(w.rows, ':')
			at = len(w.rows)
		}
		var err error
		if w.rows, err = coljson.Append(w.rows, col, i); err != nil {
			w.rows = w.rows[:start]
			return &flow.RecordError{Class: "range", Column: col.Name, Err: err}
		}
		if asTable {
			cells = append(cells, plain(w.rows[at:]))
		}
	}
	if asTable {
		w.rows = w.rows[:start]
		w.cells = append(w.cells, cells)
		return nil
	}
	w.rows = append(w.rows, "}\n"...)
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *writer) header() []string {
	if w.setup.Fields == nil {
		return []string{"topic", "partition", "offset", "timestamp", "key", "value"}
	}
	names := make([]string, len(w.setup.Fields))
	for i := range w.setup.Fields {
		names[i] = w.setup.Fields[i].Name
	}
	return names
}

func partOf(b *flow.Batch, i int) *flow.Part {
	for k := range b.Parts {
		if i >= b.Parts[k].First && i < b.Parts[k].End {
			return &b.Parts[k]
		}
	}
	return &flow.Part{}
}

func timestamp(us int64) string {
	t, err := coljson.AppendTime(nil, coljson.LayoutTimestamptz, us)
	if err != nil {
		return strconv.FormatInt(us, 10)
	}
	return string(t)
}

// appendRecord writes a record that nothing has decoded.
func appendRecord(dst []byte, p flow.Partition, r *flow.Record, asJSON bool) []byte {
	dst = append(dst, `{"topic":`...)
	dst = coljson.AppendString(dst, p.Topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(p.ID), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, r.Offset, 10)
	dst = append(dst, `,"timestamp":`...)
	dst = coljson.AppendString(dst, timestamp(r.Timestamp))
	dst = append(dst, `,"key":`...)
	dst = appendBytes(dst, r.Key, false)
	dst = append(dst, `,"headers":[`...)
	for i, h := range r.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '[')
		dst = coljson.AppendString(dst, h.Key)
		dst = append(dst, ',')
		dst = appendBytes(dst, h.Value, false)
		dst = append(dst, ']')
	}
	dst = append(dst, `],"value":`...)
	dst = appendBytes(dst, r.Value, asJSON)
	return append(dst, '}')
}

// appendBytes writes null, JSON as it is (if asked to), text as a string, and what is
// not text as {"base64": ...}.
func appendBytes(dst, b []byte, asJSON bool) []byte {
	switch {
	case b == nil:
		return append(dst, "null"...)
	case asJSON && json.Valid(b):
		var line bytes.Buffer
		if json.Compact(&line, b) == nil { // a value in lines of its own would break ours
			return append(dst, line.Bytes()...)
		}
	case !utf8.Valid(b):
		text, err := json.Marshal(b)
		if err == nil {
			dst = append(dst, `{"base64":`...)
			dst = append(dst, text...)
			return append(dst, '}')
		}
	}
	return coljson.AppendString(dst, b)
}

// appendDeadLetter writes a record with what there is to know of its failure.
// Its value is a string, not JSON, so that it is byte for byte what was read.
func appendDeadLetter(dst []byte, flowName string, d *flow.DeadLetter) []byte {
	dst = append(dst, `{"dead_letter":{"flow":`...)
	dst = coljson.AppendString(dst, flowName)
	dst = append(dst, `,"cluster_id":`...)
	dst = coljson.AppendString(dst, d.ClusterID)
	dst = append(dst, `,"topic_id":`...)
	dst = coljson.AppendString(dst, d.TopicID)
	dst = append(dst, `,"stage":`...)
	dst = coljson.AppendString(dst, string(d.Stage))
	dst = append(dst, `,"class":`...)
	dst = coljson.AppendString(dst, d.Class)
	dst = append(dst, `,"column":`...)
	dst = coljson.AppendString(dst, d.Column)
	dst = append(dst, `,"message":`...)
	dst = coljson.AppendString(dst, d.Message)
	dst = append(dst, `},"record":`...)
	dst = appendRecord(dst, d.Partition, d.Record, false)
	return append(dst, "}\n"...)
}
