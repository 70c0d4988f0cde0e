package postgres

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"

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
	hash     uint64 // once the entries are sorted: the part of the key that they are sorted by first
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

// collect reads the keys of the batch. Rows without a key are rejected. With sorted the
// rows are in the order of their keys, else in that of the log.
func (t *keyTable) collect(b *flow.Batch, sorted bool) {
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
	if sorted {
		t.sort()
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

// collectAll is collect for mode ignore: the rows of a key stay together, in the order of
// the log, and the server takes the first.
func (t *keyTable) collectAll(b *flow.Batch) {
	t.enc.bind(b.Columns)
	t.entries, t.arena = t.entries[:0], t.arena[:0]
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		start := len(t.arena)
		arena, err := t.arena, error(errTombstone)
		if b.Records[i].Value != nil {
			arena, err = t.enc.append(arena, i)
		}
		if err != nil {
			b.Reject(i, flow.StageWrite, err)
			t.arena = arena[:start]
			continue
		}
		t.arena = arena
		t.entries = append(t.entries, keyEntry{off: start, end: len(arena), last: int32(i)})
	}
	t.sort()
	t.upserts = t.upserts[:0]
	for i := range t.entries {
		t.upserts = append(t.upserts, t.entries[i].last)
	}
}

// sort sorts the entries by the bytes of their keys: neighbours lie on the same pages of the
// index, and two lanes take the locks of common keys in the same order. Most
// comparisons need only the eight bytes after what all keys have in common.
func (t *keyTable) sort() {
	if len(t.entries) == 0 {
		return
	}
	common := t.key(&t.entries[0])
	for i := range t.entries {
		key := t.key(&t.entries[i])
		n := 0
		for n < min(len(common), len(key)) && common[n] == key[n] {
			n++
		}
		common = common[:n]
	}
	for i := range t.entries {
		var word [8]byte
		copy(word[:], t.key(&t.entries[i])[len(common):])
		t.entries[i].hash = binary.BigEndian.Uint64(word[:])
	}
	slices.SortFunc(t.entries, func(x, y keyEntry) int {
		if x.hash != y.hash {
			return cmp.Compare(x.hash, y.hash)
		}
		return cmp.Or(bytes.Compare(t.key(&x), t.key(&y)), cmp.Compare(x.last, y.last))
	})
}

func (t *keyTable) key(e *keyEntry) []byte { return t.arena[e.off:e.end] }

// freshKeys guesses from what the batches before have shown whether all keys of the next one
// are new to the table. A wrong guess costs the server an insert that it undoes, whose rows
// vacuum has to remove, so they become rare quickly: with keys that are never new every
// 256th batch is one.
type freshKeys struct {
	pause int // batches until keys are guessed to be new again
	after int // the last pause; halved by every guess that was right
}

// likely is asked once for each batch.
func (f *freshKeys) likely() bool {
	f.pause--
	return f.pause < 0
}

// found says whether the guess was right.
func (f *freshKeys) found(fresh bool) {
	if fresh {
		f.after /= 2
		f.pause = 0
		return
	}
	f.after = min(256, 4*max(1, f.after))
	f.pause = f.after
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
