package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

type offsets = map[string]map[int32]kgo.Offset

// onSettle is kgo's OnPartitionsAssigned, which it calls before it asks for the
// offsets of what is new to this process. It would wait for a transaction that a
// dead predecessor has left open until the broker ends it.
func (s *Source) onSettle(ctx context.Context, _ *kgo.Client, added map[string][]int32) {
	var ps []flow.Partition
	for t, ids := range added {
		for _, id := range ids {
			ps = append(ps, flow.Partition{Topic: t, ID: id})
		}
	}
	s.sayStandby(len(ps))
	if len(ps) == 0 {
		return
	}
	// The error is that of ctx, or Read returns it.
	_ = s.persist(ctx, func(ctx context.Context, c *cluster) error {
		err := c.settle(ctx, s.cfg.Group, ps, s.log)
		if errors.Is(err, kerr.TransactionalIDAuthorizationFailed) { // it reads, and somebody else writes
			s.log.Warn("cannot end a predecessor's transaction; waiting until the broker does, after the sink's transaction_timeout", slog.Any("error", err))
			return nil
		}
		return err
	})
}

// sayStandby says once that this process has joined and has nothing to do.
func (s *Source) sayStandby(added int) {
	s.mu.Lock()
	owns := added + len(s.parts)
	said := s.standby
	s.standby = owns == 0
	s.mu.Unlock()
	if owns == 0 && !said {
		s.log.Info("standby: all partitions are with other members", slog.String("group", s.cfg.Group))
	}
}

// onAssigned is kgo's AdjustFetchOffsetsFn: kgo calls it with the partitions
// that are new to this process and what the group has committed of them, reads
// each from the answer on, and never reads those that the answer lacks.
//
// An error ends the group session, so the only one returned is that of ctx: the
// assignment has ended already. kgo then calls again, in the next session,
// with the partitions that are still ours.
func (s *Source) onAssigned(ctx context.Context, in offsets) (offsets, error) {
	parts, group := assigned(in)
	if len(parts) == 0 {
		return in, nil
	}
	infos, err := s.describeAssigned(ctx, parts, group)
	if err != nil {
		return nil, err
	}
	s.own(infos)
	positions, err := s.in.Assigned(ctx, infos)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // even if the engine has answered for some
	case err != nil:
		s.fail(err)
		return offsets{}, nil
	case len(positions) != len(infos):
		s.fail(flow.Fatal(fmt.Errorf("kafka: %d positions for %d partitions", len(positions), len(infos))))
		return offsets{}, nil
	}
	s.warnOfOthers(infos, positions)
	if err := s.claimGroup(ctx, positions); err != nil {
		return nil, err
	}
	lost, err := s.checkDiverged(ctx, positions)
	if err != nil {
		return nil, err
	}
	return s.accept(infos, positions, lost), nil
}

// warnOfOthers says so if the group is further than the flow. Its offsets are
// committed after the flow's own positions, so somebody else has committed them, or the positions
// were set back.
func (s *Source) warnOfOthers(infos []flow.PartitionInfo, positions []flow.Position) {
	for i, pos := range positions {
		if pos.Offset >= 0 && infos[i].Committed > pos.Offset {
			s.log.Warn("the group's committed offset is past the position of this flow: unless the position was set back, or the group is one that was "+
				"used before, another process writes this group's records to another target, and each gets a part of them only",
				slog.String("group", s.cfg.Group), slog.String("partition", pos.String()),
				slog.Int64("committed", infos[i].Committed), slog.Int64("position", pos.Offset))
			return
		}
	}
}

// claimGroup leaves the flow's name with the offsets of the group, before anything
// is read, and refuses a group that has another's. Of two flows that begin together
// in a new group at least the one that looks last finds the other: both leave
// their names before they look.
func (s *Source) claimGroup(ctx context.Context, positions []flow.Position) error {
	if s.cfg.Flow == "" {
		return nil
	}
	return s.persist(ctx, func(ctx context.Context, c *cluster) error {
		group, err := c.groupOffsets(ctx, s.cfg.Group, s.cfg.Flow)
		if err != nil {
			return err
		}
		// A position elsewhere, or somewhere else, is told as usual: once something is written.
		unmarked := slices.DeleteFunc(slices.Clone(positions), func(pos flow.Position) bool {
			g, ok := group[pos.Partition]
			return pos.Offset < 0 || ok && (g.marked || g.offset != pos.Offset)
		})
		if len(unmarked) == 0 {
			return nil
		}
		if err := s.Commit(ctx, unmarked); err != nil {
			return err
		}
		_, err = c.groupOffsets(ctx, s.cfg.Group, s.cfg.Flow)
		return err
	})
}

// assigned lists what kgo passes to AdjustFetchOffsetsFn.
func assigned(in offsets) ([]flow.Partition, map[flow.Partition]committed) {
	var parts []flow.Partition
	group := map[flow.Partition]committed{}
	for t, ps := range in {
		for id, o := range ps {
			p := flow.Partition{Topic: t, ID: id}
			parts = append(parts, p)
			if eo := o.EpochOffset(); eo.Offset >= 0 {
				group[p] = committed{offset: eo.Offset, epoch: eo.Epoch}
			}
		}
	}
	slices.SortFunc(parts, func(a, b flow.Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.ID, b.ID))
	})
	return parts, group
}

func (s *Source) describeAssigned(ctx context.Context, parts []flow.Partition, group map[flow.Partition]committed) ([]flow.PartitionInfo, error) {
	var names []string
	for _, p := range parts {
		if len(names) == 0 || names[len(names)-1] != p.Topic {
			names = append(names, p.Topic)
		}
	}
	var infos []flow.PartitionInfo
	err := s.persist(ctx, func(ctx context.Context, c *cluster) error {
		_, details, err := c.topics(ctx, names, nil)
		if err != nil {
			return err
		}
		infos, err = c.describe(ctx, &s.cfg, details, parts, group)
		return err
	})
	return infos, err
}

// checkDiverged returns the positions that a leader without all records has
// cut off, with the offset where the logs part.
func (s *Source) checkDiverged(ctx context.Context, positions []flow.Position) (lost map[flow.Partition]int64, err error) {
	err = s.persist(ctx, func(ctx context.Context, c *cluster) error {
		lost, err = c.diverged(ctx, positions)
		return err
	})
	return lost, err
}

// persist asks the cluster again and again until it answers or ctx ends. What
// no retry helps against is left for Read to return.
func (s *Source) persist(ctx context.Context, ask func(context.Context, *cluster) error) error {
	const first, longest = 100 * time.Millisecond, 5 * time.Second
	for wait := first; ; wait = min(2*wait, longest) {
		c, err := s.connect()
		if err == nil {
			askCtx, cancel := context.WithTimeout(ctx, answerTimeout)
			err = ask(askCtx, c)
			cancel()
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errClosed):
			return err
		case flow.ClassOf(err) == flow.ClassFatal:
			s.fail(err)
		}
		s.log.Warn("cannot take over partitions yet; trying again", slog.Duration("wait", wait), slog.Any("error", err))
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// own notes the partitions as this process's, not paused.
func (s *Source) own(infos []flow.PartitionInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range infos {
		s.parts[info.Partition] = &partition{Partition: info.Partition, topicID: info.TopicID, next: info.Start, stopped: true}
	}
}

// accept turns the engine's answers into kgo's. Partitions whose position
// cannot be had or is lost are left out: kgo never reads them.
func (s *Source) accept(infos []flow.PartitionInfo, positions []flow.Position, lost map[flow.Partition]int64) offsets {
	out := offsets{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, pos := range positions {
		p := s.parts[infos[i].Partition]
		if p == nil || pos.Offset < 0 {
			continue
		}
		if end, ok := lost[p.Partition]; ok {
			pos.TopicID = infos[i].TopicID
			s.failures = append(s.failures, &flow.PositionLostError{Position: pos, Begin: infos[i].Begin, End: end})
			continue
		}
		p.next, p.stopped, p.fresh, p.since = pos.Offset, false, true, s.poll
		p.at = time.Now()
		if out[p.Topic] == nil {
			out[p.Topic] = map[int32]kgo.Offset{}
		}
		// Without an epoch: we have compared it, and kgo begins at once.
		out[p.Topic][p.ID] = kgo.NewOffset().At(pos.Offset).WithEpoch(-1)
	}
	s.wake() // the next poll brings nothing from before; and a failure is returned
	return out
}

func (s *Source) onRevoked(ctx context.Context, _ *kgo.Client, lost map[string][]int32) {
	s.revoke(ctx, lost, false)
}

func (s *Source) onLost(ctx context.Context, _ *kgo.Client, lost map[string][]int32) {
	s.revoke(ctx, lost, true)
}

// revoke gives partitions up. The others are read on meanwhile: kgo has dropped
// what it had fetched of these, and what a poll has taken before is not
// delivered any more.
func (s *Source) revoke(ctx context.Context, revoked map[string][]int32, lost bool) {
	var ps []flow.Partition
	s.delivering.Lock()
	s.mu.Lock()
	for t, ids := range revoked {
		for _, id := range ids {
			p := flow.Partition{Topic: t, ID: id}
			if st := s.parts[p]; st != nil {
				st.leaving = true
				ps = append(ps, p)
			}
			if lost { // somebody else's already: no transaction may commit it
				delete(s.parts, p)
			}
		}
	}
	s.mu.Unlock()
	s.delivering.Unlock()
	if len(ps) == 0 {
		return
	}
	failpoint.Hit("source.revoke")
	s.in.Revoked(ctx, ps, lost)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		delete(s.parts, p)
		delete(s.paused, p)
	}
	if s.cl != nil { // kgo would keep them paused for their next assignment
		s.cl.ResumeFetchPartitions(byTopic(ps))
	}
}

// Member implements flow.GroupMember. kgo joins the next generation after
// revoke has returned, which is after the partition is taken out here: what is
// revoked is not covered by the answer, or by a generation that has passed.
func (s *Source) Member(ps []flow.Partition) (flow.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cl == nil { // not joined yet, or not any more
		if s.closed || len(ps) > 0 {
			return flow.Member{}, errClosed
		}
		return flow.Member{Group: s.cfg.Group, InstanceID: s.cfg.InstanceID, Generation: -1}, nil
	}
	for _, p := range ps {
		if s.parts[p] == nil {
			return flow.Member{}, &flow.FencedError{Err: fmt.Errorf("kafka: group %s has taken %s away from this process", s.cfg.Group, p)}
		}
	}
	id, generation := s.cl.GroupMetadata()
	return flow.Member{Group: s.cfg.Group, ID: id, InstanceID: s.cfg.InstanceID, Generation: generation}, nil
}

// sleep returns false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
