package kafka

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

// txnOffsets adds offsets to the transaction of a producer.
type txnOffsets struct {
	s        *TransactionalSink
	cl       *kgo.Client
	id       string // transactional
	writer   string // whose transactional id the offsets name; empty: id
	producer int64
	epoch    int16
}

// addGroup makes the group part of the transaction, where the cluster does not do
// so by itself.
func (t *txnOffsets) addGroup(ctx context.Context) error {
	if t.s.implicit {
		return nil
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = t.id, t.producer, t.epoch, t.s.group
	return patiently(ctx, func() error {
		resp, err := add.RequestWith(ctx, t.cl)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
}

// commit adds the positions after the parts, as m, or as nobody: then the
// coordinator asks for no membership.
func (t *txnOffsets) commit(ctx context.Context, m flow.Member, parts []flow.Part) error {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = t.id, t.producer, t.epoch, t.s.group
	req.MemberID, req.Generation = m.ID, m.Generation
	if m.InstanceID != "" {
		req.InstanceID = &m.InstanceID
	}
	for i := range parts {
		p := &parts[i]
		k := slices.IndexFunc(req.Topics, func(t kmsg.TxnOffsetCommitRequestTopic) bool { return t.Topic == p.Topic })
		if k < 0 {
			rt := kmsg.NewTxnOffsetCommitRequestTopic()
			rt.Topic = p.Topic
			k, req.Topics = len(req.Topics), append(req.Topics, rt)
		}
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch = p.ID, p.Next, p.LeaderEpoch
		rp.Metadata = t.s.metadata(p.Owner, p.TopicID, cmp.Or(t.writer, t.id))
		req.Topics[k].Partitions = append(req.Topics[k].Partitions, rp)
	}
	return patiently(ctx, func() error {
		resp, err := req.RequestWith(ctx, t.cl)
		if err != nil {
			return err
		}
		for i := range resp.Topics {
			for _, p := range resp.Topics[i].Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return t.s.notCommitted(resp.Topics[i].Topic, p.Partition, err)
				}
			}
		}
		return nil
	})
}

// end commits or aborts a transaction that has offsets alone.
func (t *txnOffsets) end(ctx context.Context, commit bool) error {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = t.id, t.producer, t.epoch, commit
	return patiently(ctx, func() error {
		resp, err := req.RequestWith(ctx, t.cl)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
}

// patiently repeats what the coordinator refuses because it is still ending
// the transaction before.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errors.Is(err, kerr.ConcurrentTransactions) || !pause(ctx) {
			return err
		}
	}
}

// endedByOthers says that another producer has the transactional id by now.
func endedByOthers(err error) bool {
	for _, e := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// insertion gives partitions that have no offset their first one. A process may
// be frozen at any moment of it, and thaw when the offset is there and others
// have moved it: that must not be set back. So it is a transaction, whose id all
// processes of the flow share:
//
//   - Who begins ends what another has begun. So whatever is inserted later than
//     our look at the group's offsets has fenced us.
//   - While it is open, the offsets are unstable, and Claim waits.
type insertion struct {
	txnOffsets
	parts []flow.Part
}

func (s *TransactionalSink) beginInsertion(ctx context.Context, parts []flow.Part) (*insertion, error) {
	t, err := s.beginAs(ctx, s.newPositions())
	if err != nil {
		return nil, err
	}
	in := &insertion{t, parts}
	if err = in.addGroup(ctx); err == nil {
		err = in.commit(ctx, nobody, parts)
	}
	return in, s.cfg.explain("inserting offsets of new partitions of group "+s.group, err, mayJoin(s.group), mayTransact(idPrefix(in.id)))
}

// newPositions is the transactional id of those who write the first positions.
func (s *TransactionalSink) newPositions() string { return s.setup.Flow + "-new-positions" }

// beginAs fences whoever has the transactional id, and has it from now on.
func (s *TransactionalSink) beginAs(ctx context.Context, id string) (txnOffsets, error) {
	as, err := s.admin.fence(ctx, id, fenceTimeout)
	if err != nil {
		return txnOffsets{}, err
	}
	return txnOffsets{s: s, cl: s.admin.cl, id: id, producer: as.ProducerID, epoch: as.ProducerEpoch}, nil
}

// end commits, unless one of the partitions has an offset by now.
func (in *insertion) end(ctx context.Context) error {
	stored, _, err := in.s.kept(ctx, false)
	if err != nil {
		return err
	}
	commit := !slices.ContainsFunc(in.parts, func(p flow.Part) bool { _, ok := stored[p.Partition]; return ok })
	err = in.txnOffsets.end(ctx, commit)
	if err == nil && !commit {
		err = kerr.ProducerFenced // others insert, too: look again
	}
	return in.s.cfg.explain("inserting offsets of new partitions of group "+in.s.group, err, mayTransact(idPrefix(in.id)))
}
