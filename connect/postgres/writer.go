package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// writer writes the batches of one lane, over a connection of its own.
type writer struct {
	sink *Sink
	lane int
	conn *session // nil until the first Write, and after the connection broke

	routes []*routeWriter // nil until a batch takes the route
	dead   deadReader

	parts  []flow.Part // of the batch, sorted
	ps     []flow.Partition
	owners []int64
	sql    []byte

	// pid is the server process that the transaction runs on; 0: not known. watch
	// reads it meanwhile.
	pid atomic.Int32

	// doubt is the transaction whose COMMIT was sent and not answered.
	doubt *doubt
}

// routeWriter is what a writer keeps for the table of one route.
type routeWriter struct {
	plan *plan
	rows copyReader
	keys *keyTable  // upsert, and where rows are sorted
	del  copyReader // of keys; upsert only
	// fresh says when to try plan.copyDirect, direct that this batch does, or did.
	fresh  freshKeys
	direct bool
}

func newWriter(s *Sink, lane int) *writer {
	return &writer{sink: s, lane: lane, routes: make([]*routeWriter, len(s.plans))}
}

// route returns what the batch is written with.
func (w *writer) route(b *flow.Batch) *routeWriter {
	r, p := w.routes[b.Route], w.sink.plans[b.Route].Load()
	if r == nil || r.plan != p {
		r = &routeWriter{plan: p}
		r.rows.enc = newRowEncoder(p.columns)
		if p.mode == ModeUpsert || p.sorted {
			r.keys = newKeyTable(p.keys)
			r.del.enc = newRowEncoder(p.keys)
		}
		w.routes[b.Route] = r
	}
	return r
}

// Close closes the connection; an open transaction is rolled back.
func (w *writer) Close() error {
	w.drop(context.Background())
	return nil
}

// drop closes the connection.
func (w *writer) drop(ctx context.Context) {
	if w.conn != nil {
		w.sink.hangUp(ctx, w.conn.pg)
		w.conn = nil
	}
	w.sink.backends[w.lane].Store(nil)
}

// Write writes rows, dead letters and positions in one transaction:
//
//  1. BEGIN and the compare-and-swap of the positions, in one round trip. It comes
//     first: while it is held nobody else writes these partitions, and an error
//     of the data is really one of the data.
//  2. COPY, encoded while it is sent. Rows that do not fit are rejected here.
//  3. Dead letters, which are known only now.
//  4. COMMIT. If its answer is lost, the row lock tells the outcome.
func (w *writer) Write(ctx context.Context, b *flow.Batch) error {
	if len(b.Parts) == 0 {
		return nil
	}
	w.sortParts(b)
	w.pid.Store(0)
	watch := w.watch(ctx)
	return watch.explain(w.write(ctx, b))
}

func (w *writer) write(ctx context.Context, b *flow.Batch) error {
	failpoint.Hit("sink.before_begin")
	if err := w.connect(ctx); err != nil {
		return err
	}
	if w.doubt != nil {
		d := w.doubt
		outcome, err := w.resolve(ctx)
		if err != nil {
			return err
		}
		if outcome == committed && d.of(w.parts) {
			return nil
		}
	}
	r := w.route(b)
	r.direct = r.plan.mode == ModeAppend || r.plan.copyDirect != "" && r.fresh.likely()
	err := w.begin(ctx, b, r)
	if err == nil {
		err = w.data(ctx, b, r)
	}
	if err == nil {
		err = w.deadLetters(ctx, b)
	}
	if err == nil {
		err = b.BeforeCommit(ctx)
	}
	if err != nil {
		w.abort(ctx, err)
		return w.reconsider(ctx, b, r.plan, err)
	}
	failpoint.Hit("sink.before_commit")
	verify := ""
	switch {
	case b.Len() == 0:
	case r.direct && r.plan.mode != ModeAppend:
		verify = r.plan.verifyDirect
	default:
		verify = r.plan.verify
	}
	if err := w.commit(ctx, verify); err != nil {
		return w.reconsider(ctx, b, r.plan, err)
	}
	failpoint.Hit("sink.after_commit")
	return nil
}

func (w *writer) sortParts(b *flow.Batch) {
	w.parts = append(w.parts[:0], b.Parts...)
	slices.SortFunc(w.parts, func(x, y flow.Part) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.ID, y.ID))
	})
	w.ps, w.owners = w.ps[:0], w.owners[:0]
	for i := range w.parts {
		w.ps = append(w.ps, w.parts[i].Partition)
		w.owners = append(w.owners, w.parts[i].Owner)
	}
}

// connect makes sure that there is a connection.
func (w *writer) connect(ctx context.Context) error {
	if w.conn != nil && !w.conn.pg.IsClosed() {
		return nil
	}
	w.drop(ctx)
	c, err := w.sink.dial(ctx)
	if err != nil {
		return err
	}
	w.conn = c
	w.sink.backends[w.lane].Store(&c.backend)
	if w.doubt != nil {
		return nil // the rows may still be locked by the former connection
	}
	// The rows name the connection that owns them. That is for whoever takes
	// over; if it does not succeed, the application name has to do.
	s := w.sink
	_, err = exec(ctx, c.pg, begin+s.lockTimeoutSQL()+fmt.Sprintf(
		`UPDATE %s c SET owner_backend = %s FROM (VALUES %s) v(topic, partition, owner)
		WHERE c.flow = %s AND c.cluster_id = %s AND c.topic = v.topic AND c.partition = v.partition AND c.owner_epoch = v.owner;COMMIT`,
		s.place.names.checkpoint, literal(c.backend), partitionValues(w.ps, w.owners), literal(s.setup.Flow), literal(s.setup.ClusterID)))
	if err != nil && rollback(ctx, c.pg) != nil {
		w.drop(ctx)
		return classify("begin", err)
	}
	return nil
}

// Where the results of begin's statements are.
const (
	resultSelect = 3
	resultUpdate = 4
	resultPID    = 6
)

// begin opens the transaction and moves the positions, in one round trip.
func (w *writer) begin(ctx context.Context, b *flow.Batch, r *routeWriter) error {
	s := w.sink
	sql := w.sql[:0]
	sql = append(sql, begin...)
	sql = append(sql, s.lockTimeoutSQL()...)
	sql = append(sql, s.selectSQL(partitionValues(w.ps, w.owners), "FOR UPDATE OF c")...)
	sql = fmt.Appendf(sql, `;UPDATE %s c SET next_offset = v.next, leader_epoch = v.leader, owner_backend = %s, updated_at = clock_timestamp() FROM (VALUES `,
		s.place.names.checkpoint, literal(w.conn.backend))
	for i := range w.parts {
		p := &w.parts[i]
		if i > 0 {
			sql = append(sql, ',')
		}
		sql = append(appendLiteral(append(sql, '('), p.Topic), "::text,"...)
		for _, n := range [...]int64{int64(p.ID), p.From, p.Next, int64(p.LeaderEpoch), p.Owner} {
			sql = append(strconv.AppendInt(sql, n, 10), "::int8,"...)
		}
		sql[len(sql)-1] = ')'
	}
	sql = fmt.Appendf(sql, `) v(topic, partition, prior, next, leader, owner)
		WHERE c.flow = %s AND c.cluster_id = %s AND c.topic = v.topic AND c.partition = v.partition::int4
		AND c.next_offset = v.prior AND c.owner_epoch = v.owner;SET LOCAL lock_timeout TO DEFAULT;SELECT pg_backend_pid()`,
		literal(s.setup.Flow), literal(s.setup.ClusterID))
	if r.plan.mode != ModeAppend && b.Rows() > 0 {
		if r.direct {
			sql = append(sql, ";SAVEPOINT "+beforeDirect...)
		} else {
			sql = append(append(sql, ';'), r.plan.createStaging...)
		}
	}
	w.sql = sql
	var res []*pgconn.Result
	for attempt := 1; ; attempt++ {
		var err error
		res, err = exec(ctx, w.conn.pg, string(sql))
		if err == nil {
			break
		}
		// Somebody who is not the owner, or a former connection of this lane, has
		// the rows: the owner may remove them.
		if sqlState(err) != codeLockNotAvailable || attempt == 3 || rollback(ctx, w.conn.pg) != nil {
			return classify("move the positions", err)
		}
		if err := s.removeHolders(ctx, w.conn.pg, w.ps, w.owners, ""); err != nil {
			return err
		}
	}
	w.pid.Store(parseInt32(res[resultPID].Rows[0][0]))
	if res[resultUpdate].CommandTag.RowsAffected() == int64(len(w.parts)) {
		return nil
	}
	stored := checkpoints(res[resultSelect].Rows, w.ps)
	fenced := &flow.FencedError{}
	var why []error
	for i := range stored {
		p := &w.parts[i]
		if stored[i].Offset == p.From && stored[i].Owner == p.Owner {
			continue
		}
		fenced.Partitions = append(fenced.Partitions, p.Partition)
		if len(why) < 3 {
			why = append(why, fmt.Errorf("%s is at %d under owner epoch %d, expected %d under %d", p.Partition, stored[i].Offset, stored[i].Owner, p.From, p.Owner))
		}
	}
	fenced.Err = errors.Join(why...)
	return fenced
}

// data writes the rows.
func (w *writer) data(ctx context.Context, b *flow.Batch, r *routeWriter) error {
	if b.Rows() == 0 {
		return nil
	}
	if b.Columns == nil {
		return flow.Fatal(errors.New("the postgres sink writes columns, and the batch has none"))
	}
	plan := r.plan
	r.rows.enc.bind(b.Columns)
	switch {
	case plan.mode == ModeAppend:
		r.rows.resetAll(b)
		return w.copyRows(ctx, plan, plan.copyInto, &r.rows)
	case r.direct:
		done, err := w.insertNew(ctx, b, r)
		if err != nil {
			return err
		}
		if !done {
			r.direct = false
			if err := w.merge(ctx, b, r); err != nil {
				return err
			}
		}
	default:
		if err := w.merge(ctx, b, r); err != nil {
			return err
		}
	}
	return w.remove(ctx, b, r)
}

const beforeDirect = "penstock_direct"

// insertNew copies the rows into the table itself, and undoes that where a key is there
// already, or the table has got policies for rows since.
func (w *writer) insertNew(ctx context.Context, b *flow.Batch, r *routeWriter) (done bool, err error) {
	if !r.collect(b) {
		return true, nil
	}
	err = w.copyRows(ctx, r.plan, r.plan.copyDirect, &r.rows)
	state := sqlState(err)
	if state != codeUniqueViolation && state != codeNotSupported || w.conn.pg.TxStatus() != 'E' {
		if err == nil {
			r.fresh.found(true)
		}
		return true, err
	}
	r.fresh.found(false)
	_, err = exec(ctx, w.conn.pg, "ROLLBACK TO "+beforeDirect+";"+r.plan.createStaging)
	return false, classify("make a temporary table", err)
}

// merge writes the rows by way of a staging table, which is there.
func (w *writer) merge(ctx context.Context, b *flow.Batch, r *routeWriter) error {
	if !r.collect(b) {
		return nil
	}
	if err := w.copyRows(ctx, r.plan, r.plan.copyInto, &r.rows); err != nil {
		return err
	}
	_, err := exec(ctx, w.conn.pg, r.plan.merge)
	return classifyRows(map[string]string{ModeIgnore: "insert into ", ModeUpsert: "upsert into "}[r.plan.mode]+r.plan.target.String(), err)
}

// collect sets up rows and keys for the batch. It says whether there are rows to write.
// Rows that were rejected before are left out, so that it may be repeated.
func (r *routeWriter) collect(b *flow.Batch) bool {
	switch {
	case r.plan.mode == ModeUpsert:
		r.keys.collect(b, r.plan.sorted)
		r.rows.resetRows(b, r.keys.upserts, func(row int) int { return r.keys.before(b, row) })
	case r.plan.sorted:
		r.keys.collectAll(b)
		r.rows.resetRows(b, r.keys.upserts, nil)
	default:
		r.rows.resetAll(b)
		return true
	}
	return len(r.keys.upserts) > 0
}

// remove deletes the rows of keys whose last record is a tombstone.
func (w *writer) remove(ctx context.Context, b *flow.Batch, r *routeWriter) error {
	if r.plan.mode != ModeUpsert {
		return nil
	}
	plan, pg := r.plan, w.conn.pg
	if len(r.keys.deletes) > 0 {
		if _, err := exec(ctx, pg, plan.createDeleted); err != nil {
			return classify("make a temporary table", err)
		}
		r.del.enc.bind(b.Columns)
		r.del.resetRows(b, r.keys.deletes, nil)
		if err := w.copyRows(ctx, plan, plan.copyDeleted, &r.del); err != nil {
			return err
		}
		if _, err := exec(ctx, pg, plan.remove); err != nil {
			return classifyRows("delete from "+plan.target.String(), err)
		}
	}
	return nil
}

// copyRows runs COPY. If the server refuses a row and says which, the error names it.
func (w *writer) copyRows(ctx context.Context, plan *plan, sql string, r *copyReader) error {
	err := copyFrom(ctx, w.conn.pg, sql, r)
	if err == nil {
		return nil
	}
	err = classifyRows("copy into "+plan.target.String(), err)
	var (
		data *flow.DataError
		pe   *pgconn.PgError
	)
	if errors.As(err, &data) && errors.As(err, &pe) {
		if row := r.rowOfLine(copyLine(pe)); row >= 0 {
			data.Rows = []int{row}
		}
	}
	return err
}

// abort ends the transaction after an error.
func (w *writer) abort(ctx context.Context, cause error) {
	if w.conn == nil {
		return
	}
	// The context may be what has failed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if rollback(ctx, w.conn.pg) != nil || sqlState(cause) == codeReadOnly {
		w.drop(ctx)
	}
}
