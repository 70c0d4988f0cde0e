package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// begin opens a transaction whose isolation does not depend on the role's or the database's
// defaults: the compare-and-swap needs to see what was committed while it
// waited for a lock.
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"

// Init registers the flow, and inserts the positions where it has none.
func (s *Sink) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	empty := false
	err := s.withControl(ctx, func(c *session) (err error) {
		empty, err = s.register(ctx, c.pg)
		return err
	})
	if err != nil || !empty {
		return err
	}
	// The source is asked without a transaction being open: it may take its time.
	positions, err := starts(ctx)
	if err != nil || len(positions) == 0 {
		return err
	}
	return s.withControl(ctx, func(c *session) error {
		// The lock on the flow's row lets one process in; the others find its rows.
		sql := begin + fmt.Sprintf("SELECT 1 FROM %s WHERE flow = %s FOR UPDATE;", s.place.names.flow, literal(s.setup.Flow)) +
			s.insertSQL(positions, fmt.Sprintf("NOT EXISTS (SELECT FROM %s WHERE flow = %s)", s.place.names.checkpoint, literal(s.setup.Flow))) + ";COMMIT"
		_, err := exec(ctx, c.pg, sql)
		return classify("insert the first positions", err)
	})
}

// register inserts the flow's row, or compares it, and says whether the flow
// has no checkpoint at all.
func (s *Sink) register(ctx context.Context, pg *pgconn.PgConn) (empty bool, err error) {
	p := s.place
	_, err = query(ctx, pg, fmt.Sprintf(`INSERT INTO %s (flow, format_version, cluster_id, source, target)
		VALUES ($1, %d, $2, $3, $4) ON CONFLICT DO NOTHING`, p.names.flow, formatVersion), s.setup.Flow, s.setup.ClusterID, s.setup.Source, p.targetText())
	if err != nil {
		return false, classify("register the flow", err)
	}
	if err := p.refuseOther(ctx, pg, s.setup); err != nil {
		return false, err
	}
	_, err = query(ctx, pg, fmt.Sprintf("UPDATE %s SET target = $2 WHERE flow = $1 AND target <> $2", p.names.flow), s.setup.Flow, p.targetText())
	if err != nil {
		return false, classify("register the flow", err)
	}
	rows, err := query(ctx, pg, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM %s WHERE flow = $1), EXISTS (SELECT FROM %s WHERE flow = $1)",
		p.names.checkpoint, p.names.flow), s.setup.Flow)
	if err != nil {
		return false, classify("read the checkpoint", err)
	}
	if !isTrue(rows[0][1]) {
		return false, flow.Transient(fmt.Errorf("the row of flow %s in %s went away", s.setup.Flow, p.names.flow))
	}
	return isTrue(rows[0][0]), nil
}

// Insert adds rows for partitions that have none.
func (s *Sink) Insert(ctx context.Context, positions []flow.Position) error {
	if len(positions) == 0 {
		return nil
	}
	return s.withControl(ctx, func(c *session) error {
		_, err := exec(ctx, c.pg, s.insertSQL(positions, "true"))
		return classify("insert positions", err)
	})
}

// insertSQL is the statement that inserts the positions if the condition holds.
func (s *Sink) insertSQL(positions []flow.Position, condition string) string {
	return insertPositionsSQL(s.place.names.checkpoint, s.setup, positions) + " WHERE " + condition + " ON CONFLICT DO NOTHING"
}

// insertPositionsSQL is the beginning of a statement that inserts the positions v into the
// checkpoint c.
func insertPositionsSQL(table tableName, setup flow.Setup, positions []flow.Position) string {
	var sql []byte
	sql = fmt.Appendf(sql, `INSERT INTO %s AS c (flow, cluster_id, topic, partition, topic_id, next_offset, leader_epoch, owner_epoch, owner_backend, updated_at)
		SELECT %s, %s, v.*, 0, '', now() FROM (VALUES `, table, literal(setup.Flow), literal(setup.ClusterID))
	for i, p := range positions {
		if i > 0 {
			sql = append(sql, ',')
		}
		sql = append(appendLiteral(append(sql, '('), p.Topic), ',')
		sql = fmt.Appendf(sql, "%d,%s,%d::int8,%d)", p.ID, literal(p.TopicID), p.Offset, p.LeaderEpoch)
	}
	return string(append(sql, ") v(topic, partition, topic_id, next_offset, leader_epoch)"...))
}

// Claim increments the owner epochs. Whoever holds a row meanwhile gets the
// lock timeout to finish, and is removed then.
func (s *Sink) Claim(ctx context.Context, lane int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	backend := ""
	if lane >= 0 && lane < len(s.backends) {
		if b := s.backends[lane].Load(); b != nil {
			backend = *b
		}
	}
	values := partitionValues(ps, nil)
	sql := begin + s.lockTimeoutSQL() + s.selectSQL(values, "FOR UPDATE OF c") + ";" + fmt.Sprintf(
		`UPDATE %s c SET owner_epoch = c.owner_epoch + 1, owner_backend = %s, updated_at = clock_timestamp() FROM (VALUES %s) v(topic, partition, owner)
		WHERE c.flow = %s AND c.cluster_id = %s AND c.topic = v.topic AND c.partition = v.partition
		RETURNING %s;COMMIT`, s.place.names.checkpoint, literal(backend), values, literal(s.setup.Flow), literal(s.setup.ClusterID), checkpointColumns)
	var out []flow.Checkpoint
	err := s.withControl(ctx, func(c *session) error {
		for attempt := 1; ; attempt++ {
			res, err := exec(ctx, c.pg, sql)
			if err == nil {
				if tag := res[len(res)-1].CommandTag.String(); tag != "COMMIT" {
					return flow.Transient(fmt.Errorf("take over %s: the server answered COMMIT with %s", listPartitions(ps), tag))
				}
				out = checkpoints(res[len(res)-2].Rows, ps)
				return nil
			}
			if rollback(ctx, c.pg) != nil || sqlState(err) != codeLockNotAvailable || attempt == 3 {
				return classify("take over "+listPartitions(ps), err)
			}
			if err := s.removeHolders(ctx, c.pg, ps, nil, ""); err != nil {
				return err
			}
		}
	})
	return out, err
}

// Read returns what is stored.
func (s *Sink) Read(ctx context.Context, ps []flow.Partition) ([]flow.Checkpoint, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	var out []flow.Checkpoint
	err := s.withControl(ctx, func(c *session) error {
		res, err := exec(ctx, c.pg, s.selectSQL(partitionValues(ps, nil), ""))
		if err != nil {
			return classify("read the checkpoint", err)
		}
		out = checkpoints(res[0].Rows, ps)
		return nil
	})
	return out, err
}

// Topics counts the rows of each topic.
func (s *Sink) Topics(ctx context.Context) (map[string]int32, error) {
	topics := map[string]int32{}
	err := s.withControl(ctx, func(c *session) error {
		rows, err := query(ctx, c.pg, fmt.Sprintf("SELECT topic, count(*) FROM %s WHERE flow = $1 AND cluster_id = $2 GROUP BY topic", s.place.names.checkpoint),
			s.setup.Flow, s.setup.ClusterID)
		for _, r := range rows {
			topics[string(r[0])] = parseInt32(r[1])
		}
		return classify("read the checkpoint", err)
	})
	return topics, err
}

const checkpointColumns = "c.topic, c.partition, c.topic_id, c.next_offset, c.leader_epoch, c.owner_epoch"

// selectSQL reads the rows of the partitions. With lock it locks them, in
// order, so that two transactions with several partitions in common do not
// deadlock.
func (s *Sink) selectSQL(values, lock string) string {
	return fmt.Sprintf(`SELECT %s FROM %s c JOIN (VALUES %s) v(topic, partition, owner) ON c.topic = v.topic AND c.partition = v.partition
		WHERE c.flow = %s AND c.cluster_id = %s ORDER BY c.topic, c.partition %s`,
		checkpointColumns, s.place.names.checkpoint, values, literal(s.setup.Flow), literal(s.setup.ClusterID), lock)
}

func (s *Sink) lockTimeoutSQL() string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d;SET LOCAL statement_timeout = %d;",
		s.cfg.LockTimeout.Milliseconds(), s.cfg.StatementTimeout.Milliseconds())
}

// partitionValues are the rows of a VALUES list (topic, partition, owner); the
// owners are 0 where they do not matter.
func partitionValues(ps []flow.Partition, owners []int64) string {
	var b []byte
	for i, p := range ps {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendLiteral(append(b, '('), p.Topic), "::text,"...)
		b = append(strconv.AppendInt(b, int64(p.ID), 10), ',')
		var owner int64
		if owners != nil {
			owner = owners[i]
		}
		b = append(strconv.AppendInt(b, owner, 10), "::int8)"...)
	}
	return string(b)
}

// checkpoints puts rows of checkpointColumns into the order of ps.
func checkpoints(rows [][][]byte, ps []flow.Partition) []flow.Checkpoint {
	out := make([]flow.Checkpoint, len(ps))
	for i, p := range ps {
		out[i] = flow.Checkpoint{Position: flow.Position{Partition: p, Offset: -1, LeaderEpoch: -1}}
		k := slices.IndexFunc(rows, func(r [][]byte) bool { return string(r[0]) == p.Topic && parseInt32(r[1]) == p.ID })
		if k < 0 {
			continue
		}
		r := rows[k]
		out[i].TopicID, out[i].Offset, out[i].LeaderEpoch, out[i].Owner = string(r[2]), parseInt64(r[3]), parseInt32(r[4]), parseInt64(r[5])
	}
	return out
}

func listPartitions(ps []flow.Partition) string {
	names := make([]string, 0, 3)
	for _, p := range ps[:min(len(ps), 3)] {
		names = append(names, p.String())
	}
	s := strings.Join(names, ", ")
	if more := len(ps) - len(names); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// rollback ends a transaction that failed; an error means that the connection
// is gone, and the transaction with it.
func rollback(ctx context.Context, pg *pgconn.PgConn) error {
	if pg.IsClosed() {
		return pgconn.ErrConnClosed
	}
	if pg.TxStatus() == 'I' {
		return nil
	}
	_, err := exec(ctx, pg, "ROLLBACK")
	return err
}
