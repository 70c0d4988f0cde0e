package ring

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// waiters is a schedule of blocking calls. After every step all goroutines
// run until each has returned or sleeps (synctest), so who still waits can be
// held against what the ring holds.
type waiters struct {
	ring      *Ring[message]
	random    *rand.Rand
	producers []*producer
	consumer  *call
	closed    bool
	schedule  []string
}

// message is number n of a producer's own sequence.
type message struct{ producer, n int }

type producer struct {
	*call
	sent, received int
}

// call is one that was started; nil: none is.
type call struct {
	cancel   context.CancelFunc
	canceled bool
	returned bool
	n, asked int
	got      []message
	err      error
}

func TestWhoCanGoOnNeverSleeps(t *testing.T) {
	play := func(seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			if err := playWaiters(t.Context(), rand.New(rand.NewPCG(seed, 1))); err != nil {
				t.Fatalf("replay with -seed %d: %v", seed, err)
			}
		})
	}
	if *seedFlag != 0 {
		play(*seedFlag)
		return
	}
	for range 300 {
		play(1 + rand.Uint64N(1<<32))
	}
}

func playWaiters(ctx context.Context, random *rand.Rand) error {
	w := &waiters{random: random}
	count, capacity := 1+random.IntN(4), 1<<random.IntN(4)
	for range count {
		w.producers = append(w.producers, &producer{})
	}
	var err error
	if count == 1 {
		w.ring, err = NewSPSC[message](capacity)
	} else {
		w.ring, err = NewMPSC[message](capacity)
	}
	if err != nil {
		return err
	}
	for range 100 {
		w.step(ctx)
		synctest.Wait()
		if err := w.check(); err != nil {
			return fmt.Errorf("capacity %d, %d producers, after %q: %w", capacity, count, w.schedule, err)
		}
	}
	return w.finish(ctx)
}

func (w *waiters) step(ctx context.Context) {
	i := w.random.IntN(len(w.producers))
	p := w.producers[i]
	size := 1 + w.random.IntN(2*w.ring.Cap())
	switch action := w.random.IntN(100); {
	case action == 0:
		w.schedule = append(w.schedule, "close")
		w.closed = true
		w.ring.Close()
	case action < 10 && p.call != nil:
		w.schedule = append(w.schedule, fmt.Sprintf("cancel producer %d", i))
		p.canceled = true
		p.cancel()
	case action < 15 && w.consumer != nil:
		w.schedule = append(w.schedule, "cancel consumer")
		w.consumer.canceled = true
		w.consumer.cancel()
	case action < 60 && p.call == nil:
		w.schedule = append(w.schedule, fmt.Sprintf("producer %d pushes %d", i, size))
		w.push(ctx, i, size)
	case w.consumer == nil:
		w.schedule = append(w.schedule, fmt.Sprintf("drain %d", size))
		w.drain(ctx, size)
	}
}

func (w *waiters) push(ctx context.Context, i, size int) {
	p := w.producers[i]
	messages := make([]message, size)
	for k := range messages {
		messages[k] = message{producer: i, n: p.sent + k}
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{cancel: cancel, asked: size}
	p.call = c
	go func() {
		c.n, c.err = w.ring.Push(ctx, messages...)
		c.returned = true
	}()
}

func (w *waiters) drain(ctx context.Context, size int) {
	ctx, cancel := context.WithCancel(ctx)
	c := &call{cancel: cancel, asked: size}
	w.consumer = c
	go func() {
		c.got = make([]message, size)
		c.n, c.err = w.ring.Drain(ctx, c.got)
		c.returned = true
	}()
}

// check takes note of the calls that have returned, and of those that have not.
func (w *waiters) check() error {
	for i, p := range w.producers {
		switch {
		case p.call == nil:
		case p.returned:
			p.cancel()
			if err := p.explain(p.n == p.asked, w.closed); err != nil {
				return fmt.Errorf("producer %d: pushed %d of %d: %w", i, p.n, p.asked, err)
			}
			p.sent += p.n
			p.call = nil
		case w.closed || p.canceled || w.ring.Len() < w.ring.Cap():
			return fmt.Errorf("producer %d sleeps: %d of %d, closed %t, canceled %t", i, w.ring.Len(), w.ring.Cap(), w.closed, p.canceled)
		}
	}
	c := w.consumer
	switch {
	case c == nil:
	case c.returned:
		c.cancel()
		w.consumer = nil
		if err := c.explain(c.n > 0, w.closed && w.ring.Len() == 0); err != nil {
			return fmt.Errorf("consumer: drained %d: %w", c.n, err)
		}
		return w.receive(c.got[:c.n])
	case w.closed || c.canceled || w.ring.Len() > 0:
		return fmt.Errorf("consumer sleeps: %d elements, closed %t, canceled %t", w.ring.Len(), w.closed, c.canceled)
	}
	return nil
}

// explain says what is wrong with the error that the call returned.
func (c *call) explain(done, closed bool) error {
	switch {
	case c.err == nil && done, errors.Is(c.err, ErrClosed) && closed, errors.Is(c.err, context.Canceled) && c.canceled:
		return nil
	default:
		return fmt.Errorf("returned error %w", c.err)
	}
}

// receive verifies the order of each producer's messages.
func (w *waiters) receive(messages []message) error {
	for _, m := range messages {
		p := w.producers[m.producer]
		if m.n != p.received {
			return fmt.Errorf("producer %d: received %d, want %d", m.producer, m.n, p.received)
		}
		p.received++
	}
	return nil
}

// finish closes, drains the rest, and counts.
func (w *waiters) finish(ctx context.Context) error {
	w.closed = true
	w.ring.Close()
	synctest.Wait()
	if err := w.check(); err != nil {
		return err
	}
	rest := make([]message, w.ring.Cap()+1)
	n, err := w.ring.Drain(ctx, rest)
	if n == 0 && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("closed and empty: %w", err)
	}
	if err := w.receive(rest[:n]); err != nil {
		return err
	}
	for i, p := range w.producers {
		if p.received != p.sent {
			return fmt.Errorf("producer %d: %d pushed, %d received", i, p.sent, p.received)
		}
	}
	return nil
}

// Between the look that found nothing and the sleep there may be a push, a
// drain or a Close, whose caller saw nobody wait.
func TestWhoIsAboutToSleepLooksAgain(t *testing.T) {
	both(t, 1, func(t *testing.T, r *Ring[int]) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		steps := []struct {
			between string
			change  func() error
			wait    func(context.Context) error
		}{
			{"push", func() error { _, err := r.TryPush(1); return err }, r.awaitElement},
			{"drain", func() error { _, err := r.TryDrain(make([]int, 1)); return err }, r.awaitRoom},
			{"close of an empty ring", func() error { r.Close(); return nil }, r.awaitElement},
			{"close", func() error { r.Close(); return nil }, r.awaitRoom},
		}
		for _, step := range steps {
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			if err := step.wait(ctx); err != nil {
				t.Errorf("slept after a %s: %v", step.between, err)
			}
		}
	})
}
