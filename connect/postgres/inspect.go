package postgres

import (
	"context"
	"fmt"

	"github.com/penstockdev/penstock/flow"
)

var _ flow.Inspector = (*Sink)(nil)

// Inspect implements flow.Inspector.
func (s *Sink) Inspect(ctx context.Context, setup flow.Setup) ([]flow.Position, error) {
	s.appName = "penstock:inspect"
	var out []flow.Position
	err := s.withControl(ctx, func(c *session) error {
		if err := s.readFacts(ctx, c.pg); err != nil {
			return classify("look at the server", err)
		}
		schema := s.facts.schema
		if s.cfg.CheckpointSchema != "" {
			n, err := parseTableName(s.cfg.CheckpointSchema)
			if err != nil {
				return flow.Fatal(err)
			}
			schema = n.name
		}
		flows, checkpoint := tableName{schema, "penstock_flow"}, tableName{schema, "penstock_checkpoint"}
		rows, err := query(ctx, c.pg, "SELECT to_regclass($1) IS NULL OR to_regclass($2) IS NULL", flows.String(), checkpoint.String())
		if err != nil || schema == "" || isTrue(rows[0][0]) {
			return classify("look for the tables of the checkpoint", err)
		}
		rows, err = query(ctx, c.pg, fmt.Sprintf("SELECT cluster_id, source FROM %s WHERE flow = $1", flows), setup.Flow)
		if err != nil {
			return classify("look for the flow", err)
		}
		for _, r := range rows {
			if string(r[0]) != setup.ClusterID || string(r[1]) != setup.Source {
				return flow.Fatal(fmt.Errorf("flow %s is known in this database with another source: it read %s of cluster %s, and would read %s of cluster %s",
					setup.Flow, r[1], r[0], setup.Source, setup.ClusterID))
			}
		}
		rows, err = query(ctx, c.pg, fmt.Sprintf("SELECT topic, partition, topic_id, next_offset, leader_epoch FROM %s WHERE flow = $1 AND cluster_id = $2",
			checkpoint), setup.Flow, setup.ClusterID)
		if err != nil {
			return classify("read the checkpoint", err)
		}
		for _, r := range rows {
			out = append(out, flow.Position{
				Partition: flow.Partition{Topic: string(r[0]), ID: parseInt32(r[1])}, TopicID: string(r[2]),
				Offset: parseInt64(r[3]), LeaderEpoch: parseInt32(r[4]),
			})
		}
		return nil
	})
	return out, err
}
