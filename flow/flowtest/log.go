package flowtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/penstockdev/penstock/flow"
)

// Log is a partitioned log in memory: what Kafka is to a flow. It has gaps,
// control records, retention, topics that are deleted and made anew, and
// consumer groups whose rebalances the test drives. Everything is safe for
// concurrent use, and nothing depends on the clock.
type Log struct {
	cluster string

	mu      sync.Mutex
	topics  map[string]*logTopic
	groups  map[string]*logGroup
	made    int  // topics ever created, for their ids
	private int  // sources without a group
	down    bool // see Break
	inject  []error
	changed chan struct{} // closed and replaced at every change
}

type logTopic struct {
	id    string
	parts []*logPartition
}

type logPartition struct {
	begin, end int64
	epoch      int32
	records    []flow.Record // ascending offsets; elements are never changed
	epochs     []int32       // leader epochs of records
}

// NewLog makes an empty log. Its cluster id is "log".
func NewLog() *Log { return NewLogNamed("log") }

// NewLogNamed makes an empty log with a cluster id of its own.
func NewLogNamed(cluster string) *Log {
	return &Log{
		cluster: cluster,
		topics:  map[string]*logTopic{}, groups: map[string]*logGroup{},
		changed: make(chan struct{}),
	}
}

// change runs f under the lock and wakes whoever waits.
func (l *Log) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.signal()
}

// signal wakes whoever waits. The lock is held.
func (l *Log) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Create makes a topic, or adds partitions to one that exists.
func (l *Log) Create(topic string, partitions int) {
	l.change(func() {
		t := l.topics[topic]
		if t == nil {
			l.made++
			t = &logTopic{id: fmt.Sprintf("%s-%d", topic, l.made)}
			l.topics[topic] = t
		}
		for len(t.parts) < partitions {
			t.parts = append(t.parts, &logPartition{})
		}
		l.rebalanceAll()
	})
}

// Delete removes a topic with all that it holds, and the offsets that groups
// have committed for it. Create makes another topic of the same name, with
// another id.
func (l *Log) Delete(topic string) {
	l.change(func() {
		delete(l.topics, topic)
		for _, g := range l.groups {
			for p := range g.committed {
				if p.Topic == topic {
					delete(g.committed, p)
				}
			}
		}
		l.rebalanceAll()
	})
}

// part returns a partition, or nil. The lock is held.
func (l *Log) part(p flow.Partition) (*logTopic, *logPartition) {
	t := l.topics[p.Topic]
	if t == nil || p.ID < 0 || int(p.ID) >= len(t.parts) {
		return t, nil
	}
	return t, t.parts[p.ID]
}

// with changes a partition that must exist.
func (l *Log) with(p flow.Partition, f func(*logPartition)) {
	l.change(func() {
		_, lp := l.part(p)
		if lp == nil {
			panic("flowtest: " + p.String() + " does not exist; call Log.Create first")
		}
		f(lp)
	})
}

// Append adds copies of the records at the end of the partition and returns the
// offset of the first. Offset and Part of the arguments are ignored.
func (l *Log) Append(topic string, partition int32, records ...flow.Record) int64 {
	var first int64
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) {
		first = p.end
		for i := range records {
			r := CloneRecord(&records[i])
			r.Offset, r.Part = p.end, 0
			p.records = append(p.records, r)
			p.epochs = append(p.epochs, p.epoch)
			p.end++
		}
	})
	return first
}

// Skip takes up n offsets that hold no record for the reader: control records,
// aborted records, or what compaction removed.
func (l *Log) Skip(topic string, partition int32, n int64) {
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) { p.end += n })
}

// Compact removes the records for which drop returns true. Their offsets become gaps.
func (l *Log) Compact(topic string, partition int32, drop func(*flow.Record) bool) {
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) {
		var records []flow.Record
		var epochs []int32
		for i := range p.records {
			if !drop(&p.records[i]) {
				records = append(records, p.records[i])
				epochs = append(epochs, p.epochs[i])
			}
		}
		p.records, p.epochs = records, epochs
	})
}

// Truncate removes what lies before offset begin, as retention does.
func (l *Log) Truncate(topic string, partition int32, begin int64) {
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) {
		p.begin, p.end = max(p.begin, begin), max(p.end, begin)
		i := p.index(p.begin)
		p.records, p.epochs = slices.Clone(p.records[i:]), slices.Clone(p.epochs[i:])
	})
}

// Chop removes what lies at and after offset end, as an unclean election does.
func (l *Log) Chop(topic string, partition int32, end int64) {
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) {
		p.end = min(p.end, end)
		p.begin = min(p.begin, p.end)
		i := p.index(p.end)
		p.records, p.epochs = slices.Clone(p.records[:i]), slices.Clone(p.epochs[:i])
		p.epoch++
	})
}

// Elect makes a new leader: the leader epoch of later records is one higher.
func (l *Log) Elect(topic string, partition int32) {
	l.with(flow.Partition{Topic: topic, ID: partition}, func(p *logPartition) { p.epoch++ })
}

// index returns the place of the first record at or after the offset.
func (p *logPartition) index(offset int64) int {
	i, _ := slices.BinarySearchFunc(p.records, offset, func(r flow.Record, o int64) int {
		switch {
		case r.Offset < o:
			return -1
		case r.Offset > o:
			return 1
		}
		return 0
	})
	return i
}

// Break makes the log unreachable: sources wait, as clients do that reconnect
// by themselves; Open, Subscribe and Commit fail with a transient error.
func (l *Log) Break() { l.change(func() { l.down = true }) }

// Mend ends what Break began.
func (l *Log) Mend() { l.change(func() { l.down = false }) }

// Inject makes the next Read calls, of any source, return these errors, one
// each, without delivering anything.
func (l *Log) Inject(errs ...error) {
	l.change(func() { l.inject = append(l.inject, errs...) })
}

// Bounds returns the first offset that the partition holds and the one after its last.
func (l *Log) Bounds(topic string, partition int32) (begin, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, p := l.part(flow.Partition{Topic: topic, ID: partition})
	if p == nil {
		return 0, 0
	}
	return p.begin, p.end
}

// Records returns what a partition holds now.
func (l *Log) Records(topic string, partition int32) []flow.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, p := l.part(flow.Partition{Topic: topic, ID: partition})
	if p == nil {
		return nil
	}
	return slices.Clone(p.records)
}

// All returns the records of every partition of the topics, or of all topics.
func (l *Log) All(topics ...string) map[flow.Partition][]flow.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[flow.Partition][]flow.Record{}
	for name, t := range l.topics {
		if len(topics) > 0 && !slices.Contains(topics, name) {
			continue
		}
		for id, p := range t.parts {
			all[flow.Partition{Topic: name, ID: int32(id)}] = slices.Clone(p.records)
		}
	}
	return all
}

// partitions lists the partitions of the chosen topics in order. The lock is held.
func (l *Log) partitions(match func(topic string) bool) []flow.Partition {
	var ps []flow.Partition
	for name, t := range l.topics {
		if match(name) {
			for id := range t.parts {
				ps = append(ps, flow.Partition{Topic: name, ID: int32(id)})
			}
		}
	}
	slices.SortFunc(ps, comparePartitions)
	return ps
}

func comparePartitions(a, b flow.Partition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.ID) - int(b.ID)
}

var (
	errDown   = flow.Transient(errors.New("the log cannot be reached"))
	errClosed = flow.Fatal(errors.New("the source is closed"))
)

// CloneRecord returns a copy that shares no memory with r, and keeps nil apart
// from empty.
func CloneRecord(r *flow.Record) flow.Record {
	c := *r
	c.Key, c.Value = slices.Clone(r.Key), slices.Clone(r.Value)
	c.Headers = slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = slices.Clone(c.Headers[i].Value)
	}
	return c
}
