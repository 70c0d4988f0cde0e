package kafka

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

// LetterLog is a dead-letter topic as a person works with it. The letters stay where they are; what jobs do
// with them is written behind them (see control), and remembered here as far as it was read, so that a
// job of many steps reads the topic once. It connects when it is used, and is closed by the
// DeadLetters or the Sink that it is of.
type LetterLog struct {
	conn  *Connection
	topic string
	log   *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	admin *cluster
	out   *letterProducer
	id    string                // of the topic
	folds map[int32]*letterFold // by partition
}

var _ flow.LetterLog = (*LetterLog)(nil)

func newLetterLog(conn *Connection, topic string, log *slog.Logger) *LetterLog {
	return &LetterLog{conn: conn, topic: topic, log: log}
}

// Place implements flow.LetterLog.
func (l *LetterLog) Place() string { return "topic " + l.topic }

// Letters implements flow.LetterLog. Letters that a transaction has written are seen when it was committed. Of
// letters that are there twice the one that was written last is left out if fewer than a million lie between;
// that takes 80 MB at most.
func (l *LetterLog) Letters(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
	l.mu.Lock()
	parts, err := l.refresh(ctx)
	from := make([]flow.Position, len(parts))
	for i, p := range parts {
		from[i] = flow.Position{Partition: p, TopicID: l.id, Offset: l.folds[p.ID].begin}
	}
	l.mu.Unlock()
	if err != nil || len(parts) == 0 {
		return err
	}
	ends, err := l.admin.listOffsets(ctx, parts, isolationCommitted, atLatest)
	if err != nil {
		return err
	}
	seen := recent{}
	// One after the other: where the number of partitions was changed, letters that are there twice may be in two.
	for _, p := range from {
		seen.removed = map[int64][16]byte{}
		err := l.scan(ctx, isolationCommitted, []flow.Position{p}, ends, func(f *flow.Fetch) error {
			for i := range f.Records {
				if f.Records[i].Offset >= ends[p.Partition] {
					return nil
				}
				if err := l.show(s.Flow, &f.Records[i], f, &seen, fn); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// show calls fn with the record if it is a letter of the flow that has not been shown, and is there.
func (l *LetterLog) show(flowName string, r *flow.Record, f *flow.Fetch, seen *recent, fn func(*flow.Letter) error) error {
	if isControl(r) {
		return seen.end(r)
	}
	letter, ok, err := parseLetter(r)
	switch {
	case !ok, ok && letter.Flow != flowName && err == nil:
		return nil
	case err != nil:
		return l.unreadable("dead letter", f.Partition, r.Offset, err)
	}
	l.mu.Lock()
	job, removed := l.folds[f.ID].of(r.Offset)
	l.mu.Unlock()
	key := letterKey(&letter)
	double := seen.add(key)
	if removed {
		seen.removed[r.Offset] = key
	}
	if double || removed {
		return nil
	}
	letter.Job = job
	letter.Place = flow.Position{Partition: f.Partition, TopicID: f.TopicID, Offset: r.Offset, LeaderEpoch: f.LeaderEpoch}
	return fn(&letter)
}

// recent remembers letters by a hash of identity and redrives: the last million at least, the last two at most.
type recent struct {
	now, before map[[16]byte]struct{}
	// removed are the letters of the partition, by offset, whose removal comes later in the log.
	removed map[int64][16]byte
}

const generation = 1 << 20

func letterKey(l *flow.Letter) [16]byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d\x00%d\x00%d", l.ClusterID, l.TopicID, l.Topic, l.ID, l.Record.Offset, l.Redrives))
	return [16]byte(sum[:16])
}

// add says whether the letter was there.
func (r *recent) add(key [16]byte) bool {
	if _, ok := r.now[key]; ok {
		return true
	}
	if _, ok := r.before[key]; ok {
		return true
	}
	if r.now == nil || len(r.now) == generation {
		r.now, r.before = map[[16]byte]struct{}{}, r.now
	}
	r.now[key] = struct{}{}
	return false
}

// end forgets the letters that a control record removes: what is behind it is no double of theirs, but
// a record that has failed again (the flow's position was set back).
func (r *recent) end(record *flow.Record) error {
	c, err := parseControl(record)
	if err != nil || c.Op != opRemove {
		return err
	}
	for at := range c.offsets() {
		if key, ok := r.removed[at]; ok {
			delete(r.now, key)
			delete(r.before, key)
			delete(r.removed, at)
		}
	}
	return nil
}

// Take implements flow.LetterLog. Partitions are taken one after the other, so that of jobs which want the same
// letters at the same time one gets them.
func (l *LetterLog) Take(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.refresh(ctx); err != nil {
		return err
	}
	wanted, err := l.byPartition(job, places)
	if err != nil {
		return err
	}
	fresh := map[int32][]int64{} // that the job has not had before
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		for _, o := range wanted[id] {
			switch have, removed := l.holder(id, o); {
			case removed, have != "" && have != job:
				return l.taken(id, o, have)
			case have == "":
				fresh[id] = append(fresh[id], o)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(fresh)) {
		if err := l.write(ctx, control{Op: opTake, Job: job, Flow: s.Flow}, map[int32][]int64{id: fresh[id]}); err != nil {
			return err
		}
		if _, err := l.refresh(ctx); err != nil {
			return err
		}
		for _, o := range fresh[id] {
			if have, _ := l.holder(id, o); have != job {
				// That releases nothing of what others have.
				return errors.Join(l.taken(id, o, have), l.write(ctx, control{Op: opRelease, Job: job, Flow: s.Flow}, fresh))
			}
		}
	}
	return nil
}

// holder returns the job that has a letter, empty if it is open, and whether it is there no more. Call with mu held.
func (l *LetterLog) holder(id int32, offset int64) (job string, removed bool) {
	fold := l.folds[id]
	if fold == nil || offset < fold.begin || offset >= fold.next {
		return "", true
	}
	return fold.of(offset)
}

func (l *LetterLog) taken(id int32, offset int64, job string) error {
	return &flow.TakenError{Place: flow.Position{Partition: flow.Partition{Topic: l.topic, ID: id}, TopicID: l.id, Offset: offset, LeaderEpoch: -1}, Job: job}
}

// Release implements flow.LetterLog.
func (l *LetterLog) Release(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	return l.say(ctx, s, opRelease, job, places)
}

// Remove implements flow.LetterLog.
func (l *LetterLog) Remove(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	return l.say(ctx, s, opRemove, job, places)
}

func (l *LetterLog) say(ctx context.Context, s flow.Setup, op, job string, places []flow.Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	offsets, err := l.byPartition(job, places)
	if err != nil || len(offsets) == 0 {
		return err
	}
	return l.write(ctx, control{Op: op, Job: job, Flow: s.Flow}, offsets)
}

// Put implements flow.LetterLog.
func (l *LetterLog) Put(ctx context.Context, _ flow.Setup, letters []flow.Letter) error {
	l.mu.Lock()
	out, err := l.producer(ctx)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return out.put(ctx, func(yield func(*kgo.Record) bool) {
		for i := range letters {
			if !yield(out.letter(&letters[i].DeadLetter, letters[i].Flow)) {
				return
			}
		}
	})
}

// byPartition sorts places out. Call with mu held.
func (l *LetterLog) byPartition(job string, places []flow.Position) (map[int32][]int64, error) {
	if job == "" {
		return nil, flow.Fatal(errors.New("kafka: a job that works with dead letters needs a name"))
	}
	out := map[int32][]int64{}
	for _, p := range places {
		if p.Topic != l.topic {
			return nil, flow.Fatal(fmt.Errorf("kafka: the dead letter at %s, offset %d, is not in topic %s", p.Partition, p.Offset, l.topic))
		}
		if p.TopicID != "" && l.id != "" && p.TopicID != l.id { // the topic was made anew
			return nil, &flow.TakenError{Place: p}
		}
		out[p.ID] = append(out[p.ID], p.Offset)
	}
	return out, nil
}

// write writes control records. Call with mu held.
func (l *LetterLog) write(ctx context.Context, c control, offsets map[int32][]int64) error {
	out, err := l.producer(ctx)
	if err != nil {
		return err
	}
	var all []*kgo.Record
	for id, os := range offsets {
		records, err := controlRecords(c, id, os, out.room()/2)
		if err != nil {
			return err
		}
		all = append(all, records...)
	}
	return out.put(ctx, slices.Values(all))
}

// refresh reads the control records that are new, and returns the partitions; none if there is no such topic. Call with
// mu held.
func (l *LetterLog) refresh(ctx context.Context) ([]flow.Partition, error) {
	if err := l.connect(); err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	doing := "looking for dead-letter topic " + l.topic
	md, err := l.admin.adm.Metadata(asking, l.topic)
	if err != nil {
		return nil, l.conn.explain(doing, err, mayRead(l.topic))
	}
	switch err := md.Topics.Error(); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	case err != nil:
		return nil, l.conn.explain(doing, err, mayRead(l.topic))
	}
	if id := topicID(md.Topics[l.topic].ID); l.folds == nil || id != l.id {
		l.id, l.folds = id, map[int32]*letterFold{}
	}
	parts := partitionsOf(md.Topics)
	begins, err := l.admin.listOffsets(asking, parts, isolationUncommitted, atEarliest)
	if err != nil {
		return nil, err
	}
	// Control records are in no transaction, so they are seen while one of a flow is open.
	ends, err := l.admin.listOffsets(asking, parts, isolationUncommitted, atLatest)
	if err != nil {
		return nil, err
	}
	var from []flow.Position
	for _, p := range parts {
		if l.folds[p.ID] == nil {
			l.folds[p.ID] = newLetterFold()
		}
		l.folds[p.ID].trim(begins[p])
		from = append(from, flow.Position{Partition: p, TopicID: l.id, Offset: l.folds[p.ID].next})
	}
	err = l.scan(ctx, isolationUncommitted, from, ends, func(f *flow.Fetch) error {
		fold := l.folds[f.ID]
		for i := range f.Records {
			if err := fold.add(&f.Records[i]); err != nil {
				return l.unreadable("control record", f.Partition, f.Records[i].Offset, err)
			}
		}
		fold.next = f.Next
		return nil
	})
	return parts, err
}

func (l *LetterLog) unreadable(what string, p flow.Partition, offset int64, err error) error {
	return flow.Fatal(fmt.Errorf("kafka: the %s at %s, offset %d, cannot be read: %w", what, p, offset, err))
}

// How much of the topic is in memory while it is read.
const (
	letterFetch          = 8 << 20
	letterPartitionFetch = 2 << 20
)

// scan reads the partitions up to ends.
func (l *LetterLog) scan(ctx context.Context, isolation int8, from []flow.Position, ends map[flow.Partition]int64, deliver func(*flow.Fetch) error) error {
	opts, err := l.conn.options(l.log)
	if err != nil {
		return flow.Fatal(err)
	}
	opts = append(opts, kgo.FetchMaxBytes(letterFetch), kgo.FetchMaxPartitionBytes(letterPartitionFetch), kgo.FetchMaxWait(100*time.Millisecond))
	var failure error
	err = scan(ctx, l.conn, opts, isolation, from, ends, func() bool { return failure == nil }, func(f flow.Fetch) {
		if failure == nil {
			failure = deliver(&f)
		}
	})
	if failure == nil && err == nil && ctx.Err() != nil {
		err = l.conn.explain("reading dead-letter topic "+l.topic, ctx.Err())
	}
	return cmp.Or(failure, err)
}

// connect makes the client that asks. Call with mu held.
func (l *LetterLog) connect() error {
	if l.admin != nil {
		return nil
	}
	opts, err := l.conn.options(l.log)
	if err != nil {
		return flow.Fatal(err)
	}
	l.admin, err = newCluster(l.conn, opts)
	return err
}

// producer makes the client that writes. Call with mu held.
func (l *LetterLog) producer(ctx context.Context) (*letterProducer, error) {
	if l.out != nil {
		return l.out, nil
	}
	if err := l.connect(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	_, t, err := l.admin.writable(ctx, l.topic, false)
	if err != nil {
		return nil, err
	}
	limits, err := l.admin.limits(ctx, []string{l.topic}, l.log)
	if err != nil {
		return nil, err
	}
	opts, err := l.conn.options(l.log)
	if err != nil {
		return nil, flow.Fatal(err)
	}
	l.out, err = newLetterProducer(l.conn, opts, l.topic, int32(len(t.Partitions)), limits[l.topic]) //nolint:gosec // a number of partitions
	return l.out, err
}

// close frees everything. The log connects again when it is used again.
func (l *LetterLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		l.out.cl.Close()
		l.out = nil
	}
	if l.admin != nil {
		l.admin.close()
		l.admin = nil
	}
}
