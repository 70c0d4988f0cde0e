package postgres

import (
	"bytes"
	"hash/maphash"

	"github.com/penstockdev/penstock/flow"
)

// keyTable finds, for every key of a batch, the last record that has it: ON
// CONFLICT DO UPDATE refuses a key that occurs twice in one statement. Keys are
// compared in their encoded form, so Open refuses types of which unequal bytes
// can be equal to the index (see tableColumn.loose). It is reused from batch to batch.
//
// The last record may still be rejected while it is encoded. Then the one
// before it counts, which is why the records of a key form a chain.
type keyTable struct {
	enc     *rowEncoder
	seed    maphash.Seed
	slots   []int32 // open addressing: 0 is free, else index into entries + 1
	entries []keyEntry
	arena   []byte  // the encoded keys
	prev    []int32 // by row: the record of the same key before it, or -1

	// upserts and deletes are the last rows of the keys, apart by what they do.
	upserts, deletes []int32
}

type keyEntry struct {
	hash     uint64
	off, end int
	last     int32
}

func newKeyTable(keys []column) *keyTable {
	t := &keyTable{enc: newRowEncoder(keys), seed: maphash.MakeSeed()}
	for i := range t.enc.columns {
		c := &t.enc.columns[i]
		c.key = true
		if c.elem != nil {
			c.elem.key = true
		}
	}
	return t
}

// collect reads the keys of the batch. Rows without a key are rejected.
func (t *keyTable) collect(b *flow.Batch) {
	t.enc.bind(b.Columns)
	size := 16
	for size < 2*b.Len() {
		size *= 2
	}
	if cap(t.slots) < size {
		t.slots = make([]int32, size)
	}
	t.slots = t.slots[:size]
	clear(t.slots)
	if len(t.prev) < len(b.Records) {
		t.prev = make([]int32, len(b.Records))
	}
	t.entries, t.arena = t.entries[:0], t.arena[:0]
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		start := len(t.arena)
		arena, err := t.enc.append(t.arena, i)
		t.arena = arena
		if err != nil {
			b.Reject(i, flow.StageWrite, err)
			t.arena = arena[:start]
			continue
		}
		e := t.find(start)
		t.prev[i] = e.last
		e.last = int32(i)
	}
	t.upserts, t.deletes = t.upserts[:0], t.deletes[:0]
	for i := range t.entries {
		row := t.entries[i].last
		if b.Records[row].Value == nil {
			t.deletes = append(t.deletes, row)
		} else {
			t.upserts = append(t.upserts, row)
		}
	}
}

// find returns the entry of the key at the end of the arena. If it is there
// already, the arena is cut back to start.
func (t *keyTable) find(start int) *keyEntry {
	key := t.arena[start:]
	h := maphash.Bytes(t.seed, key)
	mask := uint64(len(t.slots) - 1)
	for s := h & mask; ; s = (s + 1) & mask {
		k := t.slots[s]
		if k == 0 {
			t.entries = append(t.entries, keyEntry{hash: h, off: start, end: len(t.arena), last: -1})
			t.slots[s] = int32(len(t.entries))
			return &t.entries[len(t.entries)-1]
		}
		if e := &t.entries[k-1]; e.hash == h && bytes.Equal(t.arena[e.off:e.end], key) {
			t.arena = t.arena[:start]
			return e
		}
	}
}

// before returns the row to write in place of one that was rejected, or -1. Where
// that is a tombstone, it is added to the deletes.
func (t *keyTable) before(b *flow.Batch, row int) int {
	p := t.prev[row]
	if p >= 0 && b.Records[p].Value == nil {
		t.deletes = append(t.deletes, p)
		return -1
	}
	return int(p)
}
