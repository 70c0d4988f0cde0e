package ring

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

var seedFlag = flag.Uint64("seed", 0, "seed of one random schedule to replay; 0 runs many of random seeds")

// The model is a plain slice of runs. A step of a schedule is what one
// goroutine does between two moments at which another one may interfere, so a
// schedule of steps is an interleaving of producers, consumer and Close: one may
// reserve, others fill the ring around it, and only then it publishes.

// run is what one producer reserved.
type run struct {
	at        uint64
	values    []int
	published bool
}

type model struct {
	ring     *Ring[int]
	several  bool
	runs     []*run // in the order of their positions; the first one may be drained in part
	pending  []*run // reserved, not published
	next     int    // the next value: values are 1, 2, 3, …
	closed   bool
	schedule []string
}

// playSchedule plays up to steps steps that choose picks, and compares the ring
// with the model after each. choose returns a number below n, or less than 0 at the end.
func playSchedule(choose func(n int) int, steps int) error {
	several := choose(2) == 1
	capacity := 1 << max(0, choose(5))
	m := model{several: several, next: 1}
	var err error
	if several {
		m.ring, err = NewMPSC[int](capacity)
	} else {
		m.ring, err = NewSPSC[int](capacity)
	}
	if err != nil {
		return err
	}
	for range steps {
		action := choose(256)
		if action < 0 {
			break
		}
		if err := m.step(action, choose); err != nil {
			return fmt.Errorf("capacity %d, several producers %t, after %q: %w", capacity, several, m.schedule, err)
		}
	}
	return m.finish()
}

func (m *model) step(action int, choose func(n int) int) error {
	size := max(0, choose(2*m.ring.Cap()+2))
	switch {
	case action == 0:
		m.schedule = append(m.schedule, "close")
		m.closed = true
		m.ring.Close()
	case action < 80 && (m.several || len(m.pending) == 0):
		m.schedule = append(m.schedule, fmt.Sprintf("reserve %d", size))
		if err := m.reserve(size); err != nil {
			return err
		}
	case action < 160 && len(m.pending) > 0:
		i := max(0, choose(len(m.pending)))
		m.schedule = append(m.schedule, fmt.Sprintf("publish pending %d", i))
		if err := m.publish(i); err != nil {
			return err
		}
	default:
		m.schedule = append(m.schedule, fmt.Sprintf("drain %d", size))
		if err := m.drain(size); err != nil {
			return err
		}
	}
	return m.compare()
}

func (m *model) held() int {
	n := 0
	for _, r := range m.runs {
		n += len(r.values)
	}
	return n
}

func (m *model) reserve(want int) error {
	at, n, err := m.ring.reserve(want)
	if m.closed {
		if !errors.Is(err, ErrClosed) {
			return fmt.Errorf("reserve in a closed ring: %d, %w", n, err)
		}
		return nil
	}
	if room := m.ring.Cap() - m.held(); err != nil || n != min(want, room) {
		return fmt.Errorf("reserve: %d, %w; want %d", n, err, min(want, room))
	}
	if n == 0 {
		return nil
	}
	r := &run{at: at}
	for range n {
		r.values = append(r.values, m.next)
		m.next++
	}
	m.pending = append(m.pending, r)
	if m.several {
		m.runs = append(m.runs, r)
	}
	return nil
}

func (m *model) publish(i int) error {
	r := m.pending[i]
	m.pending = slices.Delete(m.pending, i, i+1)
	err := m.ring.publish(r.at, r.values)
	if !m.several && m.closed {
		if !errors.Is(err, ErrClosed) {
			return fmt.Errorf("publish after Close with one producer: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	r.published = true
	if !m.several {
		m.runs = append(m.runs, r)
	}
	return nil
}

func (m *model) drain(size int) error {
	var want []int
	for len(m.runs) > 0 && m.runs[0].published && len(want) < size {
		r := m.runs[0]
		n := min(size-len(want), len(r.values))
		want = append(want, r.values[:n]...)
		if r.values = r.values[n:]; len(r.values) == 0 {
			m.runs = m.runs[1:]
		}
	}
	atEnd := m.closed && len(m.runs) == 0 && len(want) == 0
	dst := make([]int, size)
	n, err := m.ring.TryDrain(dst)
	if !slices.Equal(dst[:n], want) || errors.Is(err, ErrClosed) != atEnd {
		return fmt.Errorf("drain: %v, %w; want %v, at its end %t", dst[:n], err, want, atEnd)
	}
	return nil
}

// compare holds the ring's length and slots against the model's.
func (m *model) compare() error {
	if got, want := m.ring.Len(), m.held(); got != want {
		return fmt.Errorf("Len: %d, want %d", got, want)
	}
	slots := make([]int, m.ring.Cap())
	head := m.ring.head.Load()
	for _, r := range m.runs {
		for _, v := range r.values {
			if r.published {
				slots[head&m.ring.mask] = v
			}
			head++
		}
	}
	if !slices.Equal(m.ring.values, slots) {
		return fmt.Errorf("slots: %v, want %v", m.ring.values, slots)
	}
	return nil
}

// finish publishes what is pending, closes, and drains everything.
func (m *model) finish() error {
	for len(m.pending) > 0 {
		if err := m.publish(0); err != nil {
			return err
		}
	}
	m.closed = true
	m.ring.Close()
	for range 2 {
		if err := m.drain(m.ring.Cap()); err != nil {
			return fmt.Errorf("at the end of %q: %w", m.schedule, err)
		}
	}
	return m.compare()
}

func TestEveryScheduleEqualsASliceQueue(t *testing.T) {
	const schedules, steps = 3000, 200
	play := func(seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		if err := playSchedule(random.IntN, steps); err != nil {
			t.Fatalf("replay with -seed %d: %v", seed, err)
		}
	}
	if *seedFlag != 0 {
		play(*seedFlag)
		return
	}
	for range schedules {
		play(1 + rand.Uint64N(1<<32))
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add([]byte{1, 1, 1, 3, 1, 2, 100, 1, 1, 100, 0, 0, 200, 4}) // published out of order
	f.Add([]byte{0, 0, 1, 1, 0, 0, 100, 0, 0, 200, 1})            // closed before the publication
	f.Fuzz(func(t *testing.T, data []byte) {
		choose := func(n int) int {
			if len(data) == 0 {
				return -1
			}
			v := int(data[0]) % n
			data = data[1:]
			return v
		}
		if err := playSchedule(choose, len(data)); err != nil {
			t.Fatal(err)
		}
	})
}
