package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The rows that the limit loads are made without JSON; here a complete parser
// checks that they are what the records say.
func TestRowsAreWhatTheRecordsSay(t *testing.T) {
	g := newGenerator()
	for _, i := range []int{0, 1, 7, 8, devices - 1, devices, 123_456, 999_999} {
		raw := g.JSON(i)
		if len(raw) != recordSize {
			t.Fatalf("record %d has %d bytes, want %d", i, len(raw), recordSize)
		}
		var r struct {
			Device  string    `json:"device_id"`
			Seq     int64     `json:"seq"`
			TS      time.Time `json:"ts"`
			Temp    float64   `json:"temp"`
			Payload string    `json:"payload"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatalf("record %d: %v\n%s", i, err, raw)
		}
		want := Row{r.Device, r.Seq, r.TS.UnixMicro(), r.Temp, r.Payload}
		if diff := cmp.Diff(want, g.Row(i)); diff != "" {
			t.Errorf("record %d (-json +row):\n%s", i, diff)
		}
	}
}

func TestKeysAreUnique(t *testing.T) {
	g := newGenerator()
	type key struct {
		device string
		seq    int64
	}
	seen := map[key]bool{}
	for i := range 3 * devices {
		row, _ := g.head(i)
		k := key{row.Device, row.Seq}
		if seen[k] {
			t.Fatalf("record %d repeats %v", i, k)
		}
		seen[k] = true
	}
}

func TestIndexOfUndoesPartitionOf(t *testing.T) {
	next := [partitions]int64{}
	for i := range 1000 {
		p := partitionOf(i)
		if got := indexOf(p, next[p]); got != i {
			t.Fatalf("indexOf(%d, %d) = %d, want %d", p, next[p], got, i)
		}
		next[p]++
	}
}

func TestNestedRecord(t *testing.T) {
	g := newGenerator()
	for i := range 1000 {
		raw := g.Nested(i)
		if len(raw) != nestedSize || !json.Valid(raw) {
			t.Fatalf("record %d: %d bytes, valid %t\n%s", i, len(raw), json.Valid(raw), raw)
		}
	}
}

func TestRotatedRecord(t *testing.T) {
	g := newGenerator()
	for i := range 10 {
		var want, got map[string]any
		if err := json.Unmarshal(g.JSON(i), &want); err != nil {
			t.Fatal(err)
		}
		raw := g.Rotated(i)
		if err := json.Unmarshal(raw, &got); err != nil || len(raw) != recordSize {
			t.Fatalf("record %d: %v, %d bytes\n%s", i, err, len(raw), raw)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("record %d (-want +got):\n%s", i, diff)
		}
	}
}
