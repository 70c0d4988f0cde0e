package dlq

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// deadPlaces are letters that have failed again, by partition and offset of the redrive.
type deadPlaces struct {
	mu     sync.Mutex
	places map[deadPlace]struct{}
}

type deadPlace struct {
	p      flow.Partition
	offset int64
}

func (d *deadPlaces) add(p flow.Partition, offset int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.places[deadPlace{p, offset}] = struct{}{}
}

func (d *deadPlaces) has(p flow.Partition, offset int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.places[deadPlace{p, offset}]
	return ok
}

// attemptQueue gives what is put into a dead-letter queue a topic id of the attempt. What was put in a
// transaction that was not committed is removed, and a log that remembers what was removed would not show the same letter
// again.
type attemptQueue struct {
	flow.DeadLetterQueue
	s *source
}

// Put implements flow.DeadLetterQueue.
func (q *attemptQueue) Put(ctx context.Context, letters []flow.DeadLetter) error {
	id := *q.s.attempt.Load()
	for i := range letters {
		letters[i].TopicID = id
	}
	return q.DeadLetterQueue.Put(ctx, letters)
}

func (s *source) newAttempt() {
	id := rand.Text()[:8]
	s.attempt.Store(&id)
}

// notedSink notes which letters have failed again, before their positions count as durable. It is for sinks that
// keep no positions.
type notedSink struct {
	flow.Sink
	dead *deadPlaces
}

var (
	_ flow.DeadLetterStore = (*notedSink)(nil)
	_ flow.LaneLimiter     = (*notedSink)(nil)
	_ flow.Router          = (*notedSink)(nil)
)

// StoresDeadLetters implements flow.DeadLetterStore.
func (s *notedSink) StoresDeadLetters() bool {
	store, ok := s.Sink.(flow.DeadLetterStore)
	return ok && store.StoresDeadLetters()
}

// MaxLanes implements flow.LaneLimiter.
func (s *notedSink) MaxLanes() int {
	if l, ok := s.Sink.(flow.LaneLimiter); ok {
		return l.MaxLanes()
	}
	return 1 << 16
}

// Routes implements flow.Router.
func (s *notedSink) Routes() int {
	if r, ok := s.Sink.(flow.Router); ok {
		return r.Routes()
	}
	return 0
}

// Writer implements flow.Sink.
func (s *notedSink) Writer(lane int) (flow.Writer, error) {
	w, err := s.Sink.Writer(lane)
	return &notedWriter{w, s.dead}, err
}

type notedWriter struct {
	flow.Writer
	dead *deadPlaces
}

// Write implements flow.Writer. A rejection is final.
func (w *notedWriter) Write(ctx context.Context, b *flow.Batch) error {
	if err := w.Writer.Write(ctx, b); err != nil {
		return err
	}
	for i := range b.Records {
		if b.Rejected(i) {
			w.dead.add(b.Parts[b.Records[i].Part].Partition, b.Records[i].Offset)
		}
	}
	return nil
}
