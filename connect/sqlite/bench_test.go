package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

var benchFields = []flow.Field{
	{Name: "device_id", Type: "text", Kind: flow.KindString, Required: true},
	{Name: "seq", Type: "int8", Kind: flow.KindInt64, Required: true},
	{Name: "ts", Type: "timestamptz", Kind: flow.KindTimestamp},
	{Name: "temp", Type: "float8", Kind: flow.KindFloat64},
	{Name: "payload", Type: "text", Kind: flow.KindString},
}

const benchBatch = 5000

func benchConfig(b *testing.B) SinkConfig {
	cfg := testConfig(b)
	cfg.Key = []string{"device_id", "seq"}
	return cfg
}

func benchBatchAt(at flow.Checkpoint) *flow.Batch {
	cols := flow.NewColumns(benchFields)
	cols.Reset(benchBatch)
	records := make([]flow.Record, benchBatch)
	payload := make([]byte, 400)
	for i := range payload {
		payload[i] = 'a' + byte(i%26)
	}
	for i := range records {
		n := at.Offset + int64(i)
		records[i] = flow.Record{Value: payload, Offset: n}
		cols.Cols[0].Bytes[i] = fmt.Appendf(nil, "device-%04d", n%1000)
		cols.Cols[1].Ints[i] = n / 1000
		cols.Cols[2].Ints[i] = 1_700_000_000_000_000 + n
		cols.Cols[3].Floats[i] = float64(n) / 3
		cols.Cols[4].Bytes[i] = payload
	}
	b := flow.NewBatch(records, []flow.Part{{Partition: part0, From: at.Offset, Next: at.Offset + benchBatch, Owner: at.Owner, End: benchBatch}})
	b.Columns = cols
	return b
}

// BenchmarkWrite is to be compared with BenchmarkBareLoop: ns and allocations
// per row.
func BenchmarkWrite(b *testing.B) {
	r := open1(b, benchConfig(b), benchFields)
	perRow(b, func() {
		b.StopTimer()
		batch := benchBatchAt(r.at)
		b.StartTimer()
		r.writeBatch(batch)
	})
}

// BenchmarkBareLoop is what a program that only inserts does: a statement
// prepared once, one Exec per row, transactions of the same size.
func BenchmarkBareLoop(b *testing.B) {
	r := open1(b, benchConfig(b), benchFields) // makes the same table
	db, err := sql.Open("sqlite", r.sink.cfg.Path+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	perRow(b, func() {
		b.StopTimer()
		cols := benchBatchAt(r.at).Columns.Cols
		r.at.Offset += benchBatch
		args := make([][]any, benchBatch)
		for i := range args {
			args[i] = []any{string(cols[0].Bytes[i]), cols[1].Ints[i], "2026-01-31T12:00:00.000007Z", cols[3].Floats[i], string(cols[4].Bytes[i])}
		}
		b.StartTimer()
		if err := bareLoop(b.Context(), db, args); err != nil {
			b.Fatal(err)
		}
	})
}

func bareLoop(ctx context.Context, db *sql.DB, rows [][]any) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	s, err := tx.PrepareContext(ctx, "INSERT INTO telemetry (device_id, seq, ts, temp, payload) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for _, row := range rows {
		if _, err := s.Exec(row...); err != nil { //nolint:noctx // a context costs a goroutine per row
			return err
		}
	}
	return tx.Commit()
}

func perRow(b *testing.B, batch func()) {
	b.ReportAllocs()
	for b.Loop() {
		batch()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchBatch, "ns/row")
}

// TestWriteDoesNotAllocatePerRow guards the reason for which the package does
// without database/sql.
func TestWriteDoesNotAllocatePerRow(t *testing.T) {
	r := open1(t, testConfig(t), telemetryFields)
	const n = 1000
	rows := make([]row, n)
	for i := range rows {
		rows[i] = row{device: "device", seq: int64(i), temp: 1}
	}
	b := r.batch(rows...)
	r.writeBatch(b)
	allocs := testing.AllocsPerRun(2, func() {
		b.Parts[0].From = r.at.Offset
		b.Parts[0].Next = r.at.Offset + n
		r.writeBatch(b)
	})
	if allocs > n/10 {
		t.Errorf("%g allocations for %d rows", allocs, n)
	}
}
