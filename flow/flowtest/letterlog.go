package flowtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// LetterLogOptions say what a LetterLog is like.
type LetterLogOptions struct {
	// Partitions of the log; 0: 1.
	Partitions int32
	// Now is the time at which a letter is kept; nil: time.Now.
	Now func() time.Time
}

// LetterLog is a dead-letter topic in memory. Like a topic it is written to at the end, has gaps between its
// offsets, and remembers what was removed: of letters that are there twice the first one counts, even if
// it was removed. All processes share the one value.
type LetterLog struct {
	opts LetterLogOptions

	mu sync.Mutex
	// guarded by mu:
	kept  []keptLetter
	at    map[letterPlace]int     // index into kept
	known map[letterIdentity]bool // that were ever kept
	next  map[int32]int64         // offset, by partition
	calls int
	hook  func(call int, op string) (before, after error)
}

type keptLetter struct {
	flow.Letter
	double, removed bool
}

// letterPlace is what of a position finds a letter.
type letterPlace struct {
	flow.Partition
	offset int64
}

func placeOf(p flow.Position) letterPlace { return letterPlace{p.Partition, p.Offset} }

var _ flow.LetterLog = (*LetterLog)(nil)

// NewLetterLog makes a log without letters.
func NewLetterLog(o LetterLogOptions) *LetterLog {
	o.Partitions = max(o.Partitions, 1)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &LetterLog{opts: o, at: map[letterPlace]int{}, known: map[letterIdentity]bool{}, next: map[int32]int64{}}
}

// Hook is asked at every call, numbered from 1, whether it fails before it has an effect, or after. Operations
// are letters, take, release, remove, put, and queue for what a flow writes. Nil: none fails.
func (l *LetterLog) Hook(hook func(call int, op string) (before, after error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = hook
}

// do runs a call with its fault.
func (l *LetterLog) do(op string, fn func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	var before, after error
	if l.hook != nil {
		before, after = l.hook(l.calls, op)
	}
	if before != nil {
		return before
	}
	if err := fn(); err != nil {
		return err
	}
	return after
}

// Place names the topic: dead.
func (l *LetterLog) Place() string { return "topic dead" }

// Kept returns all letters as they were kept, in that order: of all flows, removed ones and doubles too.
func (l *LetterLog) Kept() []flow.Letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list(func(*keptLetter) bool { return true })
}

// There returns the letters that a flow is shown.
func (l *LetterLog) There(name string) []flow.Letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.there(name)
}

func (l *LetterLog) there(name string) []flow.Letter {
	return l.list(func(k *keptLetter) bool { return k.Flow == name && !k.double && !k.removed })
}

// Grow adds partitions, so that letters of one source partition are in two from now on.
func (l *LetterLog) Grow(partitions int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opts.Partitions += partitions
}

// list copies letters. The lock is held.
func (l *LetterLog) list(which func(*keptLetter) bool) (out []flow.Letter) {
	for i := range l.kept {
		if which(&l.kept[i]) {
			out = append(out, cloneLetter(&l.kept[i].Letter))
		}
	}
	return out
}

// Letters shows the letters that were there when it was called. Their bytes are cleared after the call.
func (l *LetterLog) Letters(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
	var shown []flow.Letter
	err := l.do("letters", func() error {
		shown = l.there(s.Flow)
		return nil
	})
	for i := range shown {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(&shown[i]); err != nil {
			return err
		}
		clear(shown[i].Record.Key)
		clear(shown[i].Record.Value)
	}
	return err
}

// find returns the letter at a place; nil if there is none. The lock is held.
func (l *LetterLog) find(p flow.Position) *keptLetter {
	if i, ok := l.at[placeOf(p)]; ok && !l.kept[i].removed {
		return &l.kept[i]
	}
	return nil
}

// Take gives letters to a job.
func (l *LetterLog) Take(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	if job == "" {
		return errors.New("take dead letters: a job needs a name")
	}
	return l.do("take", func() error {
		for _, p := range places {
			switch k := l.find(p); {
			case k == nil:
				return &flow.TakenError{Place: p}
			case k.Job != "" && k.Job != job:
				return &flow.TakenError{Place: p, Job: k.Job}
			}
		}
		for _, p := range places {
			l.find(p).Job = job
		}
		return nil
	})
}

// Release opens letters of a job.
func (l *LetterLog) Release(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return l.do("release", func() error {
		for _, p := range places {
			if k := l.find(p); k != nil && k.Job == job {
				k.Job = ""
			}
		}
		return nil
	})
}

// Remove ends letters of a job.
func (l *LetterLog) Remove(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return l.do("remove", func() error {
		for _, p := range places {
			if k := l.find(p); k != nil && k.Job == job {
				k.removed = true
				delete(l.known, identityOf(&k.Letter)) // who comes next is no double
			}
		}
		return nil
	})
}

// Put keeps letters under their own identity.
func (l *LetterLog) Put(_ context.Context, _ flow.Setup, letters []flow.Letter) error {
	return l.do("put", func() error {
		l.add(letters...)
		return nil
	})
}

// Append is Put without a fault.
func (l *LetterLog) Append(letters ...flow.Letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(letters...)
}

// add keeps copies. The lock is held.
func (l *LetterLog) add(letters ...flow.Letter) {
	for i := range letters {
		k := keptLetter{Letter: cloneLetter(&letters[i])}
		id := k.ID % l.opts.Partitions
		k.Place = flow.Position{Partition: flow.Partition{Topic: "dead", ID: id}, Offset: l.next[id], LeaderEpoch: -1}
		l.next[id] += 2 // transactions leave gaps
		k.Since, k.Job, k.Redrives = l.opts.Now(), "", flow.Redrives(k.Record.Headers)
		same := identityOf(&k.Letter)
		k.double, l.known[same] = l.known[same], true
		l.at[placeOf(k.Place)] = len(l.kept)
		l.kept = append(l.kept, k)
	}
}

// letterIdentity is what tells letters apart.
type letterIdentity struct {
	flow, cluster, topicID string
	flow.Partition
	offset   int64
	redrives int
}

func identityOf(l *flow.Letter) letterIdentity {
	return letterIdentity{l.Flow, l.ClusterID, l.TopicID, l.Partition, l.Record.Offset, l.Redrives}
}

func (i letterIdentity) String() string {
	return fmt.Sprintf("%s/%s/%s@%d", i.cluster, i.topicID, i.Partition, i.offset)
}

func cloneLetter(l *flow.Letter) flow.Letter {
	c := *l
	r := CloneRecord(l.Record)
	c.Record = &r
	return c
}

// Queue is the log as the process of a flow writes to it.
func (l *LetterLog) Queue() *LetterQueue { return &LetterQueue{log: l} }

// LetterQueue keeps the dead letters of a flow in a LetterLog.
type LetterQueue struct {
	log  *LetterLog
	flow string
}

var _ flow.DeadLetterQueue = (*LetterQueue)(nil)

// LetterLog is the log.
func (q *LetterQueue) LetterLog() flow.LetterLog { return q.log }

// Open learns the flow.
func (q *LetterQueue) Open(_ context.Context, s flow.Setup) error {
	q.flow = s.Flow
	return nil
}

// Put keeps letters of the flow.
func (q *LetterQueue) Put(_ context.Context, letters []flow.DeadLetter) error {
	return q.log.do("queue", func() error {
		for i := range letters {
			q.log.add(flow.Letter{DeadLetter: letters[i], Flow: q.flow})
		}
		return nil
	})
}

// Close has nothing to free.
func (q *LetterQueue) Close(context.Context) error { return nil }
