package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/penstockdev/penstock/flow"
)

var (
	_ flow.Inspector    = (*TransactionalSink)(nil)
	_ flow.Repositioner = (*TransactionalSink)(nil)
)

// aside is the sink as somebody uses it who takes no part in the flow: open as far as the
// positions need it. The group is that of Setup.Member, else the one of the configured source.
func (s *TransactionalSink) aside(setup flow.Setup) (*TransactionalSink, error) {
	a := &TransactionalSink{
		Sink:   &Sink{cfg: s.cfg, log: s.log, extra: s.extra, setup: setup},
		source: fingerprint(setup.Source), target: fingerprint(s.cfg.Topic),
	}
	switch {
	case setup.Member != nil:
		m, err := setup.Member(nil)
		if err != nil {
			return nil, err
		}
		a.group = m.Group
	case s.cfg.Source != nil:
		a.group = s.cfg.Source.Group
	}
	if a.group == "" {
		return nil, flow.Fatal(errors.New("kafka: the positions are the offsets of the source's consumer group, and this source has none"))
	}
	return a, a.connect()
}

// Inspect implements flow.Inspector.
func (s *TransactionalSink) Inspect(ctx context.Context, setup flow.Setup) ([]flow.Position, error) {
	a, err := s.aside(setup)
	if err != nil {
		return nil, err
	}
	defer a.free()
	stored, _, err := a.kept(ctx, false)
	if err != nil {
		return nil, err
	}
	if _, err := a.hasPositions(stored); err != nil {
		return nil, err
	}
	var out []flow.Position
	for _, k := range stored {
		out = append(out, k.Position)
	}
	return out, nil
}

// SetPositions implements flow.Repositioner. While the group has members it is refused. Transactions
// of a predecessor that are open are ended before.
func (s *TransactionalSink) SetPositions(ctx context.Context, setup flow.Setup, positions []flow.Position) error {
	a, err := s.aside(setup)
	if err != nil {
		return err
	}
	defer a.free()
	if err := a.admin.idle(ctx, a.group, "setting the offsets of group "+a.group); err != nil {
		return err
	}
	ps := make([]flow.Partition, len(positions))
	for i := range positions {
		ps[i] = positions[i].Partition
	}
	stored, err := a.fencePredecessor(ctx, ps)
	if err != nil {
		return err
	}
	var offsets kadm.Offsets
	for _, p := range positions {
		k := stored[p.Partition]
		if p.TopicID == "" {
			p.TopicID = k.TopicID
		}
		offsets.Add(kadm.Offset{
			Topic: p.Topic, Partition: p.ID, At: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: *a.metadata(k.Owner+1, p.TopicID, ""),
		})
	}
	return a.admin.setOffsets(ctx, a.group, offsets)
}

// Forget implements flow.Repositioner: it deletes the group, with its offsets. While the
// group has members it is refused.
func (s *TransactionalSink) Forget(ctx context.Context, setup flow.Setup) error {
	a, err := s.aside(setup)
	if err != nil {
		return err
	}
	defer a.free()
	stored, _, err := a.kept(ctx, false)
	if err != nil {
		return err
	}
	if err := a.foreign(stored); err != nil {
		return err
	}
	return a.admin.deleteGroup(ctx, a.group)
}

// fencePredecessor ends the transactions of all who have written the partitions, and returns what
// the group keeps then.
func (s *TransactionalSink) fencePredecessor(ctx context.Context, ps []flow.Partition) (map[flow.Partition]kept, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	if err := s.admin.settle(ctx, s.group, ps, s.log); err != nil {
		return nil, s.cfg.explain("ending open transactions of group "+s.group, err)
	}
	stored, _, err := s.kept(ctx, false)
	if err != nil {
		return nil, err
	}
	if _, err := s.hasPositions(stored); err != nil {
		return nil, err
	}
	fenced := map[string]bool{"": true}
	for _, p := range ps {
		if id := stored[p].writer; !fenced[id] {
			fenced[id] = true
			if _, err := s.admin.fence(ctx, id, fenceTimeout); err != nil {
				return nil, err
			}
		}
	}
	return stored, nil
}
