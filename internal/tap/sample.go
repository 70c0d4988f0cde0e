package tap

import (
	"bytes"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
	"github.com/penstockdev/penstock/internal/expr"
)

// seen is a copy of a record that was chosen.
type seen struct {
	stage                  *stage
	passed                 int64 // records that had passed the stage
	lane                   int
	at                     flow.Partition
	rec                    flow.Record
	cut                    int // bytes that the value was longer
	row                    []byte
	failed                 flow.Stage
	class, column, message string
	size                   int64
}

// Read implements flow.Tap.
func (t *Tap) Read(lane int, b *flow.Batch) {
	if s := t.stages[0]; s != nil {
		t.rows(s, lane, b, false)
	}
}

// Decoded implements flow.Tap.
func (t *Tap) Decoded(lane int, b *flow.Batch) {
	if s := t.stages[1]; s != nil {
		t.rows(s, lane, b, true)
	}
}

// Written implements flow.Tap.
func (t *Tap) Written(lane int, b *flow.Batch, _ *flow.BatchStats) {
	if s := t.stages[2]; s != nil {
		t.rows(s, lane, b, true)
	}
	if s := t.stages[3]; s != nil {
		t.letters(s, lane, b)
	}
}

// want is how many of n records that pass now are to be copied.
func (t *Tap) want(s *stage, now time.Time, n int) int {
	s.passed.Add(int64(n))
	if n == 0 || t.over.Load() {
		return 0
	}
	free := maxQueued - len(t.queue)
	got := s.take.take(now, n)
	if got > free {
		t.dropped.Add(int64(got - free))
		got = free
	}
	return got
}

// rows copies rows that are to be written, spread over the batch.
func (t *Tap) rows(s *stage, lane int, b *flow.Batch, columns bool) {
	n, now := b.Rows(), time.Now()
	k := t.want(s, now, n)
	if k == 0 {
		return
	}
	first, end := b.Parts[0].First, b.Parts[len(b.Parts)-1].End
	last := -1
	for slot := range spread(end-first, k) {
		row := b.Next(max(first+slot, last+1)) // rejected rows leave their turn to the next
		if row < 0 {
			return
		}
		last = row
		r := t.copy(s, now, lane, b, row)
		if r != nil && columns {
			r.row = appendRow(nil, b, row)
			r.size += int64(len(r.row))
		}
		t.put(r)
	}
}

// letters copies rows that were rejected, spread over the batch.
func (t *Tap) letters(s *stage, lane int, b *flow.Batch) {
	n, now := b.Len()-b.Rows(), time.Now()
	k := t.want(s, now, n)
	if k == 0 {
		return
	}
	chosen := make(map[int]bool, k)
	for slot := range spread(n, k) {
		chosen[slot] = true
	}
	i := 0
	for reject := range b.Rejects() {
		if chosen[i] {
			if r := t.copy(s, now, lane, b, reject.Row); r != nil {
				r.failed, r.message = reject.Stage, reject.Err.Error()
				r.class, r.column = reject.Class()
				t.put(r)
			}
		}
		i++
	}
}

// spread yields k of n indices in order, one out of each of k equal parts, at random.
func spread(n, k int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for j := range k {
			from, to := j*n/k, (j+1)*n/k
			if !yield(from + rand.IntN(to-from)) { //nolint:gosec // a sample, not a secret
				return
			}
		}
	}
}

// copy copies what is bounded of a record; nil where there is no room.
func (t *Tap) copy(s *stage, now time.Time, lane int, b *flow.Batch, row int) *seen {
	r := &b.Records[row]
	value := r.Value
	if n := maxValue; len(value) > n {
		for range utf8.UTFMax {
			if !utf8.RuneStart(value[n]) { // else text would be none
				n--
			}
		}
		value = value[:n]
	}
	size := r.Size() - len(r.Value) + len(value)
	if t.queued.Load()+int64(size) > maxQueuedBytes || !t.bytes.takeAll(now, size) {
		t.dropped.Add(1)
		return nil
	}
	out := &seen{stage: s, passed: s.passed.Load(), lane: lane, at: partition(b, row), cut: len(r.Value) - len(value), size: int64(size)}
	out.rec = flow.Record{Key: bytes.Clone(r.Key), Value: bytes.Clone(value), Timestamp: r.Timestamp, Offset: r.Offset, Headers: slices.Clone(r.Headers)}
	for i := range out.rec.Headers {
		h := &out.rec.Headers[i]
		h.Key, h.Value = strings.Clone(h.Key), bytes.Clone(h.Value)
	}
	return out
}

// put queues a copy; several lanes may have seen the same room.
func (t *Tap) put(r *seen) {
	if r == nil {
		return
	}
	t.queued.Add(r.size)
	select {
	case t.queue <- r:
	default:
		t.queued.Add(-r.size)
		t.dropped.Add(1)
	}
}

// partition is that of a row. Record.Part does not hold in the view of a batch.
func partition(b *flow.Batch, row int) flow.Partition {
	i, _ := slices.BinarySearchFunc(b.Parts, row, func(p flow.Part, row int) int {
		if p.End <= row {
			return -1
		}
		return 1
	})
	return b.Parts[i].Partition
}

// appendRow writes the columns of a row as a JSON object; nothing where the row has none.
func appendRow(dst []byte, b *flow.Batch, row int) []byte {
	if b.Columns == nil || b.Records[row].Value == nil {
		return dst
	}
	for i := range b.Columns.Cols {
		c := &b.Columns.Cols[i]
		dst = append(dst, "{,"[min(i, 1)])
		dst = append(coljson.AppendString(dst, c.Name), ':')
		at := len(dst)
		var err error
		if dst, err = coljson.Append(dst, c, row); err != nil {
			dst = coljson.AppendString(dst[:at], err.Error())
		}
	}
	return append(dst, '}')
}

// env is the record as a filter sees it.
func (s *seen) env() *expr.Env {
	e := expr.Record(s.at, &s.rec)
	e.Class, e.Column, e.Message = s.class, s.column, s.message
	return &e
}
