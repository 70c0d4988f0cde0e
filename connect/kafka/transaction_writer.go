package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

const (
	// rebalanceTime bounds how long a transaction waits for a rebalance before
	// it is aborted and the batch begun anew.
	rebalanceTime = 3 * time.Second
	// abortTime bounds an abort; the client is given up then.
	abortTime = 2 * time.Second
)

// transactor writes the batches of one lane in transactions.
type transactor struct {
	*producer
	sink *TransactionalSink
	id   string // transactional

	ps []flow.Partition
	// doubt are the parts of a transaction of which is not known whether it was committed.
	doubt []flow.Part
	taken int // see renew
}

// Close implements flow.Writer.
func (w *transactor) Close() error {
	w.drop()
	return nil
}

// Write writes rows, dead letters and offsets in one transaction:
//
//  1. What this process knows of the parts is compared; a stale lane is refused
//     before the cluster hears of it.
//  2. Rows and dead letters are produced, and acknowledged.
//  3. The offsets are added under the group's generation as it is at that
//     moment. That is the compare-and-swap: it is refused once another member
//     has one of the partitions. A partition that was lost and has come back has
//     a generation that is accepted, so step 1 is repeated: Claim forgets what
//     it takes over before it looks for open transactions, and either sees this one or
//     is seen here.
//  4. The transaction is ended. If the answer is lost, the offsets tell the
//     outcome.
func (w *transactor) Write(ctx context.Context, b *flow.Batch) error {
	if len(b.Parts) == 0 {
		return nil
	}
	failpoint.Hit("sink.before_begin")
	if w.doubt != nil {
		doubt := w.doubt
		committed, err := w.settle(ctx)
		if err != nil {
			return err
		}
		if committed && slices.EqualFunc(doubt, b.Parts, func(x, y flow.Part) bool {
			return x.Partition == y.Partition && x.From == y.From && x.Next == y.Next && x.Owner == y.Owner
		}) {
			return nil
		}
	}
	if err := w.sink.owned(b.Parts); err != nil {
		return err
	}
	w.ps = w.ps[:0]
	for i := range b.Parts {
		w.ps = append(w.ps, b.Parts[i].Partition)
	}
	letters := w.s.deadLetters(b)
	if b.Rows() == 0 && len(letters) == 0 {
		return w.positions(ctx, b)
	}
	return w.transaction(ctx, b, letters)
}

// positions moves the positions of a batch that has nothing to write. That is a
// transaction, too: the dead letters of a queue follow the compare-and-swap,
// and Claim sees a move that is under way. kgo ends no transaction in which it
// has produced nothing, so it has no part in this one.
func (w *transactor) positions(ctx context.Context, b *flow.Batch) error {
	w.drop() // the id gets another epoch
	as, err := w.sink.admin.fence(ctx, w.id, w.s.cfg.TransactionTimeout)
	if err != nil {
		return err
	}
	t := txnOffsets{s: w.sink, cl: w.sink.admin.cl, id: w.id, producer: as.ProducerID, epoch: as.ProducerEpoch}
	if err = w.unfenced(ctx, b.Parts); err == nil {
		err = w.add(ctx, &t, b)
	}
	if err == nil {
		err = b.BeforeCommit(ctx)
	}
	if err != nil {
		aborting, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
		defer cancel()
		_ = t.end(aborting, false) // else whoever has the id next does it
		return w.refused("committing offsets of group "+w.sink.group, err)
	}
	if err := t.end(ctx, true); err != nil {
		return w.uncertain(ctx, b, err)
	}
	w.sink.moved(b.Parts)
	return nil
}

func (w *transactor) transaction(ctx context.Context, b *flow.Batch, letters []flow.DeadLetter) error {
	start := time.Now()
	err := w.begin(ctx, b, letters)
	if err == nil {
		err = w.produce(ctx, b, letters)
	}
	if err == nil {
		failpoint.Hit("sink.before_offsets")
		err = w.offsets(ctx, b)
	}
	if err == nil {
		err = b.BeforeCommit(ctx)
	}
	if err != nil {
		w.abort(ctx)
		err = w.refused("writing", err)
		if took := time.Since(start); took >= w.s.cfg.TransactionTimeout && flow.ClassOf(err) == flow.ClassFenced {
			return flow.Transient(fmt.Errorf("%s passed, and the broker aborts transactions after transaction_timeout (%s): raise it, or make batches smaller; the broker says: %s",
				took.Round(time.Millisecond), w.s.cfg.TransactionTimeout, err.Error()))
		}
		return err
	}
	failpoint.Hit("sink.before_commit")
	if err := w.commit(ctx, b); err != nil {
		return err
	}
	failpoint.Hit("sink.after_commit")
	return nil
}

// begin makes sure that there is a client, and begins a transaction.
func (w *transactor) begin(ctx context.Context, b *flow.Batch, letters []flow.DeadLetter) error {
	large, err := w.prepare(ctx, b, letters)
	if err != nil {
		return err
	}
	w.renew()
	if err := w.connect(large, w.sink.transactional(w.id)); err != nil {
		return err
	}
	// kgo would ask for the id without ctx.
	if _, _, err := w.cl.ProducerID(ctx); err != nil {
		w.drop()
		return err
	}
	if err := w.unfenced(ctx, b.Parts); err != nil {
		w.drop() // somebody else may have had its transactional id
		return err
	}
	return w.cl.BeginTransaction()
}

// offsets adds the offsets of the batch to the transaction.
func (w *transactor) offsets(ctx context.Context, b *flow.Batch) error {
	id, epoch, err := w.cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	return w.add(ctx, &txnOffsets{s: w.sink, cl: w.cl, id: w.id, producer: id, epoch: epoch}, b)
}

func (w *transactor) add(ctx context.Context, t *txnOffsets, b *flow.Batch) error {
	if err := t.addGroup(ctx); err != nil {
		return err
	}
	if err := w.asMember(ctx, func(m flow.Member) error { return t.commit(ctx, m, b.Parts) }); err != nil {
		return err
	}
	return w.sink.owned(b.Parts) // not claimed since Write began, by this process either
}

// asMember does something under the membership by which this process owns the
// partitions of the batch. During a rebalance that is asked for again.
func (w *transactor) asMember(ctx context.Context, do func(flow.Member) error) error {
	for start := time.Now(); ; {
		m, err := w.s.setup.Member(w.ps)
		if err != nil {
			return err
		}
		err = do(m)
		switch {
		case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedInstanceID), errors.Is(err, kerr.FencedMemberEpoch):
			// The group has gone on without this process.
			return &flow.FencedError{Partitions: slices.Clone(w.ps), Err: err}
		case !membership(err):
			return err
		case time.Since(start) > rebalanceTime || !pause(ctx):
			return flow.Transient(fmt.Errorf("kafka: a rebalance of group %s is under way: %w", w.sink.group, err))
		}
	}
}

// abort ends the transaction after an error. A client of which is not sure that
// it has is given up; its successor has the same transactional id.
func (w *transactor) abort(ctx context.Context) {
	if w.cl == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	if w.cl.AbortBufferedRecords(ctx) != nil || w.cl.EndTransaction(ctx, kgo.TryAbort) != nil {
		w.drop()
	}
}

// commit ends the transaction, and finds out what happened if nobody says.
func (w *transactor) commit(ctx context.Context, b *flow.Batch) error {
	err := w.cl.EndTransaction(ctx, kgo.TryCommit)
	if err == nil {
		w.sink.moved(b.Parts)
		return nil
	}
	if errors.Is(err, kerr.OperationNotAttempted) || errors.Is(err, kerr.TransactionAbortable) {
		w.abort(ctx)
		return w.refused("committing the transaction", err)
	}
	return w.uncertain(ctx, b, err)
}

// uncertain finds out what became of a transaction after EndTxn failed with err.
func (w *transactor) uncertain(ctx context.Context, b *flow.Batch, err error) error {
	w.doubt = slices.Clone(b.Parts)
	w.drop()
	lost := fmt.Errorf("kafka: the answer to EndTxn was lost: %w", err)
	if ctx.Err() != nil {
		return flow.Transient(lost) // the next Write finds out
	}
	committed, err := w.settle(ctx)
	var fenced *flow.FencedError
	switch {
	case errors.As(err, &fenced):
		return err
	case err != nil:
		return flow.Transient(errors.Join(lost, err))
	case !committed:
		return flow.Transient(fmt.Errorf("%w; it was aborted", lost))
	}
	w.s.log.Info("the answer to EndTxn was lost; the group's offsets say that the transaction was committed", "flow", w.s.setup.Flow, "transactional_id", w.id)
	return nil
}

// settle learns what became of the transaction in doubt, and forgets it unless
// there is an error. Asking for a producer id ends the transaction, by the
// outcome that was decided, or by an abort. Then the offsets are final.
func (w *transactor) settle(ctx context.Context) (committed bool, err error) {
	if _, err := w.sink.admin.fence(ctx, w.id, fenceTimeout); flow.ClassOf(err) == flow.ClassFatal {
		return false, err
	} else if err != nil {
		return false, flow.Transient(fmt.Errorf("kafka: finding out whether a transaction was committed: %w", err))
	}
	ps := make([]flow.Partition, len(w.doubt))
	for i := range w.doubt {
		ps[i] = w.doubt[i].Partition
	}
	stored, err := w.sink.Read(ctx, ps)
	if err != nil {
		return false, err
	}
	parts := w.doubt
	w.doubt = nil
	var moved, stayed int
	fenced := &flow.FencedError{Err: errors.New("a transaction whose end was in doubt was overtaken")}
	for i := range parts {
		switch {
		case stored[i].Owner != parts[i].Owner:
			fenced.Partitions = append(fenced.Partitions, ps[i])
		case stored[i].Offset == parts[i].Next:
			moved++
		case stored[i].Offset == parts[i].From:
			stayed++
		}
	}
	if moved == len(parts) {
		w.sink.moved(parts)
		return true, nil
	}
	if stayed == len(parts) {
		return false, nil
	}
	return false, fenced
}

// refused gives an error of the transaction a class and words.
func (w *transactor) refused(doing string, err error) error {
	if endedByOthers(err) {
		w.drop()
		return &flow.FencedError{Partitions: slices.Clone(w.ps), Err: fmt.Errorf("the transaction of %s was ended by somebody else: %w", w.id, err)}
	}
	return w.s.refused(doing, w.s.cfg.Topic, err, mayJoin(w.sink.group))
}
