package stdout

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/coljson"
)

// buffer is an output that several writers share.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.FieldsFunc(b.text.String(), func(r rune) bool { return r == '\n' })
}

// printed is a record as it is printed.
type printed struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp string
	Key       any
	Headers   [][2]any
	Value     any
}

// plainBytes undoes appendBytes for what is not JSON.
func plainBytes(t testing.TB, v any) []byte {
	t.Helper()
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		return []byte(v)
	case map[string]any:
		if text, ok := v["base64"].(string); ok && len(v) == 1 {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	for name, columns := range map[string]bool{"rows": true, "records": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flowtest.RunSink(t, flowtest.SinkHarness{
				Features: flowtest.SinkFeatures{Columns: columns, StoresDeadLetters: true, LocatesBadRows: true, Partial: true},
				New:      func(testing.TB) *flowtest.Target { return newTarget(columns) },
			})
		})
	}
}

func newTarget(columns bool) *flowtest.Target {
	var out, dead buffer
	return &flowtest.Target{
		Sink: func(t testing.TB) flow.Sink {
			s, err := NewSink(SinkConfig{Output: &out, Errors: &dead})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Rows: func(t testing.TB) []flowtest.Item {
			var items []flowtest.Item
			for _, line := range out.lines() {
				var it flowtest.Item
				var err error
				if columns {
					err = json.Unmarshal([]byte(line), &it)
				} else {
					record := struct{ Value *flowtest.Item }{&it}
					err = json.Unmarshal([]byte(line), &record)
				}
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				items = append(items, it)
			}
			return items
		},
		Dead: func(t testing.TB) []flowtest.DeadRow {
			var rows []flowtest.DeadRow
			for _, line := range dead.lines() {
				rows = append(rows, deadRow(t, line))
			}
			return rows
		},
	}
}

func deadRow(t testing.TB, line string) flowtest.DeadRow {
	t.Helper()
	var d struct {
		DeadLetter struct {
			Flow, Stage, Class, Column, Message string
			ClusterID                           string `json:"cluster_id"`
			TopicID                             string `json:"topic_id"`
		} `json:"dead_letter"`
		Record printed
	}
	if err := json.Unmarshal([]byte(line), &d); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	at, err := time.Parse(coljson.LayoutTimestamptz, d.Record.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	row := flowtest.DeadRow{Flow: d.DeadLetter.Flow, DeadLetter: flow.DeadLetter{
		ClusterID: d.DeadLetter.ClusterID, TopicID: d.DeadLetter.TopicID,
		Partition: flow.Partition{Topic: d.Record.Topic, ID: d.Record.Partition},
		Stage:     flow.Stage(d.DeadLetter.Stage), Class: d.DeadLetter.Class, Column: d.DeadLetter.Column, Message: d.DeadLetter.Message,
		Record: &flow.Record{Offset: d.Record.Offset, Timestamp: at.UnixMicro(), Key: plainBytes(t, d.Record.Key), Value: plainBytes(t, d.Record.Value)},
	}}
	for _, h := range d.Record.Headers {
		row.Record.Headers = append(row.Record.Headers, flow.Header{Key: string(plainBytes(t, h[0])), Value: plainBytes(t, h[1])})
	}
	return row
}
