package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/penstockdev/penstock/internal/adapt"
)

// idleCheck is how often a lane without work compares its positions with the
// checkpoint. A failover or a restore that moved data and positions back is
// found by the next write; without records there is none.
var idleCheck = 10 * time.Second

// write takes batches from prepare and writes them, in order, until prepare
// has ended or the flow fails.
func (l *lane) write(ctx context.Context) {
	timer := time.NewTimer(idleCheck)
	defer timer.Stop()
	// After a batch that was not written none may be: where the source keeps
	// the positions, a later one would carry them over the hole.
	failed := false
	for {
		l.claimBack(ctx)
		var b *laneBatch
		var ok bool
		timer.Reset(idleCheck)
		select {
		case b, ok = <-l.out:
			if !ok {
				return
			}
		case <-timer.C:
			l.verify(ctx)
			continue
		}
		l.mu.Lock()
		stale := b.gen != l.gen
		l.mu.Unlock()
		if stale || failed || ctx.Err() != nil {
			l.finish(b)
			continue
		}
		err := l.writeBatch(ctx, b)
		if err == nil && l.control != nil {
			l.follow(l.control.Observe(adapt.Sample{Records: b.records, Starved: b.starved, Write: b.write, Full: b.short}))
		}
		var lost *FencedError
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, errStopping):
			// The batch stays unwritten, and its records will be read again.
			failed = true
		case errors.As(err, &lost):
			l.f.fenced(l, b, lost)
			failed = !l.reset(ctx)
		case errors.Is(err, errLost):
			failed = !l.reset(ctx)
		default:
			failed = true
			l.f.fail(l.describe(b, err))
		}
		l.finish(b)
	}
}

// errStopping ends the attempts at a batch that fails while the flow stops: to
// wait for the target then would only delay the others of the group.
var errStopping = errors.New("the flow stops")

// errLost ends the attempts at a batch of which a part belongs to somebody else by now.
var errLost = errors.New("a partition of the batch was lost")

// describe says where an error that stops the flow happened.
func (l *lane) describe(b *laneBatch, err error) error {
	if len(b.Parts) == 0 {
		return err
	}
	p := &b.Parts[0]
	more := ""
	if len(b.Parts) > 1 {
		more = fmt.Sprintf(" and %d more partitions", len(b.Parts)-1)
	}
	return fmt.Errorf("writing %s from offset %d%s: %w", p.Partition, p.From, more, err)
}

// writeBatch writes b, in several parts where records are at fault. It returns
// nil when all of it is durable, a *FencedError, or the error that stops the flow.
func (l *lane) writeBatch(ctx context.Context, b *laneBatch) error {
	iso := newIsolation(b.lo, b.hi)
	attempt, unknown := 0, 0
	start := time.Now()
	l.setWriting(start)
	defer l.setWriting(time.Time{})
	stored := false // the rows are, and only BeforeCommit is to be done
	b.records, b.write = b.Len(), 0
	for len(b.Parts) > 0 {
		// A Checkpointer fences what is lost; for others we have to.
		if l.f.checkpoints == nil && l.anyLost(b) {
			return errLost
		}
		view := b.head(iso.limit)
		late, err := l.attempt(ctx, view, &stored)
		if err == nil {
			stored = false
			took := time.Since(start)
			if attempt == 0 && view.Len() == b.records {
				b.write = took
			}
			l.written(b, view, took)
			b.advance(iso.limit)
			iso.written()
			attempt, unknown = 0, 0
			start = time.Now()
			l.f.clearRetry(l)
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		switch ClassOf(err) {
		case ClassFenced, ClassFatal:
			return err
		case ClassData:
			var data *DataError
			if !errors.As(err, &data) {
				data = &DataError{Err: err}
			}
			// A target that names a row which is not in the batch any more has
			// not located anything.
			named := slices.DeleteFunc(slices.Clone(data.Rows), func(i int) bool { return i < view.lo || i >= view.hi || b.Rejected(i) })
			for _, row := range iso.refused(named, view.Rows(), view.Next(0)) {
				if row < 0 {
					return Fatal(fmt.Errorf("the target refuses a batch without rows: %w", err))
				}
				b.Reject(row, StageWrite, data.Err)
			}
			continue
		case ClassUnknown:
			unknown++
			if unknown > l.f.cfg.Retry.UnknownAttempts {
				return fmt.Errorf("gave up after %d attempts: %w", unknown, err)
			}
		case ClassTransient:
			unknown = 0
			if late {
				iso.late()
			}
		}
		attempt++
		if l.stops() {
			l.f.log.Warn("the flow stops and a batch cannot be written now: its records will be read again", slog.Any("error", l.describe(b, err)))
			return errStopping
		}
		wait := l.f.cfg.Retry.wait(attempt, err)
		l.f.retrying(l, attempt, wait, l.describe(b, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
	return nil
}

func (l *lane) setWriting(began time.Time) {
	l.mu.Lock()
	l.writeBegan = began
	l.mu.Unlock()
}

// anyLost reports whether a partition of the batch belongs to somebody else by now.
func (l *lane) anyLost(b *laneBatch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(b.parts, func(p *partition) bool { return p.lost })
}

// attempt tries once to write the view. late says that it took too long.
// stored is set when the rows are written and what is left is BeforeCommit: then
// that alone is repeated.
func (l *lane) attempt(ctx context.Context, view *Batch, stored *bool) (late bool, err error) {
	if len(view.rej.list) > 0 && !l.f.keepsDeadLetters {
		if dead := view.deadLetters(); len(dead) > 0 {
			d := &dead[0]
			return false, Fatal(fmt.Errorf("%s offset %d cannot be processed (%s: %s), and the flow has nowhere to keep dead letters: "+
				"configure a dead-letter queue", d.Partition, d.Record.Offset, d.Class, d.Message))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, l.f.cfg.Batch.Timeout)
	defer cancel()
	if !*stored {
		err = l.writer.Write(ctx, view)
	}
	if err == nil && l.f.checkpoints == nil {
		*stored = true
		err = view.BeforeCommit(ctx)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		late = !*stored
		if ClassOf(err) == ClassUnknown {
			err = Transient(fmt.Errorf("not done within %s: %w", l.f.cfg.Batch.Timeout, err))
		}
	}
	return late, err
}

// written counts a view of b that became durable, and moves the positions.
func (l *lane) written(b *laneBatch, view *Batch, took time.Duration) {
	f := l.f
	stats := BatchStats{Lane: l.n, Records: view.Len(), Rows: view.Rows(), Decode: b.decode, Write: took}
	for i := view.lo; i < view.hi; i++ {
		stats.Bytes += int64(len(view.Records[i].Key) + len(view.Records[i].Value))
	}
	if stats.Records > 0 {
		stats.Oldest = view.Records[view.lo].Timestamp
	}
	if dead := view.deadLetters(); len(dead) > 0 {
		f.sayDead(dead)
		stats.Dead = make(map[string]int)
		for i := range dead {
			stats.Dead[dead[i].Class]++
		}
	}
	now := f.clock.now()
	l.mu.Lock()
	k := 0 // both are in the same order
	for i := range view.Parts {
		part := &view.Parts[i]
		for ; k < len(b.parts); k++ {
			p := b.parts[k]
			if p.Partition != part.Partition {
				continue
			}
			p.committed, p.epoch, p.claims, p.updated = part.Next, part.LeaderEpoch, 0, now
			if part.End > part.First {
				p.newest = view.Records[part.End-1].Timestamp
			}
			break
		}
	}
	l.mu.Unlock()
	f.count(&stats)
	if b.taps != nil {
		shown := stats // escapes
		f.show(b.taps, func(t Tap) { t.Written(l.n, view, &shown) })
	}
	f.committer.poke()
}

// held returns the partitions that are the lane's own now. The caller holds l.mu.
func (l *lane) held() (ps []*partition, names []Partition) {
	for _, p := range l.parts {
		if !p.gone && p.fencedAt.IsZero() {
			ps, names = append(ps, p), append(names, p.Partition)
		}
	}
	return ps, names
}

// verify resets the lane if the checkpoint is not where the lane left it.
func (l *lane) verify(ctx context.Context) {
	if l.f.checkpoints == nil {
		return
	}
	l.mu.Lock()
	held, names := l.held()
	l.mu.Unlock()
	if len(names) == 0 {
		return
	}
	stored, err := l.f.checkpoints.Read(ctx, names)
	if err != nil {
		if ctx.Err() == nil { // nothing is lost, but who looks at the flow should know
			l.f.retrying(l, 1, idleCheck, fmt.Errorf("comparing positions with the checkpoint: %w", err))
		}
		return
	}
	l.f.clearRetry(l)
	moved := false
	l.mu.Lock()
	for i, p := range held {
		// Only this goroutine moves committed.
		moved = moved || !p.gone && !p.seeking && (stored[i].Offset != p.committed || stored[i].Owner != p.owner)
	}
	l.mu.Unlock()
	if moved {
		l.reset(ctx)
	}
}

// claimBack takes over again what was let go some time ago and has not been
// revoked since. That is right if the checkpoint went back in time together with
// its owner epochs, or the other owner is dead; if it is alive, we are the
// zombie. So a partition whose checkpoint still moves is left alone, and every
// attempt waits twice as long as the one before.
func (l *lane) claimBack(ctx context.Context) {
	var fenced []*partition
	l.mu.Lock()
	for _, p := range l.parts {
		if !p.gone && !p.fencedAt.IsZero() && time.Since(p.fencedAt) > idleCheck<<min(p.claims, 6) {
			fenced = append(fenced, p)
		}
	}
	l.mu.Unlock()
	for _, p := range fenced {
		names := []Partition{p.Partition}
		now, err := l.f.checkpoints.Read(ctx, names)
		if err != nil {
			return // tried again with the next batch
		}
		if now[0].Owner >= p.owner && (now[0].Owner != p.fenced.Owner || now[0].Offset != p.fenced.Offset) {
			l.mu.Lock()
			p.fenced, p.fencedAt = now[0], time.Now()
			l.mu.Unlock()
			continue
		}
		l.mu.Lock()
		gone := p.gone // while the checkpoint was read
		l.mu.Unlock()
		if gone {
			continue
		}
		stored, err := l.f.checkpoints.Claim(ctx, l.n, names)
		if err != nil || stored[0].Offset < 0 {
			return
		}
		c := &stored[0]
		l.mu.Lock()
		k := l.rewind(p, c.Position)
		p.owner, p.fencedAt = c.Owner, time.Time{}
		p.claims++
		l.mu.Unlock()
		l.f.log.Warn("partition claimed back: it was fenced but never revoked", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
			slog.Int64("offset", c.Offset), slog.Int64("owner_epoch", c.Owner))
		l.f.requestSeek([]seek{k})
	}
}

// rewind sets p to a position and returns the seek that the source needs. What
// is delivered before that has been done is dropped. The caller holds l.mu.
func (l *lane) rewind(p *partition, pos Position) seek {
	l.drop(p)
	p.expect, p.cut, p.committed = pos.Offset, pos.Offset, pos.Offset
	p.seeking = true
	p.seek++ // a seek that is under way does not end this
	return seek{p, pos, p.seek}
}

// reset drops everything that the lane holds and reads on from what the
// checkpoint says. It follows a write that was fenced: the checkpoint was moved,
// or some partitions belong to somebody else by now, and those are let go. A
// sink without checkpoints goes back to what it has written. It returns false if
// the flow stops.
func (l *lane) reset(ctx context.Context) bool {
	l.mu.Lock()
	l.gen++
	held, names := l.held()
	stored := make([]Checkpoint, len(held))
	for i, p := range held {
		stored[i].Position = Position{Partition: p.Partition, TopicID: p.topicID, Offset: p.committed, LeaderEpoch: p.epoch}
		l.rewind(p, stored[i].Position)
	}
	l.mu.Unlock()
	l.f.roomChanged()
	if l.f.checkpoints != nil && len(names) > 0 {
		err := l.f.retry(ctx, "reading the checkpoint again", func() (err error) {
			stored, err = l.f.checkpoints.Read(ctx, names)
			return err
		})
		if err == nil {
			if i := slices.IndexFunc(stored, missing); i >= 0 {
				err = fmt.Errorf("the checkpoint row of %s is gone: somebody removed it while the flow ran", names[i])
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				l.f.fail(err)
			}
			return false
		}
	}
	var seeks []seek
	l.mu.Lock()
	for i, p := range held {
		c := stored[i]
		switch {
		case p.gone:
		case l.f.checkpoints != nil && c.Owner != p.owner:
			p.fenced, p.fencedAt = c, time.Now()
			l.f.log.Warn("partition belongs to another owner now: let go", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
				slog.Int64("owner_epoch", p.owner), slog.Int64("owner_epoch_now", c.Owner))
		default:
			if c.Offset != p.committed {
				l.f.log.Warn("the checkpoint was moved: reading on from where it is", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
					slog.Int64("was", p.committed), slog.Int64("now", c.Offset))
			}
			seeks = append(seeks, l.rewind(p, c.Position))
		}
	}
	l.mu.Unlock()
	l.f.requestSeek(seeks)
	return true
}
