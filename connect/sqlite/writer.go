package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
	"github.com/penstockdev/penstock/internal/failpoint"
)

// writer writes the batches of the one lane, on a connection of its own.
type writer struct {
	sink  *Sink
	cfg   *SinkConfig
	setup flow.Setup

	// All nil until the first Write, and again after an error that is not about
	// a record: a new connection starts from what the file holds.
	c          *conn
	swap, dead *stmt
	routes     []routeWriter
}

// routeWriter is what a writer keeps for the table of one route.
type routeWriter struct {
	*target
	enc            *encoder
	insert, remove *stmt // nil like those of the writer
}

// Write implements flow.Writer.
func (w *writer) Write(ctx context.Context, b *flow.Batch) error {
	if err := w.connect(); err != nil {
		return err
	}
	failpoint.Hit("sink.before_begin")
	err := w.write(ctx, b)
	if err == nil {
		return nil
	}
	class := flow.ClassOf(err)
	if class == flow.ClassData || class == flow.ClassFenced || ctx.Err() != nil {
		w.rollback()
	} else {
		w.disconnect()
	}
	return err
}

func (w *writer) write(ctx context.Context, b *flow.Batch) error {
	if err := w.c.begin(ctx, w.cfg.BusyTimeout); err != nil {
		return fmt.Errorf("waiting for the write lock of %s: %w", w.cfg.Path, err)
	}
	if err := w.movePositions(b); err != nil {
		return err
	}
	if err := w.rows(ctx, b); err != nil {
		return err
	}
	if err := w.deadLetters(b); err != nil {
		return err
	}
	if err := b.BeforeCommit(ctx); err != nil {
		return err
	}
	failpoint.Hit("sink.before_commit")
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.commit(ctx, b); err != nil {
		return err
	}
	failpoint.Hit("sink.after_commit")
	return nil
}

// movePositions is the compare-and-swap of all the batch's positions: nothing
// is written by whoever does not hold them.
func (w *writer) movePositions(b *flow.Batch) error {
	for i := range b.Parts {
		p := &b.Parts[i]
		err := w.swap.run(nil, p.Next, p.LeaderEpoch, w.sink.backend, now(),
			w.setup.Flow, w.setup.ClusterID, p.Topic, p.ID, p.From, p.Owner)
		if err != nil {
			return notData(fmt.Errorf("moving the position of %s: %w", p.Partition, err))
		}
		if w.c.changes() != 1 {
			return &flow.FencedError{
				Partitions: []flow.Partition{p.Partition},
				Err:        fmt.Errorf("expected offset %d and owner epoch %d in %s", p.From, p.Owner, w.cfg.Path),
			}
		}
	}
	return nil
}

const swapSQL = "UPDATE " + checkpointTable + " SET next_offset = ?, leader_epoch = ?, owner_backend = ?, updated_at = ?" +
	" WHERE flow = ? AND cluster_id = ? AND topic = ? AND partition = ? AND next_offset = ? AND owner_epoch = ?"

// checkEvery is after how many rows the context is looked at.
const checkEvery = 256

// rows writes the rows. Rows that the table refuses are collected to the end
// of the batch, so that one more attempt writes the others.
func (w *writer) rows(ctx context.Context, b *flow.Batch) error {
	var refused *flow.DataError
	r := &w.routes[b.Route]
	half := -1
	if failpoint.Enabled {
		half = b.Rows() / 2
	}
	n := 0
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		if n == half {
			failpoint.Hit("sink.in_copy")
		}
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		q := r.insert
		tombstone := b.Records[i].Value == nil
		if tombstone {
			if r.Mode != ModeUpsert {
				b.Reject(i, flow.StageWrite, &flow.RecordError{Class: "tombstone", Err: fmt.Errorf(
					"a tombstone (a record without a value) deletes in mode upsert; in mode %s it means nothing", r.Mode,
				)})
				continue
			}
			q = r.remove
		}
		if err := r.enc.row(b.Columns, i, tombstone); err != nil {
			b.Reject(i, flow.StageWrite, err)
			continue
		}
		err := w.exec(r, q, tombstone)
		if err == nil {
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.FlowClass() != flow.ClassData {
			return fmt.Errorf("writing a row: %w", err)
		}
		reason := recordError(e)
		switch {
		case refused == nil:
			refused = &flow.DataError{Rows: []int{i}, Err: reason}
		case refused.Err.Error() == reason.Error(): // the others have another reason, which must be theirs: next attempt
			refused.Rows = append(refused.Rows, i)
		}
		if !w.c.inTransaction() { // a trigger, or ON CONFLICT ROLLBACK, ended it
			break
		}
	}
	if refused != nil {
		return refused
	}
	return nil
}

// exec binds the row that the encoder holds, and runs the statement.
func (w *writer) exec(r *routeWriter, q *stmt, keysOnly bool) error {
	base, err := q.mem.set(w.c.tls, r.enc.buf)
	if err != nil {
		return err
	}
	rc, n := int32(sqlite3.SQLITE_OK), int32(0)
	if keysOnly {
		for _, k := range r.Key {
			for c := range r.enc.cols {
				if r.enc.cols[c].name == k {
					n++
					rc |= q.bind(n, &r.enc.vals[c], base)
				}
			}
		}
	} else {
		for c := range r.enc.vals {
			n++
			rc |= q.bind(n, &r.enc.vals[c], base)
		}
	}
	if rc != sqlite3.SQLITE_OK {
		err = w.c.fail("binding a row")
	} else {
		_, err = q.step()
	}
	q.reset()
	return err
}

func (s *stmt) bind(i int32, v *value, base uintptr) int32 {
	switch v.as {
	case storeInt:
		return s.bindInt(i, v.i)
	case storeFloat:
		return s.bindFloat(i, v.f)
	case storeText:
		return s.bindText(i, base+uintptr(v.off), v.n)
	case storeBlob:
		return s.bindBlob(i, base+uintptr(v.off), v.n)
	case storeNull:
	}
	return s.bindNull(i)
}

// deadLetters writes the rejected records.
func (w *writer) deadLetters(b *flow.Batch) error {
	for _, d := range b.DeadLetters() {
		failpoint.Hit("sink.dead_letter")
		if err := insertDeadLetter(w.dead, w.setup.Flow, w.setup.ClusterID, &d); err != nil {
			return err
		}
	}
	return nil
}

// insertDeadLetter runs deadLetterSQL.
func insertDeadLetter(q *stmt, flowName, cluster string, d *flow.DeadLetter) error {
	headers, err := headersJSON(d.Record.Headers)
	if err != nil {
		return err
	}
	err = q.run(nil, flowName, cluster, d.Topic, d.TopicID, d.ID, d.Record.Offset,
		time.UnixMicro(d.Record.Timestamp).UTC().Format(coljson.LayoutTimestamptz),
		d.Record.Key, d.Record.Value, headers, string(d.Stage), d.Class, d.Column, cleanText(d.Message), now())
	if err != nil {
		return notData(fmt.Errorf("writing the dead letter of %s offset %d: %w", d.Partition, d.Record.Offset, err))
	}
	return nil
}

// cleanText makes text of what may quote a record: many programs read a TEXT only up
// to a U+0000.
func cleanText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// notData keeps what SQLite refuses in the sink's own tables (somebody added a
// constraint) from being taken for the fault of a record.
func notData(err error) error {
	if flow.ClassOf(err) == flow.ClassData {
		return flow.Fatal(err)
	}
	return err
}

func deadLetterSQL(table string) string {
	return "INSERT INTO " + quote(table) +
		` (flow, cluster_id, topic, topic_id, partition, "offset", timestamp, "key", value, headers, stage, class, column_name, message, created_at)` +
		" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
}

// headersJSON keeps order and repeated keys; values are any bytes, so they are
// base64 (encoding/json's form of bytes).
func headersJSON(headers []flow.Header) (string, error) {
	type header struct {
		Key   string `json:"key"`
		Value []byte `json:"value"`
	}
	out := make([]header, len(headers))
	for i, h := range headers {
		out[i] = header(h)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("headers of a dead letter: %w", err)
	}
	return string(text), nil
}

// commit ends the transaction. Where SQLite reports an error (the disk failed)
// the file says what became of it.
func (w *writer) commit(ctx context.Context, b *flow.Batch) error {
	err := w.c.exec("COMMIT")
	if err == nil {
		return nil
	}
	if w.c.inTransaction() {
		// Nothing is committed. A constraint that is checked last (a deferred
		// foreign key) does not say whose fault it is.
		if flow.ClassOf(err) == flow.ClassData {
			var e *Error
			errors.As(err, &e)
			return &flow.DataError{Err: recordError(e)}
		}
		return fmt.Errorf("committing to %s: %w", w.cfg.Path, err)
	}
	w.disconnect()
	if moved, readErr := w.moved(ctx, b); readErr == nil && moved {
		return nil
	}
	return fmt.Errorf("committing to %s: %w", w.cfg.Path, err)
}

// moved reports whether the positions are those after the batch, under the
// batch's own epochs. The swap of the next attempt would find out too, as a fence;
// this saves reading the batch again.
func (w *writer) moved(ctx context.Context, b *flow.Batch) (bool, error) {
	ps := make([]flow.Partition, len(b.Parts))
	for i := range b.Parts {
		ps[i] = b.Parts[i].Partition
	}
	stored, err := w.sink.Read(ctx, ps)
	if err != nil {
		return false, err
	}
	for i := range stored {
		if stored[i].Offset != b.Parts[i].Next || stored[i].Owner != b.Parts[i].Owner {
			return false, nil
		}
	}
	return true, nil
}

func (w *writer) connect() error {
	if w.c != nil {
		return nil
	}
	c, err := w.sink.dial(false)
	if err != nil {
		return err
	}
	w.c = c
	type statement struct {
		to  **stmt
		sql string
	}
	all := []statement{{&w.swap, swapSQL}, {&w.dead, deadLetterSQL(w.cfg.DeadLetterTable)}}
	for i := range w.routes {
		r := &w.routes[i]
		all = append(all, statement{&r.insert, r.insertSQL()})
		if r.Mode == ModeUpsert {
			all = append(all, statement{&r.remove, r.deleteSQL()})
		}
	}
	for _, s := range all {
		if *s.to, err = c.prepare(s.sql); err != nil {
			w.disconnect()
			return err
		}
	}
	return nil
}

func (w *writer) disconnect() {
	if w.c == nil {
		return
	}
	w.c.rollback()
	all := []**stmt{&w.swap, &w.dead}
	for i := range w.routes {
		all = append(all, &w.routes[i].insert, &w.routes[i].remove)
	}
	for _, s := range all {
		(*s).finalize()
		*s = nil
	}
	w.c.close()
	w.c = nil
}

func (w *writer) rollback() {
	if w.c != nil {
		w.c.rollback()
	}
}

// Close implements flow.Writer.
func (w *writer) Close() error {
	w.disconnect()
	return nil
}
