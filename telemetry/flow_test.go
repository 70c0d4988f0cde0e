package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// A flow that runs: every record is in one span, with what went wrong on the way, and the
// metrics say the same.
func TestAFlowThatRuns(t *testing.T) {
	const records, batch = 500, 20
	c := startReceiver(t, 0)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL)
	log, table := flowtest.NewLog(), flowtest.NewTable(flowtest.TableOptions{})
	log.Create("orders", 1)
	for i := range records {
		r := flow.Record{Value: []byte("x"), Timestamp: time.Now().UnixMicro()}
		if i%50 == 0 {
			r.Headers = []flow.Header{{Key: traceparentHeader, Value: []byte(sampled)}}
		}
		if i == 77 {
			r.Headers = append(r.Headers, flow.Header{Key: "poison"})
		}
		log.Append("orders", 0, r)
	}
	table.Inject(flowtest.Fault{At: flowtest.BeforeBegin, Err: flow.Transient(errors.New("database away"))})

	tracing, m := startTracing(t, io.Discard)
	cfg := flow.Config{
		Name: "orders", Source: log.Source(flowtest.LogOptions{Topics: []string{"orders"}, Group: "g"}), Sink: table.Sink(),
		Lanes: 1, Batch: flow.BatchLimits{Records: batch}, Buffer: 1 << 20,
		Retry: flow.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond}, Logger: slog.New(slog.DiscardHandler), Observer: m,
	}
	m.Describe("kafka", "sqlite", &cfg)
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.AddTap(m.Tap())
	m.Watch(f.Status)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	waiting, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := table.Wait(waiting, func() bool { rows, dead := table.Len(); return rows+dead == records }); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	_, spans := c.all(t)
	inSpans, links, dead, retries := 0, 0, 0, 0
	parts := map[string]*tracepb.Span{}
	for _, s := range append(spans["decode"], spans["write orders"]...) {
		parts[s.GetName()+string(s.GetParentSpanId())] = s
		retries += len(s.GetEvents())
	}
	for _, s := range spans["process orders"] {
		n, err := strconv.Atoi(text(s.GetAttributes())["messaging.batch.message_count"])
		if err != nil {
			t.Error(err)
		}
		inSpans += n
		links += len(s.GetLinks())
		dead += len(s.GetEvents())
		decode, write := parts["decode"+string(s.GetSpanId())], parts["write orders"+string(s.GetSpanId())]
		if decode == nil || write == nil || s.GetStartTimeUnixNano() > decode.GetStartTimeUnixNano() || decode.GetStartTimeUnixNano() > decode.GetEndTimeUnixNano() ||
			decode.GetEndTimeUnixNano() > write.GetStartTimeUnixNano() || write.GetEndTimeUnixNano() > s.GetEndTimeUnixNano() {
			t.Errorf("a batch whose times are not in order:\n%v\n%v\n%v", s, decode, write)
		}
	}
	if inSpans != records || links != records/50 || dead != 1 || retries != 1 {
		t.Errorf("in the spans: %d records, %d links, %d events of dead letters, %d of retries; want %d, %d, 1 and 1", inSpans, links, dead, retries, records, records/50)
	}
	s := m.Snapshot()
	if s.Records != records || s.Rows != records-1 || len(s.Dead) != 1 || s.Retries["transient"] != 1 || s.Commit.Count != uint64(s.Batches) || s.Read.Count == 0 ||
		s.EndToEnd.Count != uint64(s.Batches) {
		t.Errorf("the metrics say otherwise: %+v", s)
	}
}
