package flow

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// randomBatch has gaps in its offsets, parts without records, and positions
// that go beyond the last record.
func randomBatch(rng *rand.Rand) *Batch {
	var records []Record
	var parts []Part
	for id := range int32(1 + rng.IntN(5)) {
		off := int64(rng.IntN(100))
		p := Part{Partition: Partition{"t", id}, From: off, First: len(records)}
		for range rng.IntN(6) {
			off += int64(rng.IntN(3))
			records = append(records, Record{Offset: off, Part: id})
			off++
		}
		p.End, p.Next = len(records), off+int64(rng.IntN(3))
		if p.Next > p.From {
			parts = append(parts, p)
		}
	}
	return NewBatch(records, parts)
}

// However a batch is written in pieces, every piece moves each of its
// partitions from where the last one left it, every row is in one piece, and
// all positions end where the batch said.
func TestPiecesOfABatchChainTheirPositions(t *testing.T) {
	for seed := range uint64(5000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		b := randomBatch(rng)
		want := map[Partition]int64{}
		at := map[Partition]int64{}
		for _, p := range b.Parts {
			want[p.Partition], at[p.Partition] = p.Next, p.From
		}
		seen := 0
		for len(b.Parts) > 0 {
			n := b.lo + rng.IntN(b.hi-b.lo+1)
			if n == b.lo && b.lo < b.hi {
				n++
			}
			v := b.head(n)
			for i := v.Next(0); i >= 0; i = v.Next(i + 1) {
				if i != seen {
					t.Fatalf("seed %d: row %d after %d", seed, i, seen)
				}
				seen++
				p := v.partOf(i)
				if o := v.Records[i].Offset; o < p.From || o >= p.Next || p.ID != v.Records[i].Part {
					t.Fatalf("seed %d: row %d with offset %d in part %+v", seed, i, o, p)
				}
			}
			for _, p := range v.Parts {
				if at[p.Partition] != p.From || p.Next <= p.From {
					t.Fatalf("seed %d: %s moves from %d to %d, but is at %d", seed, p.Partition, p.From, p.Next, at[p.Partition])
				}
				at[p.Partition] = p.Next
			}
			b.advance(n)
		}
		if seen != len(b.Records) {
			t.Fatalf("seed %d: %d of %d rows", seed, seen, len(b.Records))
		}
		for p, next := range want {
			if at[p] != next {
				t.Fatalf("seed %d: %s ends at %d, want %d", seed, p, at[p], next)
			}
		}
	}
}

func TestRejectedRowsAreSkippedAndBecomeDeadLetters(t *testing.T) {
	b := NewBatch(make([]Record, 130), []Part{{Partition: Partition{"t", 1}, Next: 130, End: 130}})
	for i := range b.Records {
		b.Records[i].Offset = int64(i)
	}
	b.Reject(129, StageWrite, errors.New("last"))
	b.head(70).Reject(64, StageDecode, &RecordError{Class: "range", Column: "c", Err: errors.New("too large")})
	b.Reject(64, StageWrite, errors.New("a row is rejected once"))
	if b.Rows() != 128 || b.head(70).Rows() != 69 || b.Next(64) != 65 || b.Next(129) != -1 {
		t.Fatalf("rows %d, %d, next %d, %d", b.Rows(), b.head(70).Rows(), b.Next(64), b.Next(129))
	}
	dead := b.DeadLetters()
	if len(dead) != 2 || dead[0].Record.Offset != 64 || dead[0].Class != "range" || dead[0].Column != "c" || dead[0].Stage != StageDecode ||
		dead[1].Record.Offset != 129 || dead[1].Class != "rejected" {
		t.Fatalf("%+v", dead)
	}
	if got := b.head(70).DeadLetters(); len(got) != 1 {
		t.Fatalf("a view shows the dead letters of its own rows, not %+v", got)
	}
}
