package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

const (
	// readTime bounds how long Read waits for transactions that are open.
	readTime = 3 * time.Second
	// claimTime bounds how long one attempt to claim does: a lane that stops waits for it.
	claimTime = 5 * time.Second
)

// nobody is the membership under which offsets are committed while the group
// has no members.
var nobody = flow.Member{Generation: -1}

// kept returns what the group keeps; see cluster.kept.
func (s *TransactionalSink) kept(ctx context.Context, stable bool) (map[flow.Partition]kept, map[flow.Partition]bool, error) {
	return s.admin.kept(ctx, s.group, stable)
}

// notCommitted is what the coordinator said to an offset.
func (s *TransactionalSink) notCommitted(topic string, partition int32, err error) error {
	return s.cfg.explain(fmt.Sprintf("committing the offset of %s[%d] in group %s", topic, partition, s.group), err,
		mayRead(topic), mayJoin(s.group), mayTransact(s.setup.Flow+"-"))
}

// commit commits offsets outside of a transaction: positions, each with its
// owner.
func (s *TransactionalSink) commit(ctx context.Context, m flow.Member, writer string, checkpoints []flow.Checkpoint) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = s.group, m.ID, m.Generation
	if m.InstanceID != "" {
		req.InstanceID = &m.InstanceID
	}
	index := map[string]int{}
	for i := range checkpoints {
		c := &checkpoints[i]
		k, ok := index[c.Topic]
		if !ok {
			k = len(req.Topics)
			index[c.Topic] = k
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic = c.Topic
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.LeaderEpoch = c.ID, c.Offset, c.LeaderEpoch
		p.Metadata = s.metadata(c.Owner, c.TopicID, writer)
		req.Topics[k].Partitions = append(req.Topics[k].Partitions, p)
	}
	resp, err := req.RequestWith(ctx, s.admin.cl)
	if err != nil {
		return err
	}
	for i := range resp.Topics {
		for _, p := range resp.Topics[i].Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return s.notCommitted(resp.Topics[i].Topic, p.Partition, err)
			}
		}
	}
	return nil
}

func (s *TransactionalSink) metadata(owner int64, topicID, writer string) *string {
	m := mark{flow: s.setup.Flow, owner: owner, writer: writer, topicID: topicID, source: s.source, target: s.target}
	text := m.String()
	return &text
}

// Init implements flow.Checkpointer. Offsets that the group has already are
// where the flow goes on, as without transactions.
func (s *TransactionalSink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	stored, _, err := s.kept(ctx, false)
	if err != nil {
		return err
	}
	known, err := s.hasPositions(stored)
	if err != nil || known {
		return err
	}
	positions, err := starts(ctx)
	if err != nil {
		return err
	}
	first := make([]flow.Checkpoint, len(positions))
	for i, p := range positions {
		first[i].Position = p
		if k, ok := stored[p.Partition]; ok {
			first[i].Offset, first[i].LeaderEpoch = k.Offset, k.LeaderEpoch
		}
	}
	if len(first) == 0 {
		return nil
	}
	if len(stored) == 0 {
		s.log.Warn("the group has no offsets: the flow begins anew. If it has run before, the broker has forgotten its positions, as it does when the group has no "+
			"members for offsets.retention.minutes, or its topics were deleted, and records are written again or left out",
			slog.String("flow", s.setup.Flow), slog.String("group", s.group))
	}
	// While the group has members nobody else may commit: of processes that
	// start together the last one's starts count, before anybody has joined.
	err = s.commit(ctx, nobody, "", first)
	if membership(err) {
		return flow.Transient(fmt.Errorf("kafka: the first positions of flow %s cannot be set while group %s has members (%w): waiting until they have left, or have set them",
			s.setup.Flow, s.group, err))
	}
	return s.cfg.explain("committing the first offsets of group "+s.group, err)
}

// foreign refuses what another flow has left in the group.
func (s *TransactionalSink) foreign(stored map[flow.Partition]kept) error {
	for p, k := range stored {
		if k.flow != "" && k.flow != s.setup.Flow {
			return otherFlow(s.group, p, k.mark, s.setup.Flow)
		}
	}
	return nil
}

// hasPositions says whether the flow has positions. Those of another flow, and those that mean something else, are an error.
func (s *TransactionalSink) hasPositions(stored map[flow.Partition]kept) (known bool, err error) {
	if err := s.foreign(stored); err != nil {
		return false, err
	}
	for _, k := range stored {
		if !k.marked {
			continue
		}
		known = true
		what := ""
		switch {
		case k.source != s.source:
			what = "the source was another (now: " + s.setup.Source + ")"
		case k.mark.target != s.target:
			what = "they were written to another topic (now: " + s.cfg.Topic + ")"
		}
		if what != "" {
			return false, flow.Fatal(fmt.Errorf("kafka: flow %s exists and its positions, the offsets of group %s, mean something else: %s; give the flow another name and group, "+
				"restore the configuration, or delete the group's offsets (kafka-consumer-groups.sh --delete --group %s) to start anew", s.setup.Flow, s.group, what, s.group))
		}
	}
	return known, nil
}

// Insert implements flow.Checkpointer. When it returns nil the offsets can be seen, which
// is a moment after their transaction was ended.
func (s *TransactionalSink) Insert(ctx context.Context, positions []flow.Position) error {
	for inserted := false; ; {
		stored, _, err := s.kept(ctx, false)
		if err != nil {
			return err
		}
		var fresh []flow.Part
		for _, p := range positions {
			if _, ok := stored[p.Partition]; !ok {
				fresh = append(fresh, flow.Part{Partition: p.Partition, TopicID: p.TopicID, Next: p.Offset, LeaderEpoch: p.LeaderEpoch})
			}
		}
		switch {
		case len(fresh) == 0:
			return nil
		case inserted && pause(ctx):
			continue
		case inserted:
			return ctx.Err()
		}
		in, err := s.beginInsertion(ctx, fresh)
		if err == nil {
			err = in.end(ctx)
		}
		if inserted = err == nil; inserted {
			continue
		}
		if !endedByOthers(err) || !pause(ctx) {
			return err
		}
	}
}

// Claim implements flow.Checkpointer. One at a time: a partition that comes back
// to a process may be claimed by its former lane as well.
func (s *TransactionalSink) Claim(ctx context.Context, lane int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	doing := "taking over partitions of group " + s.group
	select {
	case s.claiming <- struct{}{}:
		defer func() { <-s.claiming }()
	case <-ctx.Done():
		return nil, flow.Transient(fmt.Errorf("kafka: %s: %w", doing, ctx.Err()))
	}
	// Before settle: see transactor.Write.
	s.release(ps)
	for start := time.Now(); ; {
		out, err := s.claim(ctx, lane, ps, doing)
		switch {
		case !membership(err) && !endedByOthers(err):
			return out, err
		case time.Since(start) > rebalanceTime || !pause(ctx):
			// The next generation is known soon, or the assignment has ended.
			return nil, flow.Transient(fmt.Errorf("kafka: %s: a rebalance is under way: %w", doing, err))
		}
	}
}

// claim is one attempt.
func (s *TransactionalSink) claim(ctx context.Context, lane int, ps []flow.Partition, doing string) ([]flow.Checkpoint, error) {
	settling, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	if err := s.admin.settle(settling, s.group, ps, s.log); err != nil {
		return nil, s.cfg.explain(doing, err)
	}
	stored, unstable, err := s.kept(ctx, true)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(ps, func(p flow.Partition) bool { return unstable[p] }); i >= 0 {
		return nil, s.unsettled(ps[i])
	}
	out := make([]flow.Checkpoint, len(ps))
	var mine []flow.Checkpoint
	for i, p := range ps {
		k, ok := stored[p]
		if !ok {
			out[i] = flow.Checkpoint{Position: flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}}
			continue
		}
		if k.flow != "" && k.flow != s.setup.Flow { // both have begun in an empty group
			return nil, otherFlow(s.group, p, k.mark, s.setup.Flow)
		}
		out[i] = k.Checkpoint
		out[i].Owner++
		mine = append(mine, out[i])
	}
	if len(mine) == 0 {
		return out, nil
	}
	m, err := s.setup.Member(ps) // the source has them since before it told the engine
	if err != nil {
		return nil, flow.Transient(fmt.Errorf("kafka: %s: %w", doing, err))
	}
	if alone(m) {
		err = s.takeOver(ctx, s.transactionalID(lane), stored, mine)
	} else {
		err = s.commit(ctx, m, s.transactionalID(lane), mine)
	}
	if err != nil {
		if membership(err) || endedByOthers(err) {
			return nil, err
		}
		return nil, s.cfg.explain(doing, err)
	}
	s.hold(mine)
	return out, nil
}

// unsettled is the error of a partition whose offset may still move.
func (s *TransactionalSink) unsettled(p flow.Partition) error {
	return flow.Transient(fmt.Errorf("kafka: a transaction that is not ended yet holds the offset of %s in group %s", p, s.group))
}

// release forgets the partitions: whatever a lane of this process still does
// with them is refused.
func (s *TransactionalSink) release(ps []flow.Partition) {
	s.held.Lock()
	defer s.held.Unlock()
	for _, p := range ps {
		delete(s.held.parts, p)
	}
}

func (s *TransactionalSink) hold(claimed []flow.Checkpoint) {
	s.held.Lock()
	defer s.held.Unlock()
	for i := range claimed {
		c := &claimed[i]
		s.held.parts[c.Partition] = holding{owner: c.Owner, offset: c.Offset, topicID: c.TopicID}
	}
}

// Read implements flow.Checkpointer.
func (s *TransactionalSink) Read(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
	stored, err := s.final(ctx, ps)
	if err != nil {
		return nil, err
	}
	out := make([]flow.Checkpoint, len(ps))
	s.held.Lock()
	defer s.held.Unlock()
	for i, p := range ps {
		k, ok := stored[p]
		if !ok {
			out[i] = flow.Checkpoint{Position: flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}}
			continue
		}
		out[i] = k.Checkpoint
		if h, ok := s.held.parts[p]; ok && h.owner == k.Owner {
			h.offset = k.Offset // the lane goes on from here
			s.held.parts[p] = h
		}
	}
	return out, nil
}

// final returns what the group keeps when no transaction can move the offsets of the partitions.
func (s *TransactionalSink) final(ctx context.Context, ps []flow.Partition) (map[flow.Partition]kept, error) {
	for start := time.Now(); ; {
		stored, unstable, err := s.kept(ctx, true)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(ps, func(p flow.Partition) bool { return unstable[p] })
		if i < 0 {
			return stored, nil
		}
		if time.Since(start) > readTime || !pause(ctx) {
			return nil, s.unsettled(ps[i])
		}
	}
}

// Topics implements flow.Checkpointer.
func (s *TransactionalSink) Topics(ctx context.Context) (map[string]int32, error) {
	stored, unstable, err := s.kept(ctx, false)
	if err != nil {
		return nil, err
	}
	topics := map[string]int32{}
	for p := range stored {
		topics[p.Topic]++
	}
	for p := range unstable {
		topics[p.Topic]++
	}
	return topics, nil
}

// membership says that a commit was refused because the group has other members,
// or another generation, by now.
func membership(err error) bool {
	for _, e := range []error{
		kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.StaleMemberEpoch, kerr.FencedMemberEpoch,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
