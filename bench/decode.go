package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect/postgres"
	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
	"github.com/valyala/fastjson"
	"golang.org/x/sys/unix"
)

// decodeBatch is how many records one Process call decodes. There are as many
// different records, so that the branch predictor cannot learn them by heart.
const decodeBatch = 4096

// document is a kind of record, and what is to be made of it.
type document struct {
	name    string
	columns []nestedColumn
	make    func(g *generator, i int) []byte
	// ns is for decode and encode, ratio for their speed to fastjson's.
	ns, ratio Goal
}

func documents() []document {
	flat := []nestedColumn{
		{"device_id", "text", "device_id"},
		{"seq", "int8", "seq"},
		{"ts", "timestamptz", "ts"},
		{"temp", "float8", "temp"},
		{"payload", "text", "payload"},
	}
	return []document{
		{name: fmt.Sprintf("%d B, 5 columns", recordSize), columns: flat, make: (*generator).JSON, ns: Goal{AtMost: 350}, ratio: Goal{AtLeast: 1.6}},
		{name: fmt.Sprintf("%d B, 20 nested columns", nestedSize), columns: nestedColumns, make: (*generator).Nested, ns: Goal{AtMost: 1200}, ratio: Goal{AtLeast: 1.6}},
		// What the decoder cannot guess: no record has the order of the one before.
		{name: fmt.Sprintf("%d B, order of keys changes", recordSize), columns: flat, make: (*generator).Rotated},
	}
}

// batch makes the records of a document.
func (d *document) batch() *flow.Batch {
	g := newGenerator()
	records := make([]flow.Record, decodeBatch)
	for i := range records {
		records[i] = flow.Record{Value: bytes.Clone(d.make(g, i)), Offset: int64(i)}
	}
	return flow.NewBatch(records, []flow.Part{{Next: decodeBatch, End: decodeBatch}})
}

func (d *document) decoder() (*decode.JSON, error) {
	var cfg decode.JSONConfig
	for _, c := range d.columns {
		cfg.Columns = append(cfg.Columns, decode.Column{Name: c.name, Type: c.typ, Path: c.path})
	}
	return decode.NewJSON(cfg)
}

// A decoderFunc fills the batch's columns and calls each for every row, when
// its values are there and before they are overwritten.
type decoderFunc func(b *flow.Batch, each func(i int)) error

// penstockDecoder is Penstock's own.
func (d *document) penstockDecoder() (decoderFunc, error) {
	j, err := d.decoder()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	return func(b *flow.Batch, each func(i int)) error {
		err := j.Process(ctx, b)
		for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
			each(i)
		}
		return err
	}, nil
}

// penstockCopy decodes and encodes as a flow does: a batch of columns, then
// the stream that pgconn reads in pieces of 64 KiB.
func (d *document) penstockCopy() (decoderFunc, error) {
	j, err := d.decoder()
	if err != nil {
		return nil, err
	}
	enc, err := postgres.NewCopyEncoder(j.Fields())
	if err != nil {
		return nil, err
	}
	ctx, buf := context.Background(), make([]byte, 64<<10)
	return func(b *flow.Batch, each func(i int)) error {
		if err := j.Process(ctx, b); err != nil {
			return err
		}
		for r := enc.Encode(b); ; {
			if _, err := r.Read(buf); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
		}
		for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
			each(i)
		}
		return nil
	}, nil
}

// fastjsonDecoder fills the same columns through valyala/fastjson. Its strings
// are views that hold until the next record, so that it copies none either.
func (d *document) fastjsonDecoder() (decoderFunc, error) {
	j, err := d.decoder()
	if err != nil {
		return nil, err
	}
	fields := j.Fields()
	paths := make([][]string, len(d.columns))
	for i, c := range d.columns {
		paths[i] = strings.Split(c.path, ".")
	}
	var parser fastjson.Parser
	return func(b *flow.Batch, each func(i int)) error {
		if b.Columns == nil {
			b.Columns = flow.NewColumns(fields)
		}
		b.Columns.Reset(len(b.Records))
		for i := range b.Records {
			v, err := parser.ParseBytes(b.Records[i].Value)
			if err != nil {
				return err
			}
			for k, path := range paths {
				if err := setColumn(&b.Columns.Cols[k], i, v.Get(path...)); err != nil {
					return err
				}
			}
			each(i)
		}
		return nil
	}, nil
}

func setColumn(c *flow.Column, i int, v *fastjson.Value) (err error) {
	switch c.Kind {
	case flow.KindString:
		c.Bytes[i], err = v.StringBytes()
	case flow.KindInt64:
		c.Ints[i], err = v.Int64()
	case flow.KindFloat64:
		c.Floats[i], err = v.Float64()
	case flow.KindBool:
		var yes bool
		if yes, err = v.Bool(); yes {
			c.Ints[i] = 1
		} else {
			c.Ints[i] = 0
		}
	case flow.KindTimestamp:
		var s []byte
		if s, err = v.StringBytes(); err == nil {
			var t time.Time
			t, err = time.Parse(time.RFC3339Nano, string(s))
			c.Ints[i] = t.UnixMicro()
		}
	default:
		err = fmt.Errorf("column %s: no such kind here", c.Name)
	}
	return err
}

// encodeRow appends row i in COPY's binary form: what is needed and no more, because
// fastjson's views hold for one record only.
func encodeRow(dst []byte, cols *flow.Columns, i int) []byte {
	be := binary.BigEndian
	dst = be.AppendUint16(dst, uint16(len(cols.Cols)))
	for k := range cols.Cols {
		c := &cols.Cols[k]
		switch {
		case c.Null(i):
			dst = be.AppendUint32(dst, math.MaxUint32)
		case c.Kind == flow.KindString:
			dst = be.AppendUint32(dst, uint32(len(c.Bytes[i])))
			dst = append(dst, c.Bytes[i]...)
		case c.Kind == flow.KindFloat64:
			dst = be.AppendUint32(dst, 8)
			dst = be.AppendUint64(dst, math.Float64bits(c.Floats[i]))
		case c.Kind == flow.KindBool:
			dst = be.AppendUint32(dst, 1)
			dst = append(dst, byte(c.Ints[i]))
		case c.Kind == flow.KindTimestamp:
			dst = be.AppendUint32(dst, 8)
			dst = be.AppendUint64(dst, uint64(c.Ints[i]-pgEpoch))
		case c.Type == "int4":
			dst = be.AppendUint32(dst, 4)
			dst = be.AppendUint32(dst, uint32(int32(c.Ints[i])))
		default:
			dst = be.AppendUint32(dst, 8)
			dst = be.AppendUint64(dst, uint64(c.Ints[i]))
		}
	}
	return dst
}

// decodeLoop returns one turn of a decoder over all records of a document; with
// encode, the rows are encoded as well.
func decodeLoop(d *document, decoder func() (decoderFunc, error), encode bool) (once func() error, err error) {
	run, err := decoder()
	if err != nil {
		return nil, err
	}
	batch := d.batch()
	out := make([]byte, 0, 64<<10)
	rows := 0
	each := func(i int) {
		rows++
		if !encode {
			return
		}
		if len(out) > 32<<10 {
			out = out[:0] // as if sent
		}
		out = encodeRow(out, batch.Columns, i)
	}
	return func() error {
		rows = 0
		if err := run(batch, each); err != nil {
			return err
		}
		if rows != decodeBatch {
			return fmt.Errorf("%d of %d records of %s were decoded", rows, decodeBatch, d.name)
		}
		return nil
	}, nil
}

// perRecord measures for about that long what a record costs: nanoseconds of
// processor time, which others on the machine disturb less than they disturb
// the clock, and heap allocations.
func perRecord(once func() error, about time.Duration) (ns, allocations float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := once(); err != nil { // buffers grow, caches fill
		return 0, 0, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began, cpu := time.Now(), threadTime()
	n := 0
	for time.Since(began) < about {
		if err := once(); err != nil {
			return 0, 0, err
		}
		n += decodeBatch
	}
	cpu = threadTime() - cpu
	runtime.ReadMemStats(&after)
	return float64(cpu.Nanoseconds()) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n), nil
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("no clock for the processor time of a thread: " + err.Error()) // every system that this package compiles for has it
	}
	return time.Duration(ts.Nano())
}

// decode measures the decoders in turn, as many rounds as the other parts, on
// one core.
func (b *Bench) decode(ctx context.Context) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, d := range documents() {
		var alone, full, fast, allocations []float64
		for round := range b.opts.Pairs {
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, m := range []struct {
				decoder func() (decoderFunc, error)
				encode  bool
				ns      *[]float64
				allocs  *[]float64
			}{
				{d.penstockDecoder, false, &alone, nil},
				{d.penstockCopy, false, &full, &allocations},
				{d.fastjsonDecoder, true, &fast, nil},
			} {
				once, err := decodeLoop(&d, m.decoder, m.encode)
				if err != nil {
					return err
				}
				ns, allocs, err := perRecord(once, b.opts.BenchTime)
				if err != nil {
					return err
				}
				*m.ns = append(*m.ns, ns)
				if m.allocs != nil {
					*m.allocs = append(*m.allocs, allocs)
				}
			}
			fmt.Fprintf(b.out, "  %2d  %-30s decode %5.0f ns  decode + encode %5.0f ns  fastjson + encode %5.0f ns  allocs %.4f  load %s\n",
				round+1, d.name, alone[round], full[round], fast[round], allocations[round], loadAverage())
		}
		b.report.add("decode", nil,
			figure("decode", "decode + encode, "+d.name, "ns", d.ns, full...),
			figure("decode", "decode alone, "+d.name, "ns", Goal{}, alone...),
			figure("decode", "fastjson + a plain encoder, "+d.name, "ns", Goal{}, fast...),
			figure("decode", "speed to fastjson's, "+d.name, "×", d.ratio, paired(fast, full)...),
			// Those of the measurement itself are a few in millions.
			worst(figure("decode", "allocations a record, "+d.name, "", Goal{AtMost: 0.001}, allocations...)))
	}
	return nil
}
