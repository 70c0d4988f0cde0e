package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// doubt is a transaction of which is not known whether it was committed.
type doubt struct {
	parts   []flow.Part
	backend string // of the connection on which it ran
}

// of says whether the transaction was an attempt to write these parts.
func (d *doubt) of(parts []flow.Part) bool {
	return slices.EqualFunc(d.parts, parts, func(x, y flow.Part) bool {
		return x.Partition == y.Partition && x.From == y.From && x.Next == y.Next && x.Owner == y.Owner
	})
}

// outcome is what became of a transaction in doubt.
type outcome uint8

const (
	unknown    outcome = iota
	committed          // the rows are as it has left them
	rolledBack         // the rows are as it has found them
	overtaken          // somebody else has changed the rows since
)

// commit commits, and finds out what happened if the server does not say. verify
// may be a statement that goes first, and fails where the rows do not fit the table.
func (w *writer) commit(ctx context.Context, verify string) error {
	pg := w.conn.pg
	res, err := exec(ctx, pg, verify+"COMMIT")
	if err == nil {
		// A transaction that has failed before is rolled back by COMMIT, which
		// pgconn does not take for an error.
		if tag := res[len(res)-1].CommandTag.String(); tag != "COMMIT" {
			return flow.Transient(fmt.Errorf("the server answered COMMIT with %s", tag))
		}
		return nil
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) && !pg.IsClosed() && pg.TxStatus() == 'E' {
		w.abort(ctx, err) // COMMIT was not reached
		if pe.Code == "22012" {
			return errVerify
		}
		return classify("verify the table", err)
	}
	if errors.As(err, &pe) && !pg.IsClosed() && pg.TxStatus() == 'I' {
		// The server has answered: a deferred constraint, a serialization failure.
		return classifyRows("commit", err)
	}
	w.doubt = &doubt{parts: slices.Clone(w.parts), backend: w.conn.backend}
	w.drop(ctx)
	lost := fmt.Errorf("the answer to COMMIT was lost: %w", err)
	if ctx.Err() != nil {
		return flow.Transient(lost) // the next Write finds out
	}
	if err := w.connect(ctx); err != nil {
		return flow.Transient(errors.Join(lost, err))
	}
	out, err := w.resolve(ctx)
	switch {
	case err != nil:
		return flow.Transient(errors.Join(lost, err))
	case out == committed:
		w.sink.log.Info("the answer to a COMMIT was lost; the checkpoint says that it was committed", "lane", w.lane)
		return nil
	case out == overtaken:
		return &flow.FencedError{Partitions: slices.Clone(w.ps), Err: lost}
	}
	return flow.Transient(fmt.Errorf("%w; it was rolled back", lost))
}

// resolve learns what became of the transaction in doubt, and settles it
// unless there is an error. The transaction may still be running: its locks are waited
// for, and its backend is removed if it does not end.
func (w *writer) resolve(ctx context.Context) (outcome, error) {
	d := w.doubt
	ps := make([]flow.Partition, len(d.parts))
	owners := make([]int64, len(d.parts))
	for i := range d.parts {
		ps[i], owners[i] = d.parts[i].Partition, d.parts[i].Owner
	}
	s, pg := w.sink, w.conn.pg
	sql := begin + s.lockTimeoutSQL() + s.selectSQL(partitionValues(ps, nil), "FOR UPDATE OF c") + ";ROLLBACK"
	for attempt := 1; ; attempt++ {
		res, err := exec(ctx, pg, sql)
		if err == nil {
			w.doubt = nil
			return judge(d.parts, checkpoints(res[resultSelect].Rows, ps)), nil
		}
		if sqlState(err) != codeLockNotAvailable || attempt == 3 || rollback(ctx, pg) != nil {
			w.abort(ctx, err)
			return unknown, classify("find out whether a transaction was committed", err)
		}
		if err := s.removeHolders(ctx, pg, ps, owners, d.backend); err != nil {
			return unknown, err
		}
	}
}

// judge compares the rows with what the transaction has found and was to leave.
func judge(parts []flow.Part, stored []flow.Checkpoint) outcome {
	before, after := true, true
	for i := range parts {
		p, c := &parts[i], &stored[i]
		before = before && c.Owner == p.Owner && c.Offset == p.From
		after = after && c.Owner == p.Owner && c.Offset == p.Next
	}
	switch {
	case after:
		return committed
	case before:
		return rolledBack
	}
	return overtaken
}
