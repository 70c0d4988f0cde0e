package dlq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryLog is a dead-letter topic in memory. Like a topic it is written to at the end, and
// remembers what was removed: a letter that is there twice is shown once, even if the first was removed.
type memoryLog struct {
	partitions int32

	mu      sync.Mutex
	letters []flow.Letter
	removed map[flow.Position]bool
	next    map[int32]int64
	calls   int
	// fault is asked after the numbered call what it returns: an error before its effect, or after.
	fault func(call int, op string) (before, after error)
}

var (
	_ flow.LetterLog       = (*memoryLog)(nil)
	_ flow.DeadLetterQueue = (*memoryQueue)(nil)
)

func newMemoryLog(partitions int32) *memoryLog {
	return &memoryLog{partitions: partitions, removed: map[flow.Position]bool{}, next: map[int32]int64{}}
}

// do runs a call with its fault.
func (m *memoryLog) do(op string, fn func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	var before, after error
	if m.fault != nil {
		before, after = m.fault(m.calls, op)
	}
	if before != nil {
		return before
	}
	if err := fn(); err != nil {
		return err
	}
	return after
}

func (m *memoryLog) Place() string { return "topic dead" }

func (m *memoryLog) Letters(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
	var shown []flow.Letter
	err := m.do("letters", func() error {
		seen := map[string]bool{}
		for i := range m.letters {
			l := &m.letters[i]
			key := fmt.Sprint(l.ClusterID, l.TopicID, l.Partition, l.Record.Offset, l.Redrives)
			if l.Flow != s.Flow || seen[key] {
				continue
			}
			seen[key] = true
			if !m.removed[l.Place] {
				shown = append(shown, *l)
			}
		}
		return nil
	})
	for i := range shown {
		l := cloneLetter(&shown[i])
		if err := errors.Join(ctx.Err(), fn(&l)); err != nil {
			return err
		}
		clear(l.Record.Value) // it was valid during the call
		clear(l.Record.Key)
	}
	return err
}

func (m *memoryLog) find(p flow.Position) *flow.Letter {
	i := slices.IndexFunc(m.letters, func(l flow.Letter) bool { return l.Place == p })
	if i < 0 {
		return nil
	}
	return &m.letters[i]
}

func (m *memoryLog) Take(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return m.do("take", func() error {
		for _, p := range places {
			if l := m.find(p); l == nil || m.removed[p] || l.Job != "" && l.Job != job {
				return &flow.TakenError{Place: p, Job: l.Job}
			}
		}
		for _, p := range places {
			m.find(p).Job = job
		}
		return nil
	})
}

func (m *memoryLog) Release(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return m.do("release", func() error {
		for _, p := range places {
			if l := m.find(p); l.Job == job {
				l.Job = ""
			}
		}
		return nil
	})
}

func (m *memoryLog) Remove(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return m.do("remove", func() error {
		for _, p := range places {
			if m.find(p).Job == job {
				m.removed[p] = true
			}
		}
		return nil
	})
}

func (m *memoryLog) Put(_ context.Context, _ flow.Setup, letters []flow.Letter) error {
	return m.do("put", func() error {
		for i := range letters {
			m.add(letters[i])
		}
		return nil
	})
}

// add keeps a letter. The lock is held.
func (m *memoryLog) add(l flow.Letter) {
	l = cloneLetter(&l)
	id := l.ID % m.partitions
	l.Place = flow.Position{Partition: flow.Partition{Topic: "dead", ID: id}, Offset: m.next[id], LeaderEpoch: -1}
	l.Since = time.Date(2026, 1, 31, 12, 0, len(m.letters), 0, time.UTC)
	l.Redrives, l.Job = 0, ""
	for _, h := range l.Record.Headers {
		if h.Key == flow.HeaderRedrives {
			l.Redrives, _ = strconv.Atoi(string(h.Value))
		}
	}
	m.next[id] += 2 // transactions leave gaps
	m.letters = append(m.letters, l)
}

// there are the letters of a flow that were not removed, by id.
func (m *memoryLog) there(t *testing.T, name string) map[string]flow.Letter {
	t.Helper()
	m.mu.Lock()
	fault := m.fault
	m.fault = nil
	m.mu.Unlock()
	out := map[string]flow.Letter{}
	err := m.Letters(t.Context(), flow.Setup{Flow: name}, func(l *flow.Letter) error {
		id := IDOf(l).String()
		if _, twice := out[id]; twice {
			t.Errorf("letter %s is there twice", id)
		}
		out[id] = cloneLetter(l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.fault = fault
	m.mu.Unlock()
	return out
}

// memoryQueue is the log as a flow writes to it.
type memoryQueue struct {
	log  *memoryLog
	flow string
}

func (q *memoryQueue) LetterLog() flow.LetterLog { return q.log }

func (q *memoryQueue) Open(_ context.Context, s flow.Setup) error {
	q.flow = s.Flow
	return nil
}

func (q *memoryQueue) Close(context.Context) error { return nil }

func (q *memoryQueue) Put(_ context.Context, letters []flow.DeadLetter) error {
	return q.log.do("queue", func() error {
		for i := range letters {
			q.log.add(flow.Letter{DeadLetter: letters[i], Flow: q.flow})
		}
		return nil
	})
}
