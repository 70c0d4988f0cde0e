package telemetry

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/penstockdev/penstock/flow"
)

func TestParseSampled(t *testing.T) {
	for v, want := range map[string]bool{
		sampled: true,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00":     false, // not sampled
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03":     true,  // a flag that is not known
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":     true,  // a later version
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-new": true,
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01new":  false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-new": false,
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":     false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":     false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":     false,
		"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01":     false,
		"00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01":      false,
		"zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":     false,
		"": false,
	} {
		c, ok := parseSampled([]byte(v))
		if ok != want || ok && (c.TraceID().String() != v[3:35] || c.SpanID().String() != v[36:52] || !c.IsSampled() || !c.IsRemote()) {
			t.Errorf("%q: %v %t, want %t", v, c, ok, want)
		}
	}
}

// FuzzParseSampled compares with OpenTelemetry's own parser, which refuses flags that it does
// not know; the standard wants them ignored.
func FuzzParseSampled(f *testing.F) {
	for _, v := range []string{sampled, "", "00-", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-new"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		got, ok := parseSampled([]byte(v))
		theirs := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": v}))
		want := theirs.IsValid() && theirs.IsSampled()
		if unknown := ok && v[:2] == "00" && v[53:55] > "03"; unknown {
			return
		}
		if ok != want || ok && (got.TraceID() != theirs.TraceID() || got.SpanID() != theirs.SpanID()) {
			t.Errorf("%q: %v %t, OpenTelemetry says %v", v, got, ok, theirs)
		}
	})
}

func TestLookingForContextsAllocatesNothing(t *testing.T) {
	for name, b := range contexts() {
		if n := testing.AllocsPerRun(10, func() { link(noop.Span{}, b) }); n > 0 {
			t.Errorf("%s: %v allocations for a batch", name, n)
		}
	}
}

func contexts() map[string]*flow.Batch {
	const records = 20_000
	all := map[string]*flow.Batch{"no headers": traced("t", make([]string, records)...)}
	for i := range all["no headers"].Records {
		all["no headers"].Records[i].Headers = nil
	}
	all["other headers"] = traced("t", make([]string, records)...)
	unsampled, linked := make([]string, records), make([]string, records)
	for i := range records {
		unsampled[i], linked[i] = sampled[:len(sampled)-1]+"0", sampled
	}
	all["not sampled"], all["sampled"] = traced("t", unsampled...), traced("t", linked...)
	return all
}

// BenchmarkLinks shows what a batch of 20,000 records costs.
func BenchmarkLinks(b *testing.B) {
	for name, batch := range contexts() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				link(noop.Span{}, batch)
			}
		})
	}
}
