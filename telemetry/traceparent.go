package telemetry

import (
	"go.opentelemetry.io/otel/trace"

	"github.com/penstockdev/penstock/flow"
)

// traceparentHeader carries the W3C trace context of a record.
const traceparentHeader = "traceparent"

// traceparentLen is that of version 00: 00-<32 digits>-<16 digits>-<2 digits>.
const traceparentLen = 55

// sampledContext returns the span that a record came from, if it names one that was
// sampled. It allocates nothing.
func sampledContext(r *flow.Record) (trace.SpanContext, bool) {
	for i := range r.Headers {
		if h := &r.Headers[i]; h.Key == traceparentHeader {
			return parseSampled(h.Value)
		}
	}
	return trace.SpanContext{}, false
}

// parseSampled parses a traceparent of any version that has the fields of version 00, and
// takes only those that are sampled. https://www.w3.org/TR/trace-context/#traceparent-header
func parseSampled(v []byte) (trace.SpanContext, bool) {
	var none trace.SpanContext
	if len(v) < traceparentLen || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return none, false
	}
	var version, flags [1]byte
	if !unhex(flags[:], v[53:55]) || flags[0]&byte(trace.FlagsSampled) == 0 || !unhex(version[:], v[:2]) {
		return none, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(v) != traceparentLen, len(v) > traceparentLen && v[traceparentLen] != '-':
		return none, false
	}
	var c trace.SpanContextConfig
	if !unhex(c.TraceID[:], v[3:35]) || !unhex(c.SpanID[:], v[36:52]) {
		return none, false
	}
	c.TraceFlags, c.Remote = trace.FlagsSampled, true
	s := trace.NewSpanContext(c)
	return s, s.IsValid()
}

// unhex decodes lower-case digits: upper case is not allowed in a traceparent.
func unhex(to, from []byte) bool {
	for i := range to {
		hi, lo := digit(from[2*i]), digit(from[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		to[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
