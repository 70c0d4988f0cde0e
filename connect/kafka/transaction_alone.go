package kafka

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstockdev/penstock/flow"
)

// Where the positions are offsets of a group that nobody joins, as in a redrive, no generation
// refuses who has lost a partition. The transactional id that the offsets name does it:
//
//   - Claim writes its offsets in a transaction of the predecessor's id, after a look
//     at them that this id has seen: so they are as they were, or the transaction is refused.
//   - A lane whose id was taken so has to ask for it again, and looks at the offsets after that:
//     they have another owner by then.

// alone says that a membership is one of a group without members.
func alone(m flow.Member) bool { return m.ID == "" && m.Generation < 0 }

// takeOver commits claims in transactions of those who have the partitions by now.
func (s *TransactionalSink) takeOver(ctx context.Context, writer string, stored map[flow.Partition]kept, mine []flow.Checkpoint) error {
	byID := map[string][]flow.Part{}
	for i := range mine {
		c := &mine[i]
		id := stored[c.Partition].writer
		if id == "" {
			id = s.newPositions()
		}
		byID[id] = append(byID[id], flow.Part{Partition: c.Partition, TopicID: c.TopicID, Next: c.Offset, LeaderEpoch: c.LeaderEpoch, Owner: c.Owner})
	}
	for id, parts := range byID {
		s.held.Lock()
		s.held.taken[id]++
		s.held.Unlock()
		t, err := s.beginAs(ctx, id)
		if err != nil {
			return err
		}
		now, unstable, err := s.kept(ctx, true)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(parts, func(p flow.Part) bool { return unstable[p.Partition] || now[p.Partition] != stored[p.Partition] }) {
			return kerr.ProducerFenced // others claim, too: look again
		}
		t.writer = writer
		if err = t.addGroup(ctx); err == nil {
			err = t.commit(ctx, nobody, parts)
		}
		if err == nil {
			err = t.end(ctx, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// renew gives up a client whose transactional id was used to claim.
func (w *transactor) renew() {
	w.sink.held.Lock()
	n := w.sink.held.taken[w.id]
	w.sink.held.Unlock()
	if n != w.taken {
		w.taken = n
		w.drop()
	}
}

// unfenced looks whether the parts are as this lane has left them, where no generation will say so. The
// lane has its transactional id: who takes the parts over from now on fences it.
func (w *transactor) unfenced(ctx context.Context, parts []flow.Part) error {
	if m, err := w.s.setup.Member(w.ps); err != nil || !alone(m) {
		return err
	}
	stored, err := w.sink.final(ctx, w.ps)
	if err != nil {
		return err
	}
	fenced := &flow.FencedError{Err: errors.New("the group's offset is another by now")}
	for i := range parts {
		p := &parts[i]
		k, ok := stored[p.Partition]
		if !ok { // gone; or hidden, where the right to its topic is
			if _, err := w.sink.admin.metadata(kadm.WithAuthorizedOps(ctx), p.Topic); err != nil { // as it is now: else it may be remembered
				return w.s.cfg.explain("looking at the offset of "+p.String(), err, mayRead(p.Topic))
			}
		}
		if !ok || k.Owner != p.Owner || k.Offset != p.From {
			fenced.Partitions = append(fenced.Partitions, p.Partition)
		}
	}
	if fenced.Partitions == nil {
		return nil
	}
	return fenced
}
