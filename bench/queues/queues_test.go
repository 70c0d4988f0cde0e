package queues

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/penstockdev/penstock/ring"
	"github.com/puzpuzpuz/xsync/v4"
)

const (
	usualCapacity = 1024 // elements
	batchSize     = 64
)

// queue carries the numbers 1 to n of each producer to one consumer.
type queue interface {
	// produce pushes 1 to n. It is called once by every producer.
	produce(n int)
	// close follows the return of all producers.
	close()
	// consume returns the number and the sum of what it received until close.
	consume() (n int, sum uint64)
}

// contender makes a queue for so many producers and elements, anew for every run.
type contender struct {
	name string
	make func(b *testing.B, producers, capacity int) queue
}

var contenders = []contender{
	{"ring-1", func(b *testing.B, producers, capacity int) queue {
		return &rings{r: newRing[uint64](b, producers, capacity), push: 1, drain: 1}
	}},
	{"ring-1-64", func(b *testing.B, producers, capacity int) queue {
		return &rings{r: newRing[uint64](b, producers, capacity), push: 1, drain: batchSize}
	}},
	{"ring-64", func(b *testing.B, producers, capacity int) queue {
		return &rings{r: newRing[uint64](b, producers, capacity), push: batchSize, drain: batchSize}
	}},
	{"chan-1", func(_ *testing.B, _, capacity int) queue { return &channel{c: make(chan uint64, capacity)} }},
	{"chan-of-64", func(_ *testing.B, producers, capacity int) queue { return newBatches(producers, capacity) }},
	{"mutex-1", func(_ *testing.B, _, capacity int) queue { return newGuarded(1, capacity) }},
	{"mutex-64", func(_ *testing.B, _, capacity int) queue { return newGuarded(batchSize, capacity) }},
	{"xsync-MPMC", func(_ *testing.B, _, capacity int) queue {
		return &xsyncQueue{q: xsync.NewMPMCQueue[uint64](capacity)}
	}},
}

// BenchmarkElements reports what one element costs that is pushed and drained,
// in time (ns/op) and in processor time of both sides (cpu-ns/op).
func BenchmarkElements(b *testing.B) {
	for _, machine := range machines {
		b.Run("machine="+machine.name, func(b *testing.B) {
			machine.prepare(b)
			for _, producers := range []int{1, 4} {
				for _, c := range contenders {
					b.Run("producers="+strconv.Itoa(producers)+"/queue="+c.name, func(b *testing.B) {
						carry(b, c.make(b, producers, usualCapacity), producers)
					})
				}
			}
		})
	}
}

// BenchmarkCapacity is BenchmarkElements with one producer, beside nothing, for
// queues of other capacities.
func BenchmarkCapacity(b *testing.B) {
	for _, capacity := range []int{64, 256, 1024, 16384} {
		for _, c := range contenders {
			b.Run("capacity="+strconv.Itoa(capacity)+"/queue="+c.name, func(b *testing.B) {
				carry(b, c.make(b, 1, capacity), 1)
			})
		}
	}
}

// carry moves b.N elements through q and verifies that they arrived.
func carry(b *testing.B, q queue, producers int) {
	b.ReportAllocs()
	share := max(1, b.N/producers)
	var received int
	var sum uint64
	measured(b, func() {
		var producing, consuming sync.WaitGroup
		consuming.Go(func() { received, sum = q.consume() })
		for range producers {
			producing.Go(func() { q.produce(share) })
		}
		producing.Wait()
		q.close()
		consuming.Wait()
	})
	n := uint64(share)
	if want := uint64(producers) * n * (n + 1) / 2; received != share*producers || sum != want {
		b.Fatalf("received %d elements with sum %d, want %d with sum %d", received, sum, share*producers, want)
	}
}

func newRing[T any](b *testing.B, producers, capacity int) *ring.Ring[T] {
	b.Helper()
	make := ring.NewMPSC[T]
	if producers == 1 {
		make = ring.NewSPSC[T]
	}
	r, err := make(capacity)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// rings pushes and drains so many elements at a time.
type rings struct {
	r           *ring.Ring[uint64]
	push, drain int
}

func (q *rings) produce(n int) {
	ctx := context.Background()
	if q.push == 1 {
		for i := range n {
			if _, err := q.r.Push(ctx, uint64(i)+1); err != nil {
				panic(err)
			}
		}
		return
	}
	batch := make([]uint64, 0, q.push)
	for i := range n {
		if batch = append(batch, uint64(i)+1); len(batch) == q.push || i == n-1 {
			if _, err := q.r.Push(ctx, batch...); err != nil {
				panic(err)
			}
			batch = batch[:0]
		}
	}
}

func (q *rings) close() { q.r.Close() }

func (q *rings) consume() (count int, sum uint64) {
	ctx := context.Background()
	batch := make([]uint64, q.drain)
	for {
		n, err := q.r.Drain(ctx, batch)
		if err != nil {
			return count, sum
		}
		count += n
		for _, v := range batch[:n] {
			sum += v
		}
	}
}

// channel carries single elements.
type channel struct{ c chan uint64 }

func (q *channel) produce(n int) {
	for i := range n {
		q.c <- uint64(i) + 1
	}
}

func (q *channel) close() { close(q.c) }

func (q *channel) consume() (count int, sum uint64) {
	for v := range q.c {
		count++
		sum += v
	}
	return count, sum
}

// batches is a channel of batches, which come back through another one.
type batches struct{ full, free chan []uint64 }

func newBatches(producers, capacity int) *batches {
	q := &batches{full: make(chan []uint64, capacity/batchSize), free: make(chan []uint64, capacity/batchSize+producers+1)}
	for range cap(q.free) {
		q.free <- make([]uint64, 0, batchSize)
	}
	return q
}

func (q *batches) produce(n int) {
	batch := <-q.free
	for i := range n {
		if batch = append(batch, uint64(i)+1); len(batch) == batchSize || i == n-1 {
			q.full <- batch
			if i < n-1 {
				batch = <-q.free
			}
		}
	}
}

func (q *batches) close() { close(q.full) }

func (q *batches) consume() (count int, sum uint64) {
	for batch := range q.full {
		count += len(batch)
		for _, v := range batch {
			sum += v
		}
		q.free <- batch[:0]
	}
	return count, sum
}

// guarded is a slice under a mutex: producers append batches, the consumer
// swaps it for an empty one.
type guarded struct {
	batch, capacity int

	mu            sync.Mutex // guards what follows
	filled, space sync.Cond
	values        []uint64
	closed        bool
}

func newGuarded(batch, capacity int) *guarded {
	q := &guarded{batch: batch, capacity: capacity, values: make([]uint64, 0, capacity)}
	q.filled.L, q.space.L = &q.mu, &q.mu
	return q
}

func (q *guarded) produce(n int) {
	batch := make([]uint64, 0, q.batch)
	for i := range n {
		if batch = append(batch, uint64(i)+1); len(batch) == q.batch || i == n-1 {
			q.mu.Lock()
			for len(q.values)+len(batch) > q.capacity {
				q.space.Wait()
			}
			q.values = append(q.values, batch...)
			q.mu.Unlock()
			q.filled.Signal()
			batch = batch[:0]
		}
	}
}

func (q *guarded) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.filled.Signal()
}

func (q *guarded) consume() (count int, sum uint64) {
	spare := make([]uint64, 0, q.capacity)
	for {
		q.mu.Lock()
		for len(q.values) == 0 && !q.closed {
			q.filled.Wait()
		}
		spare, q.values = q.values, spare[:0]
		q.mu.Unlock()
		q.space.Broadcast()
		if len(spare) == 0 {
			return count, sum
		}
		count += len(spare)
		for _, v := range spare {
			sum += v
		}
	}
}

// xsyncQueue yields where it is empty or full: it cannot wait.
type xsyncQueue struct {
	q *xsync.MPMCQueue[uint64]
}

func (q *xsyncQueue) produce(n int) {
	for i := range n {
		q.push(uint64(i) + 1)
	}
}

func (q *xsyncQueue) push(v uint64) {
	for !q.q.TryEnqueue(v) {
		runtime.Gosched()
	}
}

// close pushes what produce never does.
func (q *xsyncQueue) close() { q.push(0) }

func (q *xsyncQueue) consume() (count int, sum uint64) {
	for {
		v, ok := q.q.TryDequeue()
		switch {
		case !ok:
			runtime.Gosched()
		case v == 0:
			return count, sum
		default:
			count++
			sum += v
		}
	}
}
