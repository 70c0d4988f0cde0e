package postgres

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// copyHeader starts COPY's binary form: signature, flags, length of extensions.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyTrailer ends it.
const copyTrailer = "\xff\xff"

// keptCarry is the most that a copyReader keeps of memory for a large row.
const keptCarry = 1 << 20

// copyReader encodes rows as they are read. pgconn offers its own send buffer
// of 64 KiB to Read, which is filled directly; a row that does not fit any more
// is encoded into carry and handed out in pieces.
type copyReader struct {
	enc *rowEncoder
	b   *flow.Batch

	// rows are the rows to send; with all, every row of the batch that is not
	// rejected. sent are the rows of the list that were sent, in order.
	all  bool
	rows []int32
	sent []int32
	// rejected is called after a row was rejected, and returns the row to send
	// in its place, or -1. May be nil.
	rejected func(row int) int

	next  int // row of the batch, or index into rows
	half  int // rows left until the failpoint in the middle
	carry []byte
	off   int // what Read has taken of carry
	ended bool
}

func (r *copyReader) reset(b *flow.Batch, n int) {
	carry := r.carry[:0]
	if cap(carry) > keptCarry {
		carry = nil
	}
	*r = copyReader{enc: r.enc, b: b, sent: r.sent[:0], carry: append(carry, copyHeader...), half: n / 2}
}

// resetAll makes the reader send the whole batch.
func (r *copyReader) resetAll(b *flow.Batch) {
	r.reset(b, b.Rows())
	r.all = true
}

// resetRows makes the reader send these rows.
func (r *copyReader) resetRows(b *flow.Batch, rows []int32, rejected func(int) int) {
	r.reset(b, len(rows))
	r.rows, r.rejected = rows, rejected
}

// Read fills p with whole rows and parts of rows.
func (r *copyReader) Read(p []byte) (int, error) {
	n := 0
	for {
		if r.off < len(r.carry) {
			c := copy(p[n:], r.carry[r.off:])
			n += c
			r.off += c
			if r.off < len(r.carry) {
				return n, nil
			}
			r.carry, r.off = r.carry[:0], 0
		}
		if r.ended {
			return n, io.EOF
		}
		row := r.nextRow()
		if row < 0 {
			r.carry = append(r.carry, copyTrailer...)
			r.ended = true
			continue
		}
		for row >= 0 {
			if r.enc.size(row) > len(p)-n {
				carry, err := r.enc.append(r.carry[:0], row)
				if err == nil {
					r.carry = carry
					break
				}
				r.carry = carry[:0]
				row = r.reject(row, err)
				continue
			}
			out, err := r.enc.append(p[n:n:len(p)], row)
			if err == nil {
				n += len(out)
				break
			}
			row = r.reject(row, err)
		}
		if row < 0 {
			continue
		}
		if !r.all {
			r.sent = append(r.sent, int32(row))
		}
		if r.half--; r.half == 0 {
			failpoint.Hit("sink.in_copy")
		}
	}
}

func (r *copyReader) nextRow() int {
	if !r.all {
		if r.next == len(r.rows) {
			return -1
		}
		r.next++
		return int(r.rows[r.next-1])
	}
	for {
		i := r.b.Next(r.next)
		if i < 0 {
			return -1
		}
		r.next = i + 1
		if r.b.Records[i].Value != nil {
			return i
		}
		r.b.Reject(i, flow.StageWrite, errTombstone)
	}
}

var errTombstone = &flow.RecordError{Class: "tombstone", Err: errors.New("a tombstone deletes a row, which needs mode upsert")}

func (r *copyReader) reject(row int, err error) int {
	r.b.Reject(row, flow.StageWrite, err)
	if r.rejected == nil {
		return -1
	}
	return r.rejected(row)
}

// rowOfLine returns the row that was COPY's n-th, counted from 1, or -1. Rows
// that were rejected before they were sent do not count.
func (r *copyReader) rowOfLine(line int) int {
	if line <= 0 {
		return -1
	}
	if !r.all {
		if line > len(r.sent) {
			return -1
		}
		return int(r.sent[line-1])
	}
	i := r.b.Next(0)
	for ; i >= 0 && line > 1; line-- {
		i = r.b.Next(i + 1)
	}
	return i
}

// gate lets a reader be shut. pgconn.CopyFrom reads in a goroutine that it does
// not wait for when the connection breaks, and a batch must not be read after
// Write has returned.
type gate struct {
	mu   sync.Mutex
	r    io.Reader
	shut bool
}

func (g *gate) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return 0, io.ErrClosedPipe
	}
	return g.r.Read(p)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// copyFrom runs COPY. r is not read any more when it returns.
func copyFrom(ctx context.Context, pg *pgconn.PgConn, sql string, r io.Reader) error {
	g := gate{r: r}
	defer g.close()
	_, err := pg.CopyFrom(ctx, &g, sql)
	return err
}
