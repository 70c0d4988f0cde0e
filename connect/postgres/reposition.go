package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var _ flow.Repositioner = (*Sink)(nil)

// repositionPatience is how many lock timeouts a person waits for the batch that is just being
// written, whose process is not to be removed.
const repositionPatience = 10

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
	return s.withPlace(ctx, "penstock:position", setup, func(pg *pgconn.PgConn, p *place) error {
		for _, i := range []int{ownFlow, ownCheckpoint} {
			if err := p.check(i); err != nil {
				return err
			}
		}
		if err := p.refuseElsewhere(ctx, pg, setup); err != nil {
			return err
		}
		if p.exists(ownFlow) {
			if err := p.refuseOther(ctx, pg, setup); err != nil {
				return err
			}
		}
		if err := s.createCheckpoint(ctx, pg, p); err != nil {
			return err
		}
		return s.reposition(ctx, pg, p, setup, func() error {
			_, err := query(ctx, pg, fmt.Sprintf(`INSERT INTO %s (flow, format_version, cluster_id, source, target)
				VALUES ($1, %d, $2, $3, $4) ON CONFLICT DO NOTHING`, p.names.flow, formatVersion), setup.Flow, setup.ClusterID, setup.Source, p.presentTargets())
			if err != nil {
				return err
			}
			_, err = exec(ctx, pg, setPositionsSQL(p.names.checkpoint, setup, positions))
			return err
		})
	})
}

// Forget implements flow.Repositioner.
func (s *Sink) Forget(ctx context.Context, setup flow.Setup) error {
	return s.withPlace(ctx, "penstock:position", setup, func(pg *pgconn.PgConn, p *place) error {
		for _, i := range []int{ownFlow, ownCheckpoint} {
			if !p.exists(i) {
				return nil
			}
			if err := p.checkOwnRights(ctx, pg, i, []string{"SELECT", "INSERT", "UPDATE", "DELETE"}); err != nil {
				return err
			}
		}
		return s.reposition(ctx, pg, p, setup, func() error {
			_, err := exec(ctx, pg, fmt.Sprintf("SELECT 1 FROM %[1]s WHERE flow = %[3]s FOR UPDATE;DELETE FROM %[2]s WHERE flow = %[3]s;DELETE FROM %[1]s WHERE flow = %[3]s",
				p.names.flow, p.names.checkpoint, literal(setup.Flow)))
			return err
		})
	})
}

// reposition runs fn, which changes the rows of a flow, in a transaction, and says who holds
// them where they are not to be had.
func (s *Sink) reposition(ctx context.Context, pg *pgconn.PgConn, p *place, setup flow.Setup, fn func() error) error {
	err := s.transaction(ctx, pg, repositionPatience*s.cfg.LockTimeout, fn)
	if sqlState(err) != codeLockNotAvailable {
		return classify("set the positions of flow "+setup.Flow, err)
	}
	holder := "somebody"
	rows, lookErr := query(ctx, pg, fmt.Sprintf(`
		SELECT DISTINCT l.mode, '', a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
			coalesce(date_trunc('second', now() - a.xact_start)::text, ''), ''
		FROM %s c JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = c.xmax AND l.mode = 'ExclusiveLock' AND l.granted
		JOIN pg_stat_activity a ON a.pid = l.pid WHERE c.flow = $1`, p.names.checkpoint), setup.Flow)
	if lookErr == nil && len(rows) > 0 {
		holder = describeHolder(rows[0]) + " (SELECT pg_terminate_backend(" + string(rows[0][2]) + ") ends it)"
	}
	return flow.Transient(fmt.Errorf("set the positions of flow %s: its checkpoint is held by %s: stop the flow, and try again (%w)", setup.Flow, holder, err))
}

// createCheckpoint creates the tables of the checkpoint, if they are missing.
func (s *Sink) createCheckpoint(ctx context.Context, pg *pgconn.PgConn, p *place) error {
	var ddl []string
	for _, i := range []int{ownFlow, ownCheckpoint} {
		if !p.exists(i) {
			ddl = append(ddl, p.own[i].ddl()...)
		} else if err := p.checkOwnRights(ctx, pg, i, p.own[i].rights); err != nil {
			return err
		}
	}
	if len(ddl) == 0 {
		return nil
	}
	return s.create(ctx, pg, p, ddl, strings.Join(ddl, ";\n")+";")
}

// presentTargets are the tables that are there: of the others nothing can be said to be written
// (refuseLost), and the flow adds them to its row when it starts.
func (p *place) presentTargets() string {
	var names []string
	for i := range p.targets {
		if p.targets[i].table != nil {
			names = append(names, p.targets[i].name.String())
		}
	}
	return connect.JoinTables(names)
}

// setPositionsSQL locks the rows in the order in which Claim does.
func setPositionsSQL(table tableName, setup flow.Setup, positions []flow.Position) string {
	return insertPositionsSQL(table, setup, positions) + ` ORDER BY v.topic, v.partition
		ON CONFLICT (flow, cluster_id, topic, partition) DO UPDATE SET topic_id = EXCLUDED.topic_id, next_offset = EXCLUDED.next_offset,
			leader_epoch = EXCLUDED.leader_epoch, owner_epoch = c.owner_epoch + 1, owner_backend = '', updated_at = clock_timestamp()`
}
