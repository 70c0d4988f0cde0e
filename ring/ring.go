package ring

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// MaxCapacity is the largest capacity of a ring.
const MaxCapacity = 1 << 30

// ErrClosed is returned by pushes into a closed ring, and by drains of one in
// which nothing is left.
var ErrClosed = errors.New("ring: closed")

// Ring is a bounded first-in-first-out queue with one consumer, and one
// producer (NewSPSC) or any number of them (NewMPSC). Calls of Drain and TryDrain
// must not overlap, nor must, with one producer, those of Push and TryPush. Close,
// Len and Cap may be called at any time from anywhere. Nothing allocates after the
// constructor, and the ring keeps no reference to what was drained.
//
// How it works:
//
//  1. Positions count elements from 0 and never repeat: with 63 bits a ring that
//     moves 10^9 elements a second lasts for 292 years. The element at position p
//     lies in values[p&mask]. head is the position of the next element to drain,
//     tail that of the next one to push; tail - head never exceeds the capacity.
//  2. A producer reserves a run of positions, copies its elements there and
//     publishes the run as a whole: a batch costs as many atomic writes as a
//     single element.
//  3. With one producer, moving tail is the publication. Several reserve by
//     moving tail and publish by writing the run's end into ends, at the run's
//     first slot. An end is also the slot's version: what an earlier round left
//     there is at most p, while a published run that begins at p ends above p. So
//     a slot is never mistaken for one of another round (ABA), and the consumer
//     walks from run to run.
//  4. The consumer copies out, clears the slots (the garbage collector must not
//     find the elements there) and moves head once.
//  5. closedBit is part of tail: no run can be reserved after it is set, and the
//     ring is at its end when tail is closedBit + head. A run that was reserved
//     before and is not yet published is still awaited.
//
// Parking. Who finds nothing to do says so (idle, waiting), then looks again,
// then sleeps; who makes work publishes it, then looks whether somebody said so.
// The atomics are sequentially consistent, so one of the two sees the other. wake
// and space hold one token each; one that is not needed costs its receiver another
// look. A producer that took one passes it on when it returns, as long as there is
// room and somebody waits: one token wakes all who can go on.
//
// Tried and left out: looking some 30 to 1000 times before sleeping, and waking
// producers only when half of the ring is free. Neither made an element cheaper
// (docs/queues.md), and the second can deadlock a consumer that waits for its producer.
//
// A producer that is descheduled between reserving and publishing holds back
// what others publish behind it. They can push until the ring is full, and
// nobody spins for it.
type Ring[T any] struct {
	values []T
	ends   []atomic.Uint64 // nil with one producer
	mask   uint64
	wake   chan struct{} // to the consumer
	space  chan struct{} // to one producer

	// What one side writes often is a cache line away from what the other does.
	_        pad
	tail     atomic.Uint64
	headSeen atomic.Uint64 // a head that a producer has read: at most head
	_        pad
	head     atomic.Uint64
	ready    uint64 // the consumer's own: published up to here, at least head
	_        pad
	idle     atomic.Bool // the consumer is about to sleep, or sleeps
	_        pad
	waiting  atomic.Int32 // producers that are about to sleep, or sleep
	_        pad
}

// pad is two cache lines: adjacent ones are fetched in pairs.
type pad [128]byte

const closedBit = 1 << 63

// NewSPSC makes a ring with one producer and one consumer. capacity, the number of
// elements that it holds, is a power of two from 1 to MaxCapacity.
func NewSPSC[T any](capacity int) (*Ring[T], error) {
	if capacity < 1 || capacity > MaxCapacity || capacity&(capacity-1) != 0 {
		return nil, capacityError(capacity)
	}
	return &Ring[T]{
		values: make([]T, capacity), mask: uint64(capacity) - 1,
		wake: make(chan struct{}, 1), space: make(chan struct{}, 1),
	}, nil
}

// NewMPSC makes a ring with any number of producers and one consumer. See
// NewSPSC for its capacity.
func NewMPSC[T any](capacity int) (*Ring[T], error) {
	r, err := NewSPSC[T](capacity)
	if err != nil {
		return nil, err
	}
	r.ends = make([]atomic.Uint64, capacity)
	return r, nil
}

func capacityError(capacity int) error {
	switch {
	case capacity < 1:
		return fmt.Errorf("ring: capacity %d: must be a power of two, at least 1", capacity)
	case capacity > MaxCapacity:
		return fmt.Errorf("ring: capacity %d: must be a power of two, at most %d", capacity, MaxCapacity)
	default:
		above := 1 << bits.Len(uint(capacity))
		return fmt.Errorf("ring: capacity %d: must be a power of two, such as %d or %d", capacity, above/2, above)
	}
}

// Push appends vs in order and waits while the ring is full. It returns how
// many it has appended: all of them, or fewer and ErrClosed or the error of ctx.
// Where there is room, ctx is not looked at. vs may be larger than the ring, and
// is then, or when room is short, appended in parts; elements of other producers
// may come to lie between them.
func (r *Ring[T]) Push(ctx context.Context, vs ...T) (int, error) {
	pushed, err := r.TryPush(vs...)
	if err != nil || pushed == len(vs) {
		return pushed, err
	}
	// Having waited, this may hold the token that others wait for.
	defer r.passOn()
	for {
		if err := r.awaitRoom(ctx); err != nil {
			return pushed, err
		}
		n, err := r.TryPush(vs[pushed:]...)
		pushed += n
		if err != nil || pushed == len(vs) {
			return pushed, err
		}
	}
}

// TryPush appends as many of vs as there is room for, in order, and returns
// their number. The error is ErrClosed or nil.
func (r *Ring[T]) TryPush(vs ...T) (int, error) {
	at, n, err := r.reserve(len(vs))
	if n == 0 {
		return 0, err
	}
	if err := r.publish(at, vs[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

// reserve returns a run of at most want positions. With several producers it
// belongs to the caller, who must publish it.
func (r *Ring[T]) reserve(want int) (at uint64, n int, err error) {
	for {
		at = r.tail.Load()
		if at&closedBit != 0 {
			return 0, 0, ErrClosed
		}
		end := r.headSeen.Load() + uint64(len(r.values))
		if at+uint64(want) > end {
			head := r.head.Load()
			r.headSeen.Store(head)
			end = head + uint64(len(r.values))
		}
		// at may be old, and below head: then it will not be swapped.
		n = int(min(uint64(want), end-at)) //nolint:gosec // at most want
		if n == 0 || r.ends == nil || r.tail.CompareAndSwap(at, at+uint64(n)) {
			return at, n, nil
		}
	}
}

// publish fills the run at at and shows it to the consumer. With one producer
// it fails when the ring was closed meanwhile.
func (r *Ring[T]) publish(at uint64, vs []T) error {
	first := r.values[at&r.mask:]
	n := copy(first, vs)
	copy(r.values, vs[n:])
	end := at + uint64(len(vs))
	if r.ends != nil {
		r.ends[at&r.mask].Store(end)
	} else if !r.tail.CompareAndSwap(at, end) {
		clear(first[:n])
		clear(r.values[:len(vs)-n])
		return ErrClosed
	}
	r.wakeConsumer()
	return nil
}

// Drain moves up to len(dst) elements to dst and waits while there are none. It
// returns their number, at least 1, or 0 and ErrClosed (the ring is closed and
// empty) or the error of ctx. What is there is returned whether or not ctx has
// ended. An empty dst is not waited for.
func (r *Ring[T]) Drain(ctx context.Context, dst []T) (int, error) {
	for {
		n, err := r.TryDrain(dst)
		if n > 0 || err != nil || len(dst) == 0 {
			return n, err
		}
		if err := r.awaitElement(ctx); err != nil {
			return 0, err
		}
	}
}

// TryDrain moves what there is, up to len(dst) elements, to dst and returns
// their number. The error is ErrClosed, once nothing is left, or nil.
func (r *Ring[T]) TryDrain(dst []T) (int, error) {
	head := r.head.Load()
	n := r.published(head, len(dst))
	if n == 0 {
		if r.tail.Load() == head|closedBit {
			return 0, ErrClosed
		}
		return 0, nil
	}
	first := r.values[head&r.mask:]
	k := copy(dst[:n], first)
	clear(first[:k])
	if k < n {
		copy(dst[k:n], r.values)
		clear(r.values[:n-k])
	}
	r.head.Store(head + uint64(n))
	if r.waiting.Load() != 0 {
		send(r.space)
	}
	return n, nil
}

// published returns how many elements, at most want, can be drained. The
// caller is the consumer.
func (r *Ring[T]) published(head uint64, want int) int {
	limit := head + uint64(want)
	if r.ends == nil {
		if r.ready < limit {
			r.ready = r.tail.Load() &^ closedBit
		}
	} else {
		for r.ready < limit {
			end := r.ends[r.ready&r.mask].Load()
			if end <= r.ready {
				break
			}
			r.ready = end
		}
	}
	return int(min(r.ready, limit) - head) //nolint:gosec // at most want
}

// Close ends the ring: pushes fail with ErrClosed, also those that wait, and
// drains do once everything that was pushed is drained. It may be called more
// than once.
func (r *Ring[T]) Close() {
	r.tail.Or(closedBit)
	r.wakeConsumer()
	send(r.space)
}

// Len is the number of elements in the ring, those that a producer is just
// copying included. While others push and drain it is an estimate, at least 0 and at
// most Cap.
func (r *Ring[T]) Len() int {
	head := r.head.Load()
	tail := r.tail.Load() &^ closedBit
	return int(min(tail-head, uint64(len(r.values)))) //nolint:gosec // at most the capacity
}

// Cap is the number of elements for which there is room.
func (r *Ring[T]) Cap() int { return len(r.values) }

// awaitElement returns when there is something to drain, perhaps, or the ring
// is at its end; or with the error of ctx.
func (r *Ring[T]) awaitElement(ctx context.Context) error {
	r.idle.Store(true)
	defer r.idle.Store(false)
	head := r.head.Load()
	if r.published(head, 1) > 0 || r.tail.Load() == head|closedBit {
		return nil
	}
	return receive(ctx, r.wake)
}

// wakeConsumer follows every change that the consumer may wait for.
func (r *Ring[T]) wakeConsumer() {
	if r.idle.Load() && r.idle.CompareAndSwap(true, false) {
		send(r.wake)
	}
}

// awaitRoom returns when there is room, perhaps, or the ring is closed; or with
// the error of ctx.
func (r *Ring[T]) awaitRoom(ctx context.Context) error {
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	if r.canPush() {
		return nil
	}
	return receive(ctx, r.space)
}

// passOn wakes another producer that can go on.
func (r *Ring[T]) passOn() {
	if r.waiting.Load() != 0 && r.canPush() {
		send(r.space)
	}
}

// canPush reports whether a push would not have to wait: there is room, or the
// ring is closed. It may say no by mistake when head moves meanwhile, but then the
// consumer sees whoever waits.
func (r *Ring[T]) canPush() bool {
	head := r.head.Load()
	tail := r.tail.Load()
	return tail&closedBit != 0 || tail-head < uint64(len(r.values))
}

// send leaves a token where there is none.
func send(tokens chan<- struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}

func receive(ctx context.Context, tokens <-chan struct{}) error {
	select {
	case <-tokens:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
