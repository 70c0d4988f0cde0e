// Package ring is a bounded queue of elements between goroutines: lock-free,
// filled and drained in batches, and parking where it is empty or full.
//
// What belongs here: the ring, and nothing that knows what its elements are.
// When a ring is the right queue, and when a channel is, says docs/queues.md.
package ring
