package postgres

import (
	"context"
	"fmt"

	"github.com/penstockdev/penstock/flow"
)

var _ flow.Inspector = (*Sink)(nil)

// Inspect implements flow.Inspector. It has a connection of its own, and leaves
// nothing behind in the sink.
func (s *Sink) Inspect(ctx context.Context, setup flow.Setup) ([]flow.Position, error) {
	c, err := s.dialAs(ctx, "penstock:inspect")
	if err != nil {
		return nil, err
	}
	defer s.hangUp(ctx, c.pg)
	facts, err := readFacts(ctx, c.pg)
	if err != nil {
		return nil, classify("look at the server", err)
	}
	p, err := s.locate(ctx, c.pg, facts, setup)
	if err != nil || !p.exists(ownFlow) || !p.exists(ownCheckpoint) {
		return nil, err
	}
	if err := p.refuseOther(ctx, c.pg, setup); err != nil {
		return nil, err
	}
	rows, err := query(ctx, c.pg, fmt.Sprintf("SELECT topic, partition, topic_id, next_offset, leader_epoch FROM %s WHERE flow = $1 AND cluster_id = $2",
		p.names.checkpoint), setup.Flow, setup.ClusterID)
	if err != nil {
		return nil, classify("read the checkpoint", err)
	}
	var out []flow.Position
	for _, r := range rows {
		out = append(out, flow.Position{
			Partition: flow.Partition{Topic: string(r[0]), ID: parseInt32(r[1])}, TopicID: string(r[2]),
			Offset: parseInt64(r[3]), LeaderEpoch: parseInt32(r[4]),
		})
	}
	return out, nil
}
