package kafka

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// errorPause is the wait after a poll that brought nothing but errors which kgo
// retries by itself: it would bring the same at once.
const errorPause = 250 * time.Millisecond

// probeEvery is how often the cluster is asked, after a transient error,
// whether it is over: a topic without new records does not tell.
const probeEvery = time.Second

// Read implements flow.Source. It returns nil when it has delivered, and when a
// transient error that it returned is over.
func (s *Source) Read(ctx context.Context) error {
	for ctx.Err() == nil {
		delivered, troubled, err := s.readOnce(ctx)
		switch {
		case err != nil:
			return err
		case troubled && !delivered:
			sleep(ctx, errorPause)
		case delivered, s.inTrouble() && s.answers(ctx):
			s.setTrouble(troubled)
			return nil
		}
	}
	return nil
}

func (s *Source) inTrouble() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

func (s *Source) setTrouble(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = is
}

// answers asks the group's coordinator and the leaders of the partitions that
// this process owns.
func (s *Source) answers(ctx context.Context) bool {
	c, err := s.connect()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s.mu.Lock()
	parts := slices.Collect(maps.Keys(s.parts))
	s.mu.Unlock()
	if _, err := c.listOffsets(ctx, parts, s.cfg.isolation(), atLatest); err != nil {
		return false
	}
	_, err = c.groupOffsets(ctx, s.cfg.Group, "")
	return err == nil
}

// readOnce polls and delivers. troubled says that there were errors.
func (s *Source) readOnce(ctx context.Context) (delivered, troubled bool, err error) {
	pollCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.inTrouble() {
		defer time.AfterFunc(probeEvery, cancel).Stop()
	}
	cl := s.client()
	if cl == nil {
		return false, false, errClosed
	}
	s.mu.Lock()
	s.poll++
	s.wakePoll = cancel
	s.mu.Unlock()
	// From now on whoever leaves a failure interrupts the poll.
	if err := s.takeFailure(); err != nil {
		return false, false, err
	}
	s.moveFresh()
	fetches := cl.PollFetches(pollCtx)
	failpoint.Hit("source.read")
	var troubles []trouble
	for i := range fetches {
		for j := range fetches[i].Topics {
			t := &fetches[i].Topics[j]
			for k := range t.Partitions {
				p := &t.Partitions[k]
				if len(p.Records) > 0 && s.deliver(t, p) {
					delivered = true
				}
				if p.Err != nil && !ended(p.Err) {
					troubles = append(troubles, trouble{flow.Partition{Topic: t.Topic, ID: p.Partition}, p})
				}
			}
		}
	}
	if len(troubles) > 0 {
		s.judge(ctx, troubles)
	}
	return delivered, len(troubles) > 0, s.takeFailure()
}

// ended says that a poll ended for its context, which is no error.
func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// moveFresh repeats changes of position that kgo may have dropped.
func (s *Source) moveFresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if p.moved {
			s.move(p)
		}
	}
}

// deliver hands the records of one partition over, and reports whether there
// was anything to hand over.
func (s *Source) deliver(t *kgo.FetchTopic, p *kgo.FetchPartition) bool {
	s.delivering.Lock()
	defer s.delivering.Unlock()
	name := flow.Partition{Topic: t.Topic, ID: p.Partition}
	id := s.idText(t.TopicID)
	next, ok := s.expect(name, id, p)
	if !ok {
		recycle(p.Records)
		return false
	}
	last := p.Records[len(p.Records)-1]
	f := flow.Fetch{
		Partition: name, TopicID: id, Next: max(next, last.Offset+1), LeaderEpoch: last.LeaderEpoch, End: p.HighWatermark,
	}
	f.Records = views(s.in.Buffer(len(p.Records)), p.Records) // last: kgo's records are not ours any more
	if s.cfg.Isolation == readCommitted && p.LastStableOffset >= 0 {
		f.End = p.LastStableOffset
	}
	s.mu.Lock()
	if st := s.parts[name]; st != nil {
		st.next = f.Next
		if f.TopicID == "" {
			f.TopicID = st.topicID
		}
	}
	s.mu.Unlock()
	s.in.Deliver(f)
	return true
}

// idText is topicID, made once per topic.
func (s *Source) idText(id [16]byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.ids[id]
	if !ok {
		text = topicID(id)
		s.ids[id] = text
	}
	return text
}

// expect checks that the records are those that follow what was delivered
// before, and returns their least offset.
func (s *Source) expect(name flow.Partition, id string, p *kgo.FetchPartition) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.parts[name]
	switch first := p.Records[0].Offset; {
	case st == nil, st.stopped, st.leaving:
		return 0, false
	case id != "" && st.topicID != "" && id != st.topicID:
		s.lose(st, p.LogStartOffset, p.HighWatermark, id)
		return 0, false
	case st.since == s.poll:
		// The poll may have taken this before the partition was revoked and
		// assigned again: it is fetched anew.
		s.move(st)
		return 0, false
	case st.moved:
		// The poll proves that kgo uses the partition; whether it took the
		// change before is not known. From now on it takes it.
		st.fresh, st.moved = false, false
		s.move(st)
		return 0, false
	case first < st.next:
		// kgo went back by itself: it found the log cut off.
		s.lose(st, p.LogStartOffset, first, "")
		return 0, false
	}
	st.fresh = false
	return st.next, true
}

// views fills dst with views of the records, and gives kgo's own array back.
// Control records are left out.
func views(dst []flow.Record, records []*kgo.Record) []flow.Record {
	var headers []flow.Header
	for i, r := range records {
		if r.Attrs.IsControl() {
			r.Recycle()
			continue
		}
		v := flow.Record{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp.UnixMicro(), Offset: r.Offset}
		if n := len(r.Headers); n > 0 {
			if headers == nil { // one array for all records
				headers = make([]flow.Header, 0, countHeaders(records[i:]))
			}
			from := len(headers)
			for _, h := range r.Headers {
				headers = append(headers, flow.Header(h))
			}
			v.Headers = headers[from:len(headers):len(headers)]
		}
		dst = append(dst, v)
		r.Recycle()
	}
	return dst
}

func countHeaders(records []*kgo.Record) int {
	n := 0
	for _, r := range records {
		n += len(r.Headers)
	}
	return n
}

func recycle(records []*kgo.Record) {
	for _, r := range records {
		r.Recycle()
	}
}
