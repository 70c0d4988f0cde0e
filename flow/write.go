package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
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
	for {
		l.mu.Lock()
		l.idle = true
		l.mu.Unlock()
		l.poke()
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
		l.idle = false
		stale := b.gen != l.gen
		l.mu.Unlock()
		if stale || ctx.Err() != nil {
			l.finish(b)
			continue
		}
		err := l.writeBatch(ctx, b)
		var lost *FencedError
		switch {
		case err == nil:
		case ctx.Err() != nil:
			// The flow is stopping: the batch stays unwritten, and its records will be read again.
		case errors.As(err, &lost):
			l.f.fenced(l, b, lost)
			if err := l.reset(ctx); err != nil && ctx.Err() == nil {
				l.f.fail(err)
			}
		default:
			l.f.fail(l.describe(b, err))
		}
		l.finish(b)
	}
}

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
	for len(b.Parts) > 0 {
		view := b.head(iso.limit)
		err := l.attempt(ctx, view)
		if err == nil {
			l.written(b, view, time.Since(start))
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
		}
		attempt++
		wait := l.f.cfg.Retry.wait(attempt)
		l.f.retrying(l, attempt, wait, l.describe(b, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
	return nil
}

// attempt tries once to write the view.
func (l *lane) attempt(ctx context.Context, view *Batch) error {
	if len(view.rej.list) > 0 && !l.f.keepsDeadLetters {
		if dead := view.deadLetters(); len(dead) > 0 {
			d := &dead[0]
			return Fatal(fmt.Errorf("%s offset %d cannot be processed (%s: %s), and the flow has nowhere to keep dead letters: "+
				"configure a dead-letter queue", d.Partition, d.Record.Offset, d.Class, d.Message))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, l.f.cfg.Batch.Timeout)
	defer cancel()
	err := l.writer.Write(ctx, view)
	if err == nil && l.f.checkpoints == nil {
		err = view.BeforeCommit(ctx)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && ClassOf(err) == ClassUnknown {
		return Transient(fmt.Errorf("not done within %s: %w", l.f.cfg.Batch.Timeout, err))
	}
	return err
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
		stats.Dead = make(map[string]int)
		for i := range dead {
			stats.Dead[dead[i].Class]++
		}
	}
	l.mu.Lock()
	for i := range view.Parts {
		part := &view.Parts[i]
		for _, p := range b.parts {
			if p.Partition != part.Partition {
				continue
			}
			p.committed = part.Next
			if part.End > part.First {
				p.newest = view.Records[part.End-1].Timestamp
			}
		}
	}
	l.mu.Unlock()
	f.count(&stats)
	f.committer.poke()
}

// verify resets the lane if the checkpoint is not where the lane left it.
func (l *lane) verify(ctx context.Context) {
	if l.f.checkpoints == nil {
		return
	}
	l.mu.Lock()
	var held []*partition
	var names []Partition
	for _, p := range l.parts {
		if !p.gone && p.fencedAt.IsZero() {
			held, names = append(held, p), append(names, p.Partition)
		}
	}
	l.mu.Unlock()
	if len(names) == 0 {
		return
	}
	stored, err := l.f.checkpoints.Read(ctx, names)
	if err != nil {
		return // the next write will meet it, and say so
	}
	moved := false
	l.mu.Lock()
	for i, p := range held {
		// Only this goroutine moves committed.
		moved = moved || !p.gone && !p.seeking && (stored[i].Offset != p.committed || stored[i].Owner != p.owner)
	}
	l.mu.Unlock()
	if !moved {
		return
	}
	if err := l.reset(ctx); err != nil && ctx.Err() == nil {
		l.f.fail(err)
	}
}

// claimBack takes over again what was let go some time ago and has not been revoked
// since: the other owner was a zombie, or the checkpoint went back in time
// together with its owner epochs.
func (l *lane) claimBack(ctx context.Context) {
	var held []*partition
	l.mu.Lock()
	for _, p := range l.parts {
		if !p.gone && !p.fencedAt.IsZero() && time.Since(p.fencedAt) > idleCheck {
			held = append(held, p)
		}
	}
	l.mu.Unlock()
	for _, p := range held {
		stored, err := l.f.checkpoints.Claim(ctx, l.n, []Partition{p.Partition})
		if err != nil || stored[0].Offset < 0 {
			return // tried again with the next batch
		}
		c := &stored[0]
		l.mu.Lock()
		if !p.gone {
			p.owner, p.fencedAt, p.seeking = c.Owner, time.Time{}, true
			p.expect, p.cut, p.committed = c.Offset, c.Offset, c.Offset
		}
		l.mu.Unlock()
		l.f.log.Warn("partition claimed back: it was fenced but never revoked", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
			slog.Int64("offset", c.Offset), slog.Int64("owner_epoch", c.Owner))
		l.f.requestSeek([]Position{c.Position})
	}
}

// reset drops everything that the lane holds and reads on from what the
// checkpoint says. It follows a write that was fenced: the checkpoint was moved,
// or some partitions belong to somebody else by now, and those are let go.
func (l *lane) reset(ctx context.Context) error {
	l.mu.Lock()
	l.gen++
	var held []*partition
	var names []Partition
	for _, p := range l.parts {
		l.drop(p)
		if !p.gone && p.fencedAt.IsZero() {
			p.seeking = true
			held = append(held, p)
			names = append(names, p.Partition)
		}
	}
	l.mu.Unlock()
	l.f.roomChanged()
	if l.f.checkpoints == nil {
		return Fatal(errors.New("the sink reports a fence but keeps no checkpoint"))
	}
	var stored []Checkpoint
	err := l.f.retry(ctx, "reading the checkpoint again", func() (err error) {
		stored, err = l.f.checkpoints.Read(ctx, names)
		return err
	})
	if err != nil {
		return err
	}
	var seek []Position
	l.mu.Lock()
	for i, p := range held {
		c := stored[i]
		switch {
		case p.gone:
		case c.Offset < 0:
			err = Fatal(fmt.Errorf("the checkpoint row of %s is gone: somebody removed it while the flow ran", p.Partition))
		case c.Owner != p.owner:
			p.fencedAt = time.Now()
			l.f.log.Warn("partition belongs to another owner now: let go", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
				slog.Int64("owner_epoch", p.owner), slog.Int64("owner_epoch_now", c.Owner))
		default:
			if c.Offset != p.committed {
				l.f.log.Warn("the checkpoint was moved: reading on from where it is", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
					slog.Int64("was", p.committed), slog.Int64("now", c.Offset))
			}
			p.expect, p.cut, p.committed = c.Offset, c.Offset, c.Offset
			seek = append(seek, c.Position)
		}
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	l.f.requestSeek(seek)
	return nil
}
