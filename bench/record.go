package main

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"time"
)

// The shape of the data. Device numbers and partitions agree modulo
// partitions, so that a record's place in the topic says which record it is.
const (
	partitions = 8
	devices    = 10_000 // a multiple of partitions
	// stride visits the devices in a scattered order, like a fleet that reports
	// whenever it likes. Prime, so that every device is visited once per tick,
	// and 1 modulo partitions, so that record i is of partition i%partitions.
	stride     = 7481
	recordSize = 512
)

// epoch is the time of the first record; a device reports once a second.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Row is what the columns of one record hold.
type Row struct {
	Device  string
	Seq     int64
	TS      int64 // microseconds since the Unix epoch
	Temp    float64
	Payload string
}

// generator makes record i of the benchmark's topic, always the same bytes for
// the same i. It is not safe for concurrent use.
type generator struct {
	pcg   *rand.PCG
	rnd   *rand.Rand
	words []string
	buf   []byte
	// payloadAt is where the payload begins in buf.
	payloadAt int
}

func newGenerator() *generator {
	g := &generator{pcg: rand.NewPCG(1, 2)}
	g.rnd = rand.New(g.pcg)
	// A vocabulary of this size gives the payload some redundancy, as real
	// telemetry has: lz4 takes the topic to a little more than half.
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	for range 6000 {
		w := make([]byte, 4+g.rnd.IntN(6))
		for i := range w {
			w[i] = letters[g.rnd.IntN(len(letters))]
		}
		g.words = append(g.words, string(w))
	}
	return g
}

// partitionOf is the partition that record i is produced to.
func partitionOf(i int) int32 { return int32(i % partitions) }

// indexOf is the number of the record at offset in partition: the inverse of
// producing records 0, 1, 2, … to partitionOf.
func indexOf(partition int32, offset int64) int { return int(offset)*partitions + int(partition) }

// JSON returns record i as it is produced: recordSize bytes of JSON. The slice
// holds until the next call.
func (g *generator) JSON(i int) []byte {
	row, temp := g.head(i)
	b := g.buf[:0]
	b = append(b, `{"device_id":"`...)
	b = append(b, row.Device...)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, row.Seq, 10)
	b = append(b, `,"ts":"`...)
	b = time.UnixMicro(row.TS).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","temp":`...)
	b = append(b, temp...)
	b = append(b, `,"payload":"`...)
	g.payloadAt = len(b)
	b = g.payload(b, recordSize-len(`"}`))
	b = append(b, `"}`...)
	g.buf = b
	return b
}

// Rotated returns record i with its fields in another order than the record
// before had them. The slice holds until the next call.
func (g *generator) Rotated(i int) []byte {
	fields := bytes.Split(bytes.Trim(bytes.Clone(g.JSON(i)), "{}"), []byte(`,"`))
	b := g.buf[:0]
	b = append(b, '{')
	for k := range fields {
		field := fields[(k+i)%len(fields)]
		if k > 0 {
			b = append(b, ',')
		}
		if field[0] != '"' { // the split took it
			b = append(b, '"')
		}
		b = append(b, field...)
	}
	b = append(b, '}')
	g.buf = b
	return b
}

// Row returns what the columns of record i hold, without parsing JSON.
func (g *generator) Row(i int) Row {
	row, _ := g.head(i)
	j := g.JSON(i)
	row.Payload = string(j[g.payloadAt : recordSize-len(`"}`)])
	return row
}

// head makes everything but the payload, and the text of the temperature.
func (g *generator) head(i int) (row Row, temp string) {
	device, seq := (i*stride)%devices, i/devices
	g.pcg.Seed(uint64(device), uint64(seq))
	row = Row{
		Device: "dev-" + strconv.Itoa(1_000_000 + device)[1:],
		Seq:    int64(seq),
		TS:     epoch.Add(time.Duration(seq)*time.Second + time.Duration(g.rnd.IntN(1_000_000))*time.Microsecond).UnixMicro(),
		Temp:   float64(g.rnd.IntN(12_000)-3_000) / 100,
	}
	return row, strconv.FormatFloat(row.Temp, 'f', -1, 64)
}

// payload fills b up to n bytes with words.
func (g *generator) payload(b []byte, n int) []byte {
	for len(b) < n {
		b = append(b, g.words[g.rnd.IntN(len(g.words))]...)
		b = append(b, ' ')
	}
	return b[:n]
}
