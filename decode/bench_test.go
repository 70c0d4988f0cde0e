package decode

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// telemetry makes records of 512 bytes as the figures in the README are
// measured on: a device, a sequence number, a time, a reading and a payload.
func telemetry(n int) []flow.Record {
	rng := rand.New(rand.NewPCG(1, 2))
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,-_/"
	records := make([]flow.Record, n)
	for i := range records {
		head := fmt.Sprintf(`{"device_id":"vehicle-%05d","seq":%d,"ts":"2026-03-%02dT%02d:%02d:%02d.%03dZ","temp":%.2f,"payload":"`,
			rng.IntN(5000), i, 1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60), rng.IntN(1000), rng.Float64()*60-10)
		var b strings.Builder
		b.WriteString(head)
		for b.Len() < 510 {
			b.WriteByte(letters[rng.IntN(len(letters))])
		}
		b.WriteString(`"}`)
		records[i] = flow.Record{Value: []byte(b.String()), Offset: int64(i)}
	}
	return records
}

var telemetryColumns = []Column{
	{Name: "device_id", Type: "text", Required: true},
	{Name: "seq", Type: "int8", Required: true},
	{Name: "ts", Type: "timestamptz"},
	{Name: "temp", Type: "float8"},
	{Name: "payload", Type: "text"},
}

// nested makes records of about 437 bytes with 20 fields in nested objects.
func nested(n int) []flow.Record {
	rng := rand.New(rand.NewPCG(3, 4))
	records := make([]flow.Record, n)
	for i := range records {
		v := fmt.Sprintf(`{"id":"%08x-%04x-4%03x-8%03x-%012x","seq":%d,"meta":{"ts":"2026-03-%02dT%02d:%02d:%02d.%06dZ","source":"gw-%03d","version":%d,"ok":true},`+
			`"vehicle":{"vin":"WVWZZZ1JZ%08d","model":"e-transit","year":%d,"odometer":%.1f},`+
			`"position":{"lat":%.6f,"lon":%.6f,"alt":%.1f,"speed":%.2f,"heading":%d},`+
			`"battery":{"soc":%.1f,"voltage":%.2f,"current":%.2f,"temp":%.1f,"charging":false},"tags":["fleet-%d","eu","night"]}`,
			rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), rng.Int64N(1<<48), i,
			1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60), rng.IntN(1e6), rng.IntN(1000), rng.IntN(10),
			rng.IntN(1e8), 2015+rng.IntN(11), rng.Float64()*200000,
			rng.Float64()*180-90, rng.Float64()*360-180, rng.Float64()*1000, rng.Float64()*50, rng.IntN(360),
			rng.Float64()*100, 300+rng.Float64()*100, rng.Float64()*400-200, rng.Float64()*40, rng.IntN(20))
		records[i] = flow.Record{Value: []byte(v), Offset: int64(i)}
	}
	return records
}

var nestedColumns = []Column{
	{Name: "id", Type: "uuid", Required: true},
	{Name: "seq", Type: "int8", Required: true},
	{Name: "ts", Type: "timestamptz", Path: "meta.ts"},
	{Name: "source", Type: "text", Path: "meta.source"},
	{Name: "version", Type: "int4", Path: "meta.version"},
	{Name: "ok", Type: "bool", Path: "meta.ok"},
	{Name: "vin", Type: "text", Path: "vehicle.vin"},
	{Name: "model", Type: "text", Path: "vehicle.model"},
	{Name: "year", Type: "int2", Path: "vehicle.year"},
	{Name: "odometer", Type: "float8", Path: "vehicle.odometer"},
	{Name: "lat", Type: "float8", Path: "position.lat"},
	{Name: "lon", Type: "float8", Path: "position.lon"},
	{Name: "alt", Type: "float4", Path: "position.alt"},
	{Name: "speed", Type: "float8", Path: "position.speed"},
	{Name: "heading", Type: "int2", Path: "position.heading"},
	{Name: "soc", Type: "float4", Path: "battery.soc"},
	{Name: "voltage", Type: "numeric(8,2)", Path: "battery.voltage"},
	{Name: "current", Type: "float8", Path: "battery.current"},
	{Name: "charging", Type: "bool", Path: "battery.charging"},
	{Name: "tags", Type: "text[]", Path: "tags"},
}

func BenchmarkJSON512(b *testing.B)      { benchmark(b, telemetryColumns, telemetry(20000)) }
func BenchmarkJSONNested20(b *testing.B) { benchmark(b, nestedColumns, nested(20000)) }

// BenchmarkJSONSkip decodes one column and passes over the rest.
func BenchmarkJSONSkip(b *testing.B) { benchmark(b, nestedColumns[19:], nested(20000)) }

// benchmark reports the time per record of decoding batches of 20,000.
func benchmark(b *testing.B, columns []Column, records []flow.Record) {
	j, err := NewJSON(JSONConfig{Columns: columns})
	if err != nil {
		b.Fatal(err)
	}
	bytes := 0
	for i := range records {
		bytes += len(records[i].Value)
	}
	batch := flow.NewBatch(records, []flow.Part{{End: len(records)}})
	if err := j.Process(b.Context(), batch); err != nil {
		b.Fatal(err)
	}
	if dead := batch.DeadLetters(); dead != nil {
		b.Fatal(dead[0].Message)
	}
	b.SetBytes(int64(bytes / len(records)))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(records) {
		n := min(len(records), b.N-done)
		part := flow.NewBatch(records[:n], []flow.Part{{End: n}})
		part.Columns = batch.Columns
		if err := j.Process(b.Context(), part); err != nil {
			b.Fatal(err)
		}
	}
}
