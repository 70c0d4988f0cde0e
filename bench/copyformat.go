package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"
)

// PostgreSQL's binary COPY format, for the one table of the benchmark:
// https://www.postgresql.org/docs/current/sql-copy.html

const copySignature = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// pgEpoch is PostgreSQL's own, in microseconds since the Unix epoch.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// appendCopyRow encodes one row.
func appendCopyRow(b, device []byte, seq, ts int64, temp float64, payload []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, 5)
	b = be.AppendUint32(b, uint32(len(device)))
	b = append(b, device...)
	b = be.AppendUint32(b, 8)
	b = be.AppendUint64(b, uint64(seq))
	b = be.AppendUint32(b, 8)
	b = be.AppendUint64(b, uint64(ts-pgEpoch))
	b = be.AppendUint32(b, 8)
	b = be.AppendUint64(b, math.Float64bits(temp))
	b = be.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func appendCopyEnd(b []byte) []byte { return binary.BigEndian.AppendUint16(b, math.MaxUint16) }

// copyFile is a binary COPY file that is being written.
type copyFile struct {
	f    *os.File
	w    *bufio.Writer
	row  []byte
	rows int
}

func createCopyFile(path string) (*copyFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	c := &copyFile{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	_, err = c.w.WriteString(copySignature)
	return c, err
}

func (c *copyFile) Write(r Row) error {
	c.row = appendCopyRow(c.row[:0], []byte(r.Device), r.Seq, r.TS, r.Temp, []byte(r.Payload))
	c.rows++
	_, err := c.w.Write(c.row)
	return err
}

// Close ends the file. After an error of Write it only releases it.
func (c *copyFile) Close() error {
	_, err := c.w.Write(appendCopyEnd(nil))
	return errors.Join(err, c.w.Flush(), c.f.Close())
}

// copyReader reads such a file back.
type copyReader struct {
	r   *bufio.Reader
	buf []byte
}

func newCopyReader(r io.Reader) (*copyReader, error) {
	c := &copyReader{r: bufio.NewReaderSize(r, 1<<20)}
	head := make([]byte, len(copySignature))
	if _, err := io.ReadFull(c.r, head); err != nil {
		return nil, err
	}
	if string(head) != copySignature {
		return nil, errors.New("not a binary COPY file")
	}
	return c, nil
}

// Next returns the next row, or io.EOF.
func (c *copyReader) Next() (r Row, err error) {
	n, err := c.uint(2)
	switch {
	case err != nil:
		return r, err
	case n == math.MaxUint16:
		return r, io.EOF
	case n != 5:
		return r, fmt.Errorf("a row of %d columns, want 5", n)
	}
	device, err := c.field()
	r.Device = string(device)
	for _, v := range []*int64{&r.Seq, &r.TS} {
		if err == nil {
			*v, err = c.int8()
		}
	}
	var bits int64
	if err == nil {
		bits, err = c.int8()
	}
	r.TS += pgEpoch
	r.Temp = math.Float64frombits(uint64(bits))
	if err != nil {
		return r, err
	}
	payload, err := c.field()
	r.Payload = string(payload)
	return r, err
}

func (c *copyReader) int8() (int64, error) {
	b, err := c.field()
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("a field of %d bytes, want 8", len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// field returns the next field; it holds until the next call.
func (c *copyReader) field() ([]byte, error) {
	n, err := c.uint(4)
	if err != nil {
		return nil, err
	}
	return c.bytes(int(n))
}

func (c *copyReader) uint(n int) (v uint64, err error) {
	b, err := c.bytes(n)
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v, err
}

func (c *copyReader) bytes(n int) ([]byte, error) {
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	_, err := io.ReadFull(c.r, c.buf[:n])
	if errors.Is(err, io.EOF) { // the end is marked: a file that just stops was cut off
		err = io.ErrUnexpectedEOF
	}
	return c.buf[:n], err
}
