package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
)

// withControl runs fn on the control connection, in a transaction that holds
// the write lock.
func (s *Sink) withControl(ctx context.Context, doing string, fn func(c *conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == nil {
		return fmt.Errorf("%s: the SQLite sink is not open", doing)
	}
	// The writer's transaction may hold the lock for as long as a batch takes,
	// so it is ctx that bounds the wait where it is longer.
	err := s.control.transaction(ctx, max(s.cfg.BusyTimeout, time.Minute), func() error { return fn(s.control) })
	if err != nil {
		return fmt.Errorf("%s in %s: %w", doing, s.cfg.Path, err)
	}
	return nil
}

func now() string { return time.Now().UTC().Format(coljson.LayoutTimestamptz) }

// Init implements flow.Checkpointer.
func (s *Sink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	var empty bool
	look := func(c *conn) error {
		if err := s.registerAs(c, s.setup, s.targetText()); err != nil {
			return err
		}
		n := int64(0)
		err := c.run(func(r *stmt) error { n = r.int(0); return nil },
			"SELECT count(*) FROM "+checkpointTable+" WHERE flow = ?", s.setup.Flow)
		empty = n == 0
		return err
	}
	if err := s.withControl(ctx, "registering the flow", look); err != nil || !empty {
		return err
	}
	// The log is asked without holding the database.
	positions, err := starts(ctx)
	if err != nil {
		return err
	}
	return s.withControl(ctx, "storing the first positions", func(c *conn) error {
		if err := look(c); err != nil || !empty {
			return err
		}
		return s.insert(c, positions)
	})
}

// registerAs inserts the flow, or compares it with what is there: its
// fingerprint is where it reads from and what it writes. The target is the tables that are noted
// as written.
func (s *Sink) registerAs(c *conn, setup flow.Setup, target string) error {
	err := c.exec("INSERT INTO "+flowTable+" (flow, format_version, cluster_id, source, target, created_at) VALUES (?, ?, ?, ?, ?, ?)"+
		" ON CONFLICT (flow) DO NOTHING", setup.Flow, formatVersion, setup.ClusterID, setup.Source, target, now())
	if err != nil {
		return err
	}
	if err := s.refuseOther(c, setup); err != nil {
		return err
	}
	if target != s.targetText() {
		return nil
	}
	return c.exec("UPDATE "+flowTable+" SET target = ?2 WHERE flow = ?1 AND target <> ?2", setup.Flow, target)
}

// refuseOther compares the flow's row, if there is one, with what the flow is now.
func (s *Sink) refuseOther(c *conn, setup flow.Setup) error {
	return c.run(func(r *stmt) error {
		if format := r.int(0); format != formatVersion {
			return flow.Fatal(fmt.Errorf("the checkpoint of flow %s has format %d, and this program knows %d: use the version that wrote it, or a newer one",
				setup.Flow, format, formatVersion))
		}
		for i, d := range []struct{ what, is string }{
			{"source cluster", setup.ClusterID}, {"source", setup.Source}, {"target table", s.targetText()},
		} {
			was := r.text(int32(i + 1))
			if was != d.is && (d.what != "target table" || was != "" && !connect.CoversTables(d.is, was)) {
				return flow.Fatal(fmt.Errorf("flow %s exists with another %s: it was %q and is %q now, and positions of one mean nothing for the other; "+
					"give the flow another name, or delete its rows from %s and %s to start over", setup.Flow, d.what, was, d.is, flowTable, checkpointTable))
			}
		}
		return nil
	}, "SELECT format_version, cluster_id, source, target FROM "+flowTable+" WHERE flow = ?", setup.Flow)
}

// targetText is what the flow's row has as the target: the tables, in an order
// that does not depend on that of the routes.
func (s *Sink) targetText() string {
	var names []string
	for _, t := range s.cfg.tables() {
		names = append(names, t.Table)
	}
	return connect.JoinTables(names)
}

// Insert implements flow.Checkpointer.
func (s *Sink) Insert(ctx context.Context, positions []flow.Position) error {
	return s.withControl(ctx, "storing positions", func(c *conn) error { return s.insert(c, positions) })
}

func (s *Sink) insert(c *conn, positions []flow.Position) error {
	q, err := c.prepare(insertPositionSQL + " ON CONFLICT DO NOTHING")
	if err != nil {
		return err
	}
	defer q.finalize()
	return insertPositions(q, s.setup, positions)
}

const insertPositionSQL = "INSERT INTO " + checkpointTable +
	" (flow, cluster_id, topic, partition, topic_id, next_offset, leader_epoch, owner_epoch, owner_backend, updated_at)" +
	" VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', ?)"

func insertPositions(q *stmt, setup flow.Setup, positions []flow.Position) error {
	for _, p := range positions {
		err := q.run(nil, setup.Flow, setup.ClusterID, p.Topic, p.ID, p.TopicID, p.Offset, p.LeaderEpoch, now())
		if err != nil {
			return err
		}
	}
	return nil
}

// Claim implements flow.Checkpointer.
func (s *Sink) Claim(ctx context.Context, _ int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	var out []flow.Checkpoint
	err := s.withControl(ctx, "taking over partitions", func(c *conn) (err error) {
		out, err = s.checkpoints(c, ps, "UPDATE "+checkpointTable+
			" SET owner_epoch = owner_epoch + 1, owner_backend = ?5, updated_at = ?6"+
			" WHERE flow = ?1 AND cluster_id = ?2 AND topic = ?3 AND partition = ?4"+
			" RETURNING topic_id, next_offset, leader_epoch, owner_epoch", s.backend, now())
		return err
	})
	return out, err
}

// Read implements flow.Checkpointer.
func (s *Sink) Read(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == nil {
		return nil, errors.New("reading positions: the SQLite sink is not open")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.checkpoints(s.control, ps, selectCheckpoint)
}

const selectCheckpoint = "SELECT topic_id, next_offset, leader_epoch, owner_epoch FROM " + checkpointTable +
	" WHERE flow = ?1 AND cluster_id = ?2 AND topic = ?3 AND partition = ?4"

func (s *Sink) checkpoints(c *conn, ps []flow.Partition, sql string, more ...any) ([]flow.Checkpoint, error) {
	q, err := c.prepare(sql)
	if err != nil {
		return nil, err
	}
	defer q.finalize()
	out := make([]flow.Checkpoint, len(ps))
	for i, p := range ps {
		out[i].Position = flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}
		err := q.run(func(r *stmt) error {
			out[i].TopicID, out[i].Offset = r.text(0), r.int(1)
			out[i].LeaderEpoch, out[i].Owner = int32(r.int(2)), r.int(3)
			return nil
		}, append([]any{s.setup.Flow, s.setup.ClusterID, p.Topic, p.ID}, more...)...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Topics implements flow.Checkpointer.
func (s *Sink) Topics(ctx context.Context) (map[string]int32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == nil {
		return nil, errors.New("reading positions: the SQLite sink is not open")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	topics := map[string]int32{}
	err := s.control.run(func(r *stmt) error { topics[r.text(0)] = int32(r.int(1)); return nil },
		"SELECT topic, count(*) FROM "+checkpointTable+" WHERE flow = ? AND cluster_id = ? GROUP BY topic", s.setup.Flow, s.setup.ClusterID)
	return topics, err
}
