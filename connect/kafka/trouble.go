package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

const (
	// reportEvery is how often a trouble that goes on is reported again.
	reportEvery = 10 * time.Second
	// checkEvery is how often the id of a topic in trouble is looked up.
	checkEvery = time.Second
	// rightsTime is how long a broker may take to learn the rights after its start.
	rightsTime = 5 * time.Second
)

// trouble is an error that a poll brought. Topic is empty for the group's.
type trouble struct {
	flow.Partition
	fetch *kgo.FetchPartition
}

// judge turns the errors of a poll into what Read returns: lost positions and
// what no retry helps against at once, what kgo retries by itself as transient
// errors, each now and then.
func (s *Source) judge(ctx context.Context, troubles []trouble) {
	topics := map[string]error{}
	for _, t := range troubles {
		err := t.fetch.Err
		var (
			loss    *kgo.ErrDataLoss
			session *kgo.ErrGroupSession
			large   *kgo.ErrDecompressTooLarge
		)
		switch {
		case errors.As(err, &session):
			s.report("group", s.cfg.explainSession(session.Err))
		case errors.Is(err, kgo.ErrClientClosed):
			s.report("client", errClosed)
		case t.Topic == "" && strings.Contains(err.Error(), "BrokerMaxReadBytes"):
			s.report("answer", flow.Fatal(fmt.Errorf("kafka: a broker's answer is larger than fetch.response_limit (%s): "+
				"raise it above the largest batch of %s", s.cfg.Fetch.ResponseLimit, s.cfg.what())))
		case errors.As(err, &large):
			s.report(t.String(), s.cfg.tooLarge(t.Partition, large.Offset))
		case errors.As(err, &loss):
			s.losePosition(t.Partition, t.fetch.LogStartOffset, loss.ResetTo, "")
		case errors.Is(err, kerr.OffsetOutOfRange):
			begin, end := s.ends(ctx, t)
			s.losePosition(t.Partition, begin, end, "")
		case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
			topics[t.Topic] = err
		case errors.Is(err, kerr.TopicAuthorizationFailed) && s.mayPass(t.Partition):
			s.report(t.Topic, flow.Transient(fmt.Errorf("%w; it could be read until now, and a broker that has just started does not know all rights yet: trying again for %s",
				s.cfg.explain("fetching "+t.String(), err), rightsTime)))
		case kerr.IsRetriable(err), errors.Is(err, kerr.UnknownServerError):
			s.report(t.Topic, flow.Transient(fmt.Errorf("kafka: fetching %s: %w", t.Partition, err)))
		default:
			if err = s.cfg.explain("fetching "+t.String(), err); flow.ClassOf(err) == flow.ClassUnknown {
				err = flow.Fatal(err)
			}
			s.report(t.String(), err)
		}
	}
	for topic, err := range topics {
		s.checkTopic(ctx, topic, err)
	}
}

// mayPass says that a missing right to read may be there soon.
func (s *Source) mayPass(name flow.Partition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[name]
	return p != nil && p.refuse(time.Now())
}

// refuse notes that a broker does not let the partition be read, and says
// whether it did until less than rightsTime ago. Who is refused from the
// beginning has no right.
func (p *partition) refuse(now time.Time) bool {
	if now.Sub(p.refusedLast) > rightsTime {
		p.refused = now
	}
	p.refusedLast = now
	return p.refused.Sub(p.at) > rightsTime && now.Sub(p.refused) < rightsTime
}

// report leaves err for Read to return: always, if it is not transient.
func (s *Source) report(about string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if flow.IsTransient(err) {
		s.trouble = true
		if time.Since(s.reported[about]) < reportEvery {
			return
		}
		s.reported[about] = time.Now()
	}
	s.failures = append(s.failures, err)
}

// losePosition stops a partition whose position is not in the log any more.
func (s *Source) losePosition(name flow.Partition, begin, end int64, idNow string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.parts[name]; p != nil && !p.stopped {
		s.lose(p, begin, end, idNow)
	}
}

// lose is losePosition with mu held.
func (s *Source) lose(p *partition, begin, end int64, idNow string) {
	s.stop(p)
	s.failures = append(s.failures, &flow.PositionLostError{
		Position: flow.Position{Partition: p.Partition, TopicID: p.topicID, Offset: p.next, LeaderEpoch: -1},
		Begin:    begin, End: end, TopicIDNow: idNow,
	})
}

// ends returns the offsets between which the log can be read: as asked now, or
// else as the broker said with its error.
func (s *Source) ends(ctx context.Context, t trouble) (begin, end int64) {
	begin, end = t.fetch.LogStartOffset, t.fetch.HighWatermark
	c, err := s.connect()
	if err != nil {
		return begin, end
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	one := []flow.Partition{t.Partition}
	first, err := c.listOffsets(ctx, one, s.cfg.isolation(), atEarliest)
	if err != nil {
		return begin, end
	}
	last, err := c.listOffsets(ctx, one, s.cfg.isolation(), atLatest)
	if err != nil {
		return begin, end
	}
	return first[t.Partition], last[t.Partition]
}

// checkTopic finds out why brokers do not know a topic under the id that it
// had. kgo never adopts the id of a topic that was made anew, so its error
// stays; but brokers also answer it while they learn of a topic.
func (s *Source) checkTopic(ctx context.Context, topic string, cause error) {
	s.mu.Lock()
	soon := time.Since(s.checked[topic]) < checkEvery
	if !soon {
		s.checked[topic] = time.Now()
	}
	s.mu.Unlock()
	if soon {
		return
	}
	c, err := s.connect()
	if err != nil {
		s.report(topic, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	md, err := c.adm.Metadata(ctx, topic)
	if err != nil {
		s.report(topic, s.cfg.explain("looking at topic "+topic, err))
		return
	}
	now := md.Topics[topic]
	if now.Err != nil {
		if errors.Is(now.Err, kerr.UnknownTopicOrPartition) {
			s.report("deletion of "+topic, flow.Transient(fmt.Errorf("kafka: topic %s does not exist any more (brokers %s): what was not read of it is gone; "+
				"take it out of topics, or make it anew and reset its positions", topic, s.cfg.addresses())))
			return
		}
		s.report(topic, s.cfg.explain("looking at topic "+topic, now.Err))
		return
	}
	id, lost := topicID(now.ID), false
	s.mu.Lock()
	for _, p := range s.parts {
		if p.Topic == topic && !p.stopped && id != "" && p.topicID != "" && id != p.topicID {
			s.lose(p, 0, 0, id)
			lost = true
		}
	}
	s.mu.Unlock()
	if lost {
		return
	}
	s.report(topic, flow.Transient(fmt.Errorf("kafka: fetching topic %s: %w", topic, cause)))
}
