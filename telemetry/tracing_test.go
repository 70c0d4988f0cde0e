package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/penstockdev/penstock/flow"
)

// otel sets OpenTelemetry's variables to these alone.
func otelEnv(t *testing.T, vars ...string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// receiver is a collector that keeps what it is sent.
type receiver struct {
	*httptest.Server
	status int // of its answers, 0 for OK

	mu    sync.Mutex // guards what follows
	spans []*tracepb.ResourceSpans
	posts int
}

func startReceiver(t *testing.T, status int) *receiver {
	t.Helper()
	r := &receiver{status: status}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s with %s: %v", req.URL.Path, req.Header.Get("Content-Type"), err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.posts++
		r.spans = append(r.spans, m.GetResourceSpans()...)
		if r.status != 0 {
			w.WriteHeader(r.status)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// all returns the resource and the spans that have arrived, by name.
func (r *receiver) all(t *testing.T) (resource map[string]string, spans map[string][]*tracepb.Span) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	spans = map[string][]*tracepb.Span{}
	for _, rs := range r.spans {
		resource = text(rs.GetResource().GetAttributes())
		for _, scope := range rs.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				spans[s.GetName()] = append(spans[s.GetName()], s)
			}
		}
	}
	return resource, spans
}

func text(attributes []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range attributes {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[a.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			out[a.GetKey()] = fmt.Sprint(a.GetValue())
		}
	}
	return out
}

// group is a source that is a member of a consumer group, and no more.
type group struct{ flow.Source }

func (group) Member([]flow.Partition) (flow.Member, error) {
	return flow.Member{Group: "g", Generation: -1}, nil
}

const sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// traced makes a batch of one partition whose records carry these contexts.
func traced(topic string, contexts ...string) *flow.Batch {
	records := make([]flow.Record, len(contexts))
	for i, c := range contexts {
		records[i] = flow.Record{Value: []byte("v"), Offset: int64(100 + i), Timestamp: 1, Headers: []flow.Header{{Key: "a", Value: []byte("b")}}}
		if c != "" {
			records[i].Headers = append(records[i].Headers, flow.Header{Key: traceparentHeader, Value: []byte(c)})
		}
	}
	return flow.NewBatch(records, []flow.Part{{Partition: flow.Partition{Topic: topic, ID: 3}, End: len(records)}})
}

func startTracing(t *testing.T, log io.Writer) (*Tracing, *FlowMetrics) {
	t.Helper()
	tracing, err := NewTracing(t.Context(), "v1", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRegistry("v1")
	r.Trace(tracing)
	m := r.Flow("orders")
	m.Describe("kafka", "postgres", &flow.Config{Source: group{}})
	return tracing, m
}

func TestABatchBecomesASpan(t *testing.T) {
	c := startReceiver(t, 0)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL, "OTEL_SERVICE_NAME=pipes", "OTEL_RESOURCE_ATTRIBUTES=team=blue")
	tracing, m := startTracing(t, io.Discard)
	tap := m.Tap()

	unsampled := strings.TrimSuffix(sampled, "1") + "0"
	b := traced("orders", "", sampled, unsampled, "nonsense")
	began := time.Now()
	tap.Read(1, b)
	next := traced("orders", "", "") // is cut while the first is written
	tap.Decoded(1, b)
	tap.Read(1, next)
	m.Retrying(1, 1, 20*time.Millisecond, flow.Transient(errors.New("database away")))
	tap.Written(1, b, &flow.BatchStats{Lane: 1, Records: 4, Rows: 3, Bytes: 4, Dead: map[string]int{"type": 1}, Write: 50 * time.Millisecond})
	tap.Written(1, next, &flow.BatchStats{Lane: 1, Records: 2, Rows: 2, Write: time.Millisecond})
	ended := time.Now()
	for range 2 {
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	resource, spans := c.all(t)
	for name, want := range map[string]string{"service.name": "pipes", "service.version": "v1", "team": "blue", "telemetry.sdk.language": "go"} {
		if resource[name] != want {
			t.Errorf("resource: %s is %q, want %q", name, resource[name], want)
		}
	}
	if len(spans["process orders"]) != 2 || len(spans["decode"]) != 2 || len(spans["write orders"]) != 2 {
		t.Fatalf("spans: %v", spans)
	}
	batch, decode, write := spans["process orders"][0], spans["decode"][0], spans["write orders"][0]
	got := text(batch.GetAttributes())
	for name, want := range map[string]string{
		"messaging.system": "kafka", "messaging.operation.name": "process", "messaging.operation.type": "process",
		"messaging.destination.name": "orders", "messaging.destination.partition.id": "3", "messaging.batch.message_count": "4",
		"messaging.consumer.group.name": "g", "penstock.flow": "orders", "penstock.lane": "1", "penstock.rows": "3", "penstock.dead_letters": "1",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if batch.GetKind() != tracepb.Span_SPAN_KIND_CONSUMER || write.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || text(write.GetAttributes())["db.system.name"] != "postgresql" {
		t.Errorf("kinds %s and %s, write %v", batch.GetKind(), write.GetKind(), write.GetAttributes())
	}
	for _, child := range []*tracepb.Span{decode, write} {
		if !bytes.Equal(child.GetParentSpanId(), batch.GetSpanId()) || !bytes.Equal(child.GetTraceId(), batch.GetTraceId()) {
			t.Errorf("%s is no child of the batch", child.GetName())
		}
	}
	at := func(n uint64) time.Time { return time.Unix(0, int64(n)) } //nolint:gosec // a time of now
	if at(batch.GetStartTimeUnixNano()).Before(began.Add(-time.Millisecond)) || at(batch.GetEndTimeUnixNano()).After(ended) {
		t.Errorf("the batch lasted from %s to %s, but was there from %s to %s", at(batch.GetStartTimeUnixNano()), at(batch.GetEndTimeUnixNano()), began, ended)
	}
	if decode.GetStartTimeUnixNano() != batch.GetStartTimeUnixNano() || write.GetEndTimeUnixNano() != batch.GetEndTimeUnixNano() ||
		write.GetEndTimeUnixNano()-write.GetStartTimeUnixNano() != uint64(50*time.Millisecond) {
		t.Errorf("decode %v, write %v within %v", decode, write, batch)
	}
	if links := batch.GetLinks(); len(links) != 1 || fmt.Sprintf("%x-%x", links[0].GetTraceId(), links[0].GetSpanId()) != sampled[3:52] {
		t.Errorf("links %v, want one to the sampled record's span", links)
	}
	if e := batch.GetEvents(); len(e) != 1 || e[0].GetName() != eventDeadLetter || text(e[0].GetAttributes())["penstock.class"] != "type" {
		t.Errorf("events of the batch: %v", e)
	}
	if e := write.GetEvents(); len(e) != 1 || e[0].GetName() != eventRetry || text(e[0].GetAttributes())["exception.message"] != "database away" {
		t.Errorf("events of the write: %v", e)
	}
	if second := spans["write orders"][1]; len(second.GetEvents()) != 0 || len(spans["process orders"][1].GetLinks()) != 0 {
		t.Errorf("the next batch has what belongs to the first: %v", second)
	}
}

func TestSpansAreBounded(t *testing.T) {
	c := startReceiver(t, 0)
	otelEnv(t, "OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+c.URL+"/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
	tracing, m := startTracing(t, io.Discard)
	b := traced("t", slices.Repeat([]string{sampled}, 1000)...)
	b.Parts = append(b.Parts, flow.Part{Partition: flow.Partition{Topic: "other"}, First: 1000, End: 1000})
	for i := range 100 {
		m.Retrying(0, i, time.Second, errors.New("away"))
	}
	m.Tap().Written(0, b, &flow.BatchStats{Records: 1000, Write: time.Hour})
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	resource, spans := c.all(t)
	if resource["service.name"] != "penstock" || len(spans["process orders"]) != 1 { // of two topics: named after the flow
		t.Fatalf("%v, %v", resource, spans)
	}
	if n := len(spans["process orders"][0].GetLinks()); n != maxLinks {
		t.Errorf("%d links, want %d", n, maxLinks)
	}
	if n := len(spans["write orders"][0].GetEvents()); n != maxEvents {
		t.Errorf("%d events, want %d", n, maxEvents)
	}
}

func TestTracesAreOffUnlessAskedFor(t *testing.T) {
	for _, vars := range [][]string{
		{},
		{"OTEL_SERVICE_NAME=x"},
		{"OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"},
		{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=otlp"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, // of something else: nothing is sent
	} {
		otelEnv(t, vars...)
		tracing, err := NewTracing(t.Context(), "v1", slog.Default())
		if tracing != nil || err != nil {
			t.Errorf("%v: %v, %v", vars, tracing, err)
		}
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r := NewRegistry("v1")
	r.Trace(nil)
	if tap := r.Flow("f").Tap(); tap != nil {
		t.Errorf("a tap without traces: %v", tap)
	}
}

func TestWhatWouldNotBeHonouredIsRefused(t *testing.T) {
	for _, tt := range []struct {
		vars []string
		want string
	}{
		{[]string{"OTEL_TRACES_EXPORTER=zipkin"}, "OTEL_TRACES_EXPORTER=zipkin: traces can be sent by otlp only"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces can be sent by http/protobuf only"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=grpc://u:secret@c:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_COMPRESSION=zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION=zstd is no compression; want gzip or none"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TIMEOUT=10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT=10s is no time; want milliseconds"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_HEADERS=secret"}, "OTEL_EXPORTER_OTLP_HEADERS: want key=value"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere/ca.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE: open /nowhere/ca.pem"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=/nowhere/me.pem"}, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and its key"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=sometimes"}, "OTEL_TRACES_SAMPLER=sometimes is no sampler; want one of always_on"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=10"}, "OTEL_TRACES_SAMPLER_ARG=10 is no share"},
		{[]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_RESOURCE_ATTRIBUTES=team"}, "OTEL_RESOURCE_ATTRIBUTES"},
	} {
		otelEnv(t, tt.vars...)
		_, err := NewTracing(t.Context(), "v1", slog.Default())
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v, want %q", tt.vars, err, tt.want)
		}
	}
}

func TestNoSpansWhereTheSamplerSaysNo(t *testing.T) {
	c := startReceiver(t, 0)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL, "OTEL_TRACES_SAMPLER=always_off")
	tracing, m := startTracing(t, io.Discard)
	m.Tap().Written(0, traced("t", sampled), &flow.BatchStats{Records: 1})
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, spans := c.all(t); len(spans) > 0 {
		t.Errorf("spans: %v", spans)
	}
}

// A collector that refuses is logged, and does not hold the lanes up.
func TestACollectorThatRefuses(t *testing.T) {
	c := startReceiver(t, http.StatusBadRequest)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL, "OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8")
	var log syncBuffer
	tracing, m := startTracing(t, &log)
	for range 1000 {
		m.Tap().Written(0, traced("t", sampled), &flow.BatchStats{Records: 1})
	}
	_ = tracing.Shutdown(t.Context()) // says the same
	if said := log.String(); strings.Count(said, "traces could not be sent") != 1 || !strings.Contains(said, "400") {
		t.Errorf("the log does not say so once: %s", said)
	}
}

// A collector that refuses for hours fills no disk, and is not forgotten.
func TestRefusalsAreLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		c := &complaints{log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 600 { // a minute
			c.Handle(errors.New("401 Unauthorized"))
			<-time.After(100 * time.Millisecond)
		}
		c.Handle(errors.New("401 Unauthorized"))
		if said := log.String(); strings.Count(said, "401") != 3 || !strings.Contains(said, "not_logged_before=299") {
			t.Errorf("logged:\n%s", said)
		}
	})
}

// syncBuffer is a log that several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A process that ends while its collector hangs does so when it was told to.
func TestShutdownIsBounded(t *testing.T) {
	over := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer hangs.Close()
	defer close(over)
	otelEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+hangs.URL)
	tracing, m := startTracing(t, io.Discard)
	m.Tap().Written(0, traced("t", sampled), &flow.BatchStats{Records: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := tracing.Shutdown(ctx); err == nil {
		t.Error("no error, though nothing was sent")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// discard is an exporter that has no work.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }

// BenchmarkBatch is what telemetry costs a batch of 20,000 records, all of them of sampled spans, without the
// sending. The batch itself costs some 30 ms.
func BenchmarkBatch(b *testing.B) {
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(discard{}))
	defer func() { _ = p.Shutdown(b.Context()) }()
	r := NewRegistry("v1")
	r.Trace(newTracing(p, "v1"))
	m := r.Flow("f")
	m.Describe("kafka", "postgres", &flow.Config{Source: group{}})
	batch := contexts()["sampled"]
	stats := flow.BatchStats{Records: 20_000, Rows: 20_000, Write: time.Millisecond, Decode: time.Millisecond, Oldest: 1}
	run := func(name string, tap flow.Tap) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if tap != nil {
					tap.Read(0, batch)
					tap.Decoded(0, batch)
				}
				m.BatchWritten(stats)
				if tap != nil {
					tap.Written(0, batch, &stats)
				}
			}
		})
	}
	run("metrics", nil)
	run("metrics and traces", m.Tap())
}

// BenchmarkScrape is what one look of Prometheus costs, at a flow of 64 partitions.
func BenchmarkScrape(b *testing.B) {
	r := NewRegistry("v1")
	s := exampleStatus()
	for len(s.Partitions) < 64 {
		p := s.Partitions[0]
		p.ID = int32(len(s.Partitions)) //nolint:gosec // below 64
		s.Partitions = append(s.Partitions, p)
	}
	r.Flow("f").Watch(func() flow.Status { return s })
	for b.Loop() {
		if _, err := r.Gatherer().Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
