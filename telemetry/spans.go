package telemetry

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstockdev/penstock/flow"
)

// Bounds of a span. More would be dropped by the SDK or by most backends.
const (
	maxLinks  = 128
	maxEvents = 32
)

// flowTracer makes the spans of a flow: one for each batch that became durable, with one for
// its transforms and one for its write. It is linked to the spans that its records came from:
// those are of many traces, so none of them can be its parent.
type flowTracer struct {
	tracer trace.Tracer
	flow   string

	mu     sync.Mutex // guards what follows
	always []attribute.KeyValue
	sink   []attribute.KeyValue
	kind   trace.SpanKind // of the write
	lanes  map[int]*laneTrace
}

// laneTrace is what is known of a lane's batches before they are written.
type laneTrace struct {
	// seen are the batches under way: one is prepared while another is written.
	seen    [2]seenBatch
	retries []retry
}

// seenBatch is a batch and when it was cut and decoded. A batch is told by its records: the
// parts of one that are written by themselves share them.
type seenBatch struct {
	offset, timestamp int64
	records           int
	read, decoded     time.Time
}

type retry struct {
	at      time.Time
	attempt int
	wait    time.Duration
	err     error
}

var _ flow.Tap = (*flowTracer)(nil)

func (t *Tracing) flow(name string) *flowTracer {
	return &flowTracer{tracer: t.tracer, flow: name, kind: trace.SpanKindInternal, lanes: make(map[int]*laneTrace)}
}

// Names of attributes that the conventions do not have.
const (
	attrFlow        = attribute.Key("penstock.flow")
	attrLane        = attribute.Key("penstock.lane")
	attrRows        = attribute.Key("penstock.rows")
	attrBytes       = attribute.Key("penstock.bytes")
	attrDead        = attribute.Key("penstock.dead_letters")
	attrClass       = attribute.Key("penstock.class")
	attrAttempt     = attribute.Key("penstock.retry.attempt")
	attrWait        = attribute.Key("penstock.retry.wait_seconds")
	attrSystem      = semconv.MessagingSystemKey
	eventRetry      = "retry"
	eventDeadLetter = "dead letters"
)

// databases are the sinks that the conventions have a name for.
var databases = map[string]attribute.KeyValue{
	"postgres": semconv.DBSystemNamePostgreSQL, "sqlite": semconv.DBSystemNameSQLite, "mysql": semconv.DBSystemNameMySQL,
}

func (t *flowTracer) describe(source, sink string, cfg *flow.Config) {
	always := []attribute.KeyValue{
		attrSystem.String(source), semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess, attrFlow.String(t.flow),
	}
	if m, ok := cfg.Source.(flow.GroupMember); ok {
		if member, err := m.Member(nil); err == nil && member.Group != "" {
			always = append(always, semconv.MessagingConsumerGroupName(member.Group))
		}
	}
	kind, about := trace.SpanKindInternal, []attribute.KeyValue(nil)
	if system, ok := databases[sink]; ok {
		kind, about = trace.SpanKindClient, []attribute.KeyValue{system}
	} else if sink == source {
		kind, about = trace.SpanKindProducer, []attribute.KeyValue{
			attrSystem.String(sink), semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend,
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.always, t.sink, t.kind = always, about, kind
}

// lane returns what is known of a lane. The caller holds mu.
func (t *flowTracer) lane(n int) *laneTrace {
	l := t.lanes[n]
	if l == nil {
		l = &laneTrace{}
		t.lanes[n] = l
	}
	return l
}

func seen(b *flow.Batch) seenBatch {
	if len(b.Records) == 0 {
		return seenBatch{}
	}
	return seenBatch{offset: b.Records[0].Offset, timestamp: b.Records[0].Timestamp, records: len(b.Records)}
}

// find returns the batch if it was seen. The caller holds mu.
func (l *laneTrace) find(b seenBatch) *seenBatch {
	for i := range l.seen {
		s := &l.seen[i]
		if s.offset == b.offset && s.timestamp == b.timestamp && s.records == b.records && !s.read.IsZero() {
			return s
		}
	}
	return nil
}

// Read implements flow.Tap.
func (t *flowTracer) Read(lane int, b *flow.Batch) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lane(lane)
	l.seen[0] = l.seen[1]
	l.seen[1] = seen(b)
	l.seen[1].read, l.seen[1].decoded = now, now
}

// Decoded implements flow.Tap.
func (t *flowTracer) Decoded(lane int, b *flow.Batch) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.lane(lane).find(seen(b)); s != nil {
		s.decoded = now
	}
}

// retrying keeps what went wrong for the span of the batch.
func (t *flowTracer) retrying(lane, attempt int, wait time.Duration, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lane(lane)
	if len(l.retries) == maxEvents {
		copy(l.retries, l.retries[1:])
		l.retries = l.retries[:maxEvents-1]
	}
	l.retries = append(l.retries, retry{now, attempt, wait, err})
}

// Written implements flow.Tap.
func (t *flowTracer) Written(lane int, b *flow.Batch, s *flow.BatchStats) {
	end := time.Now()
	began := end.Add(-s.Write)
	t.mu.Lock()
	l := t.lane(lane)
	read, decoded := began.Add(-s.Decode), began
	if found := l.find(seen(b)); found != nil {
		read, decoded = found.read, found.decoded
	}
	retries := l.retries
	l.retries = nil
	always, sink, kind := t.always, t.sink, t.kind
	t.mu.Unlock()

	topic, attributes := destination(b)
	ctx, span := t.tracer.Start(context.Background(), "process "+cmp.Or(topic, t.flow), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(read),
		trace.WithAttributes(always...))
	defer span.End(trace.WithTimestamp(end))
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attributes...)
	span.SetAttributes(semconv.MessagingBatchMessageCount(s.Records), attrLane.Int(lane), attrRows.Int(s.Rows), attrBytes.Int64(s.Bytes))
	link(span, b)
	dead := 0
	for _, class := range slices.Sorted(maps.Keys(s.Dead)) {
		n := s.Dead[class]
		dead += n
		span.AddEvent(eventDeadLetter, trace.WithTimestamp(end), trace.WithAttributes(attrClass.String(class), attrDead.Int(n)))
	}
	if dead > 0 {
		span.SetAttributes(attrDead.Int(dead))
	}

	_, decode := t.tracer.Start(ctx, "decode", trace.WithTimestamp(read))
	decode.End(trace.WithTimestamp(decoded))
	_, write := t.tracer.Start(ctx, "write "+t.flow, trace.WithSpanKind(kind), trace.WithTimestamp(began), trace.WithAttributes(sink...))
	for _, r := range retries {
		// Not began, which is later than it was by what passed between the write and this call.
		if r.at.Before(read) {
			continue // of a batch that was not written after all
		}
		write.AddEvent(eventRetry, trace.WithTimestamp(r.at), trace.WithAttributes(attrAttempt.Int(r.attempt), attrWait.Float64(r.wait.Seconds()),
			semconv.ErrorTypeKey.String(flow.ClassOf(r.err).String()), semconv.ExceptionMessage(r.err.Error())))
	}
	write.End(trace.WithTimestamp(end))
}

// destination is the topic of the batch if it has one only, and what to say of it.
func destination(b *flow.Batch) (topic string, attributes []attribute.KeyValue) {
	if len(b.Parts) == 0 {
		return "", nil
	}
	first := b.Parts[0].Topic
	for i := range b.Parts {
		if b.Parts[i].Topic != first {
			return "", nil
		}
	}
	attributes = append(attributes, semconv.MessagingDestinationName(first))
	if len(b.Parts) == 1 {
		attributes = append(attributes, semconv.MessagingDestinationPartitionID(strconv.Itoa(int(b.Parts[0].ID))))
	}
	return first, attributes
}

// link links the span to those that the batch's records came from, as many as a span holds.
func link(span trace.Span, b *flow.Batch) {
	n := 0
	for i := range b.Parts {
		for row := b.Parts[i].First; row < b.Parts[i].End; row++ {
			if len(b.Records[row].Headers) == 0 {
				continue
			}
			from, ok := sampledContext(&b.Records[row])
			if !ok {
				continue
			}
			span.AddLink(trace.Link{SpanContext: from})
			if n++; n == maxLinks {
				return
			}
		}
	}
}
