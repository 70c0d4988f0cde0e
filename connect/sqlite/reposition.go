package sqlite

import (
	"context"
	"fmt"
	"os"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/filelock"
)

var _ flow.Repositioner = (*Sink)(nil)

// SetPositions implements flow.Repositioner. The owner epochs move on, so that a process
// which runs the flow all the same is fenced, and goes on at the new positions when it has
// taken its partitions over anew. A flow that never ran is registered, and starts at these positions;
// the partitions that it finds beside them must have positions, too.
func (s *Sink) SetPositions(ctx context.Context, setup flow.Setup, positions []flow.Position) error {
	if len(positions) == 0 {
		return nil
	}
	for _, p := range positions {
		if p.Offset < 0 {
			return flow.Fatal(fmt.Errorf("set the position of %s: %d is no offset", p.Partition, p.Offset))
		}
	}
	if err := s.checkDir(); err != nil {
		return err
	}
	c, err := s.dial(true)
	if err != nil {
		return err
	}
	defer c.close()
	err = c.transaction(ctx, s.cfg.BusyTimeout, func() error {
		for _, ddl := range ownTables(s.cfg.DeadLetterTable)[:2] { // those of the checkpoint
			if err := c.exec(ddl); err != nil {
				return err
			}
		}
		target, err := s.presentTargets(c)
		if err != nil {
			return err
		}
		if err := s.registerAs(c, setup, target); err != nil {
			return err
		}
		q, err := c.prepare(insertPositionSQL + ` ON CONFLICT DO UPDATE SET topic_id = excluded.topic_id, next_offset = excluded.next_offset,
			leader_epoch = excluded.leader_epoch, owner_epoch = owner_epoch + 1, owner_backend = '', updated_at = excluded.updated_at`)
		if err != nil {
			return err
		}
		defer q.finalize()
		return insertPositions(q, setup, positions)
	})
	if err != nil {
		return fmt.Errorf("setting the positions of flow %s in %s: %w", setup.Flow, s.cfg.Path, err)
	}
	return nil
}

// presentTargets are the tables that are there: the flow adds the others to its row when it
// starts, and has written them.
func (s *Sink) presentTargets(c *conn) (string, error) {
	var names []string
	for _, t := range s.cfg.tables() {
		cols, err := tableColumns(c, t.Table)
		if err != nil {
			return "", err
		}
		if len(cols) > 0 {
			names = append(names, t.Table)
		}
	}
	return connect.JoinTables(names), nil
}

// Forget implements flow.Repositioner.
func (s *Sink) Forget(ctx context.Context, setup flow.Setup) error {
	c, err := s.dialExisting()
	if err != nil || c == nil {
		return err
	}
	defer c.close()
	err = c.transaction(ctx, s.cfg.BusyTimeout, func() error {
		for _, table := range []string{flowTable, checkpointTable} {
			cols, err := tableColumns(c, table)
			if err == nil && len(cols) > 0 {
				err = c.exec("DELETE FROM "+table+" WHERE flow = ?", setup.Flow)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forgetting flow %s in %s: %w", setup.Flow, s.cfg.Path, err)
	}
	s.removeLockFile(setup.Flow)
	return nil
}

// removeLockFile removes what is of no use any more, unless a process has it: that one is fenced.
func (s *Sink) removeLockFile(flowName string) {
	path := s.lockPath(flowName)
	if _, err := os.Stat(path); err != nil {
		return
	}
	l, err := filelock.Take(path)
	if err != nil {
		return
	}
	_ = os.Remove(path) // no harm is done where it stays
	l.Release()
}
