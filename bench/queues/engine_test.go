package queues

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/ring"
)

const (
	chunkSize = 500 // records of one fetch of one partition
	waiting   = 16  // chunks that may wait in a lane
)

// chunk is as large as what crosses from the engine's reader to a lane.
type chunk struct {
	records, buf []flow.Record
	next         int64
	_            int32     // leader epoch
	_            int64     // bytes
	_            time.Time // arrival
}

// handover carries chunks from one goroutine to another.
type handover interface {
	send(chunk)
	close()
	// receive waits, and fills dst as far as it can; 0 at the end.
	receive(dst []chunk) int
}

var handovers = []struct {
	name string
	make func(b *testing.B, capacity int) handover
}{
	{"mutex", func(_ *testing.B, capacity int) handover {
		return &lane{capacity: capacity, wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
	}},
	{"chan", func(_ *testing.B, capacity int) handover { return chunkChannel(make(chan chunk, capacity)) }},
	{"ring", func(b *testing.B, capacity int) handover {
		r, err := ring.NewSPSC[chunk](capacity)
		if err != nil {
			b.Fatal(err)
		}
		return chunkRing{r}
	}},
}

// BenchmarkChunks is the engine's case: chunks of 500 records from the reader to
// a lane. One operation is one chunk. With work=none the chunks are empty. With
// work=records the reader fills the records and the lane appends them to a batch, as
// flow does; queue=none does that in one goroutine, and queue=ring-of-records
// carries records instead of chunks.
func BenchmarkChunks(b *testing.B) {
	for _, machine := range machines {
		b.Run("machine="+machine.name, func(b *testing.B) {
			machine.prepare(b)
			for _, h := range handovers {
				b.Run("work=none/queue="+h.name, func(b *testing.B) { carryChunks(b, h.make(b, waiting), nil) })
			}
			b.Run("work=records/queue=none", func(b *testing.B) {
				records, batch := make([]flow.Record, chunkSize), newBatch()
				measured(b, func() {
					for i := range b.N {
						fill(records, i)
						batch.take(chunk{records: records, buf: records})
						clear(records)
					}
				})
			})
			for _, h := range handovers {
				b.Run("work=records/queue="+h.name, func(b *testing.B) {
					carryChunks(b, h.make(b, waiting), h.make(b, waiting*2))
				})
			}
			b.Run("work=records/queue=ring-of-records", carryRecords)
		})
	}
}

// carryChunks carries chunks to a lane and, if there is a way back, their
// buffers back to the reader.
func carryChunks(b *testing.B, there, back handover) {
	b.ReportAllocs()
	if back != nil {
		for range waiting * 2 {
			back.send(chunk{buf: make([]flow.Record, chunkSize)})
		}
	}
	received := 0
	measured(b, func() {
		var lane sync.WaitGroup
		lane.Go(func() {
			batch := newBatch()
			got := make([]chunk, waiting)
			for n := there.receive(got); n > 0; n = there.receive(got) {
				received += n
				for _, c := range got[:n] {
					if back != nil {
						batch.take(c)
						clear(c.buf)
						back.send(c)
					}
				}
			}
		})
		free := make([]chunk, 1)
		for i := range b.N {
			c := chunk{next: int64(i)}
			if back != nil {
				back.receive(free)
				c.buf = free[0].buf
				c.records = c.buf
				fill(c.records, i)
			}
			there.send(c)
		}
		there.close()
		lane.Wait()
	})
	if received != b.N {
		b.Fatalf("received %d chunks, want %d", received, b.N)
	}
}

// carryRecords carries the records themselves, which are copied twice.
func carryRecords(b *testing.B) {
	b.ReportAllocs()
	r, err := ring.NewSPSC[flow.Record](waiting * 512)
	if err != nil {
		b.Fatal(err)
	}
	received := 0
	measured(b, func() {
		var lane sync.WaitGroup
		lane.Go(func() {
			batch := newBatch()
			for {
				n, err := r.Drain(context.Background(), batch.room(chunkSize))
				if err != nil {
					return
				}
				batch.used += n
				received += n
			}
		})
		records := make([]flow.Record, chunkSize)
		for i := range b.N {
			fill(records, i)
			if _, err := r.Push(context.Background(), records...); err != nil {
				panic(err)
			}
		}
		r.Close()
		lane.Wait()
	})
	if received != b.N*chunkSize {
		b.Fatalf("received %d records, want %d", received, b.N*chunkSize)
	}
}

var value = make([]byte, 512)

// fill makes records that point into a fetch buffer.
func fill(records []flow.Record, chunk int) {
	for i := range records {
		records[i] = flow.Record{Key: value[:8], Value: value, Timestamp: int64(chunk), Offset: int64(chunk*chunkSize + i)}
	}
}

// batch is cut at 20,000 records, and then cleared.
type batch struct {
	records []flow.Record
	used    int
}

func newBatch() *batch { return &batch{records: make([]flow.Record, 20_000)} }

func (t *batch) take(c chunk) {
	t.used += copy(t.room(len(c.records)), c.records)
}

func (t *batch) room(n int) []flow.Record {
	if t.used+n > len(t.records) {
		clear(t.records)
		t.used = 0
	}
	return t.records[t.used : t.used+n]
}

// lane is the queue of flow's lane: a slice under a mutex, and a channel that
// tells of changes.
type lane struct {
	capacity    int
	wake, space chan struct{}

	mu     sync.Mutex // guards what follows
	queue  []chunk
	closed bool
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *lane) send(c chunk) {
	for {
		l.mu.Lock()
		if len(l.queue) < l.capacity {
			l.queue = append(l.queue, c)
			l.mu.Unlock()
			poke(l.wake)
			return
		}
		l.mu.Unlock()
		<-l.space
	}
}

func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	poke(l.wake)
}

func (l *lane) receive(dst []chunk) int {
	for {
		l.mu.Lock()
		n := copy(dst, l.queue)
		rest := copy(l.queue, l.queue[n:])
		clear(l.queue[rest:])
		l.queue = l.queue[:rest]
		closed := l.closed
		l.mu.Unlock()
		if n > 0 {
			poke(l.space)
			return n
		}
		if closed {
			return 0
		}
		<-l.wake
	}
}

type chunkChannel chan chunk

func (c chunkChannel) send(v chunk) { c <- v }
func (c chunkChannel) close()       { close(c) }

func (c chunkChannel) receive(dst []chunk) int {
	v, ok := <-c
	if !ok {
		return 0
	}
	dst[0] = v
	return 1
}

type chunkRing struct{ *ring.Ring[chunk] }

func (r chunkRing) close() { r.Close() }

func (r chunkRing) send(c chunk) {
	if _, err := r.Push(context.Background(), c); err != nil {
		panic(err)
	}
}

func (r chunkRing) receive(dst []chunk) int {
	n, err := r.Drain(context.Background(), dst)
	if err != nil {
		return 0
	}
	return n
}

// BenchmarkRoundTrip is the latency of a handover: one element goes to another goroutine,
// which waits for it, and back. So do the two batches of a lane between prepare and write.
func BenchmarkRoundTrip(b *testing.B) {
	for _, machine := range machines {
		b.Run("machine="+machine.name, func(b *testing.B) {
			machine.prepare(b)
			b.Run("queue=chan", func(b *testing.B) {
				there, back := make(chan *batch), make(chan *batch, 1)
				roundTrips(b, func(v *batch) { there <- v }, func() *batch { return <-there },
					func(v *batch) { back <- v }, func() *batch { return <-back })
			})
			b.Run("queue=ring", func(b *testing.B) {
				sendThere, receiveThere := newRingPipe(b)
				sendBack, receiveBack := newRingPipe(b)
				roundTrips(b, sendThere, receiveThere, sendBack, receiveBack)
			})
		})
	}
}

func newRingPipe(b *testing.B) (send func(*batch), receive func() *batch) {
	b.Helper()
	r, err := ring.NewSPSC[*batch](1)
	if err != nil {
		b.Fatal(err)
	}
	one := make([]*batch, 1)
	return func(v *batch) {
			if _, err := r.Push(context.Background(), v); err != nil {
				panic(err)
			}
		}, func() *batch {
			if _, err := r.Drain(context.Background(), one); err != nil {
				panic(err)
			}
			return one[0]
		}
}

func roundTrips(b *testing.B, sendThere func(*batch), receiveThere func() *batch, sendBack func(*batch), receiveBack func() *batch) {
	b.Helper()
	b.ReportAllocs()
	v := &batch{}
	measured(b, func() {
		var other sync.WaitGroup
		other.Go(func() {
			for range b.N {
				sendBack(receiveThere())
			}
		})
		for range b.N {
			sendThere(v)
			v = receiveBack()
		}
		other.Wait()
	})
}
