package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/penstockdev/penstock/flow"
)

var _ flow.Inspector = (*Sink)(nil)

// Inspect implements flow.Inspector.
func (s *Sink) Inspect(ctx context.Context, setup flow.Setup) ([]flow.Position, error) {
	c, err := s.peek()
	if err != nil || c == nil {
		return nil, err
	}
	defer c.close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tables := 0
	err = c.run(func(*stmt) error { tables++; return nil },
		"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)", flowTable, checkpointTable)
	if err != nil || tables < 2 {
		return nil, s.notDatabase(err)
	}
	err = c.run(func(r *stmt) error {
		if r.text(0) != setup.ClusterID || r.text(1) != setup.Source {
			return flow.Fatal(fmt.Errorf("flow %s is known in %s with another source: it read %s of cluster %s, and would read %s of cluster %s",
				setup.Flow, s.cfg.Path, r.text(1), r.text(0), setup.Source, setup.ClusterID))
		}
		return nil
	}, "SELECT cluster_id, source FROM "+flowTable+" WHERE flow = ?", setup.Flow)
	if err != nil {
		return nil, err
	}
	var out []flow.Position
	err = c.run(func(r *stmt) error {
		out = append(out, flow.Position{
			Partition: flow.Partition{Topic: r.text(0), ID: int32(r.int(1))},     //nolint:gosec // it was stored from an int32
			TopicID:   r.text(2), Offset: r.int(3), LeaderEpoch: int32(r.int(4)), //nolint:gosec // likewise
		})
		return nil
	}, "SELECT topic, partition, topic_id, next_offset, leader_epoch FROM "+checkpointTable+" WHERE flow = ? AND cluster_id = ?",
		setup.Flow, setup.ClusterID)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint in %s: %w", s.cfg.Path, err)
	}
	return out, nil
}

// peek opens the database to look at it; nil: there is none.
func (s *Sink) peek() (*conn, error) {
	if _, err := os.Stat(s.cfg.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	c, err := open(s.cfg.Path, false)
	if err != nil {
		return nil, err
	}
	if err := c.pragma("query_only = on"); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}
