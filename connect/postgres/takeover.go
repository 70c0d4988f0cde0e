package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// removeHolders terminates the backends whose transactions hold the checkpoint
// rows of the partitions: a predecessor that was frozen, or whose host went
// away, keeps them, and its unfinished rows, until the server notices, which may
// take hours.
//
// The holder of a row is read off the row itself: its xmax is the transaction
// that has locked or changed it, and pg_locks knows whose that is. A backend is
// terminated only if it is this flow's: it carries the flow's application name
// and role, or it is the one that the row names as its owner, or it is own, a
// former connection of the caller. With owners, a row counts only while its
// committed owner epoch is that of the caller, one for each partition: a writer
// that was itself replaced must not remove its successor.
func (s *Sink) removeHolders(ctx context.Context, pg *pgconn.PgConn, ps []flow.Partition, owners []int64, own string) error {
	condition := "true"
	if owners != nil {
		condition = "c.owner_epoch = v.owner"
	}
	rows, err := query(ctx, pg, fmt.Sprintf(`
		WITH holder AS (
			SELECT DISTINCT l.pid, c.owner_backend
			FROM %s c
			JOIN (VALUES %s) v(topic, partition, owner) ON c.topic = v.topic AND c.partition = v.partition
			JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = c.xmax AND l.mode = 'ExclusiveLock' AND l.granted
			WHERE c.flow = $1 AND c.cluster_id = $2 AND l.pid <> pg_backend_pid() AND %s
		), judged AS (
			SELECT DISTINCT a.pid, a.usename, a.application_name, a.state, a.xact_start,
				bool_or((a.application_name = $3 AND a.usename = current_user)
					OR a.pid || '@' || (extract(epoch FROM a.backend_start) * 1000000)::int8 IN (h.owner_backend, $4)) AS ours
			FROM holder h JOIN pg_stat_activity a ON a.pid = h.pid
			GROUP BY 1, 2, 3, 4, 5
		)
		SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''), coalesce(now() - xact_start, '0'), ours,
			CASE WHEN ours THEN pg_terminate_backend(pid) END
		FROM judged`, s.place.names.checkpoint, partitionValues(ps, owners), condition),
		s.setup.Flow, s.setup.ClusterID, s.appName, own)
	if err != nil {
		return classify("remove whoever holds the checkpoint", err)
	}
	for _, r := range rows {
		if !isTrue(r[5]) {
			return flow.Transient(fmt.Errorf("the checkpoint is locked by process %s of role %s (%s), which is not this flow's: if it hangs, SELECT pg_terminate_backend(%s)",
				r[0], r[1], r[2], r[0]))
		}
		s.removed.Add(1)
		s.log.Warn("removed a predecessor that held the checkpoint",
			"pid", string(r[0]), "state", string(r[3]), "transaction_age", string(r[4]))
	}
	return nil
}
