package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

// Commit implements flow.Committer. A commit that a rebalance got in the way of
// is a transient error: when it is tried again, what this process has lost is
// left out.
func (s *Source) Commit(ctx context.Context, positions []flow.Position) error {
	commits := map[string]map[int32]kgo.EpochOffset{}
	s.mu.Lock()
	cl := s.cl
	for _, pos := range positions {
		if s.parts[pos.Partition] == nil || pos.Offset < 0 {
			continue
		}
		if commits[pos.Topic] == nil {
			commits[pos.Topic] = map[int32]kgo.EpochOffset{}
		}
		commits[pos.Topic][pos.ID] = kgo.EpochOffset{Epoch: pos.LeaderEpoch, Offset: pos.Offset}
	}
	s.mu.Unlock()
	if cl == nil {
		return errClosed
	}
	if len(commits) == 0 {
		return nil
	}
	var out error
	ctx = kgo.PreCommitFnContext(ctx, s.mark)
	cl.CommitOffsetsSync(ctx, commits, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		out = s.commitError(resp, err)
	})
	return out
}

// mark puts the flow's name in place of the member id that kgo commits as
// metadata.
func (s *Source) mark(req *kmsg.OffsetCommitRequest) error {
	metadata := ""
	if s.cfg.Flow != "" {
		metadata = markPrefix + s.cfg.Flow
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Metadata = &metadata
		}
	}
	return nil
}

func (s *Source) commitError(resp *kmsg.OffsetCommitResponse, err error) error {
	doing := "committing offsets of group " + s.cfg.Group
	if err != nil {
		return s.cfg.explain(doing, err)
	}
	for i := range resp.Topics {
		for _, p := range resp.Topics[i].Partitions {
			err := kerr.ErrorForCode(p.ErrorCode)
			switch {
			case err == nil:
				continue
			case errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.UnknownMemberID),
				errors.Is(err, kerr.FencedInstanceID), errors.Is(err, kerr.StaleMemberEpoch), errors.Is(err, kerr.FencedMemberEpoch):
				return flow.Transient(fmt.Errorf("kafka: %s: a rebalance got in the way: %w", doing, err))
			case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
				return flow.Transient(fmt.Errorf("kafka: %s for %s[%d]: %w; the topic was deleted", doing, resp.Topics[i].Topic, p.Partition, err))
			}
			return s.cfg.explain(fmt.Sprintf("%s for %s[%d]", doing, resp.Topics[i].Topic, p.Partition), err)
		}
	}
	return nil
}
