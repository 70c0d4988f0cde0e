package flow

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/internal/failpoint"
)

// intake is the Flow as its source sees it.
type intake struct{ *Flow }

var _ Intake = intake{}

// revokeBound is how long Revoked waits for batches that hold the partitions.
const revokeBound = 10 * time.Second

// Assigned implements Intake.
func (f intake) Assigned(ctx context.Context, infos []PartitionInfo) ([]Position, error) {
	out := make([]Position, len(infos))
	byLane := map[*lane][]int{}
	f.mu.Lock()
	load := make([]int, len(f.lanes))
	for _, p := range f.parts {
		load[p.lane.n]++
	}
	for i, info := range infos {
		if _, err := f.cfg.routeOf(info.Topic); err != nil {
			f.mu.Unlock()
			f.fail(err)
			for i, info := range infos {
				out[i] = Position{Partition: info.Partition, TopicID: info.TopicID, Offset: -1, LeaderEpoch: -1}
			}
			return out, nil
		}
		n := slices.Index(load, slices.Min(load))
		load[n]++
		byLane[f.lanes[n]] = append(byLane[f.lanes[n]], i)
		out[i] = Position{Partition: info.Partition, TopicID: info.TopicID, Offset: -1, LeaderEpoch: -1}
	}
	f.mu.Unlock()
	for _, l := range f.lanes { // in order, so that two processes do not lock rows crosswise
		indices := byLane[l]
		if len(indices) == 0 {
			continue
		}
		if err := f.takeOver(ctx, l, infos, indices, out); err != nil {
			f.unassign(out)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			f.fail(err)
			for i := range out {
				out[i].Offset = -1
			}
			return out, nil
		}
	}
	f.log.Info("partitions assigned", slog.String("partitions", summary(out)))
	if f.cfg.Assigned != nil {
		f.cfg.Assigned(ctx, slices.DeleteFunc(slices.Clone(out), func(p Position) bool { return p.Offset < 0 }))
	}
	if f.cfg.Observer != nil {
		f.cfg.Observer.Rebalanced(len(infos), 0)
	}
	f.mu.Lock()
	f.assignments++
	f.anyPaused = true
	f.mu.Unlock()
	f.roomChanged() // the reader looks at pauses anew
	f.committer.poke()
	return out, nil
}

// summary names partitions and their offsets for a log line, the first few of many.
func summary(ps []Position) string {
	const most = 16
	var b strings.Builder
	for i, p := range ps {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(ps)-most)
			break
		}
		if p.Offset < 0 {
			continue // not to be read
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s@%d", p.Partition, p.Offset)
	}
	return b.String()
}

// unassign takes back what an Assigned that did not come to its end has done.
func (f intake) unassign(positions []Position) {
	for i := range positions {
		if positions[i].Offset < 0 {
			continue
		}
		f.mu.Lock()
		p := f.parts[positions[i].Partition]
		delete(f.parts, positions[i].Partition)
		f.mu.Unlock()
		if p != nil {
			f.removeFromLane(p)
		}
	}
}

// takeOver claims the partitions infos[indices] for lane l, and puts where to
// start them into out.
func (f intake) takeOver(ctx context.Context, l *lane, infos []PartitionInfo, indices []int, out []Position) error {
	var stored []Checkpoint
	if f.checkpoints != nil {
		var err error
		if stored, err = f.claim(ctx, l, infos, indices); err != nil {
			return err
		}
	}
	for k, i := range indices {
		info := infos[i]
		var c *Checkpoint
		p := &partition{Partition: info.Partition, topicID: info.TopicID, lane: l, epoch: -1}
		p.route, _ = f.cfg.routeOf(info.Topic) // Assigned has asked
		if stored != nil {
			c = &stored[k]
			p.owner = c.Owner
		}
		if !slices.ContainsFunc(f.origin.Partitions, func(o PartitionInfo) bool { return o.Partition == info.Partition }) {
			info.Start = info.Begin // it appeared while the flow ran
		}
		pos, err := startPosition(info, c)
		if err != nil {
			if !f.cfg.WaitOnLostPosition {
				return err
			}
			f.waitForPosition(info.Partition, err)
			continue
		}
		if p.topicID == "" {
			p.topicID = pos.TopicID
		}
		p.expect, p.cut, p.committed, p.epoch = pos.Offset, pos.Offset, pos.Offset, pos.LeaderEpoch
		p.seen(info.End, f.clock.now())
		p.told = info.Committed // the start itself is told, or a restart would resolve "latest" again
		p.unsettled = true
		out[i] = pos
		f.mu.Lock()
		old := f.parts[info.Partition]
		f.parts[info.Partition] = p
		delete(f.waiting, info.Partition)
		f.mu.Unlock()
		if old != nil {
			f.removeFromLane(old)
		}
		l.mu.Lock()
		l.parts = append(l.parts, p)
		l.mu.Unlock()
		f.log.Debug("partition assigned", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
			slog.Int("lane", l.n), slog.Int64("offset", pos.Offset), slog.Int64("owner_epoch", p.owner))
	}
	return nil
}

// claim takes the partitions over in the sink. Those without a row are new:
// they are stored at their beginning first, and claimed then.
func (f intake) claim(ctx context.Context, l *lane, infos []PartitionInfo, indices []int) (stored []Checkpoint, err error) {
	names := make([]Partition, len(indices))
	for k, i := range indices {
		names[k] = infos[i].Partition
	}
	err = f.retry(ctx, "taking over partitions", func() error {
		stored, err = f.checkpoints.Claim(ctx, l.n, names)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(stored, missing) {
			return nil
		}
		log, err := f.cfg.Source.Open(ctx) // what there is now
		if err != nil {
			return err
		}
		if err := f.addPartitions(ctx, log); err != nil {
			return err
		}
		if stored, err = f.checkpoints.Claim(ctx, l.n, names); err != nil {
			return err
		}
		if k := slices.IndexFunc(stored, missing); k >= 0 {
			return Fatal(fmt.Errorf("the checkpoint of %s is missing, but the flow has others: somebody removed the row; "+
				"put it back, or remove all rows of the flow to start anew", names[k]))
		}
		return nil
	})
	return stored, err
}

func missing(c Checkpoint) bool { return c.Offset < 0 }

func (f *Flow) removeFromLane(p *partition) {
	l := p.lane
	l.mu.Lock()
	p.gone, p.lost = true, true
	l.drop(p)
	if i := slices.Index(l.parts, p); i >= 0 {
		l.parts = slices.Delete(l.parts, i, i+1)
	}
	l.mu.Unlock()
	l.poke()
}

// Revoked implements Intake.
func (f intake) Revoked(ctx context.Context, ps []Partition, lost bool) {
	failpoint.Hit("flow.revoke")
	var held []*partition
	f.mu.Lock()
	for _, name := range ps {
		delete(f.waiting, name)
		if p := f.parts[name]; p != nil {
			held = append(held, p)
		}
	}
	f.mu.Unlock()
	for _, p := range held {
		p.lane.mu.Lock()
		p.gone, p.lost = true, lost
		p.lane.drop(p)
		p.lane.mu.Unlock()
	}
	f.roomChanged()
	if !lost {
		ctx, cancel := context.WithTimeout(ctx, revokeBound)
		defer cancel()
		for _, p := range held {
			p.lane.waitFinished(ctx, p)
		}
		_ = f.committer.commit(ctx, held) // logged; the next owner reads again what was not told
	}
	at := make([]Position, len(held))
	f.mu.Lock()
	for i, p := range held {
		if f.parts[p.Partition] == p {
			delete(f.parts, p.Partition)
		}
		at[i] = Position{Partition: p.Partition, Offset: p.position()}
	}
	f.mu.Unlock()
	if f.cfg.Revoked != nil {
		f.cfg.Revoked(ctx, ps, lost)
	}
	f.log.Info("partitions revoked", slog.String("partitions", summary(at)), slog.Bool("lost", lost))
	for _, p := range held {
		f.removeFromLane(p)
		f.log.Debug("partition revoked", slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)),
			slog.Int64("offset", p.position()), slog.Bool("lost", lost))
	}
	f.roomChanged()
	if f.cfg.Observer != nil {
		f.cfg.Observer.Rebalanced(0, len(ps))
	}
}

func (p *partition) position() int64 {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	return p.committed
}

// waitFinished returns when no batch holds p any more, or ctx ends.
func (l *lane) waitFinished(ctx context.Context, p *partition) {
	for {
		l.mu.Lock()
		done, changed := p.inflight == 0, l.finished
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.f.log.Warn("gave up a partition while a batch of it was being written: its next owner fences it",
				slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)))
			return
		}
	}
}

// Buffer implements Intake.
func (f intake) Buffer(n int) []Record { return f.buffers.Get(n) }

// maxFreeRecords bounds what the flow keeps for reuse: about a fetch for each of
// two lanes, of few partitions or of many.
const maxFreeRecords = 32 << 10

// recycle keeps a buffer for Buffer.
func (f *Flow) recycle(b []Record) {
	clear(b[:cap(b)]) // the views would keep fetch buffers alive
	f.buffers.Put(b)
}

// Deliver implements Intake.
func (f intake) Deliver(fetch Fetch) {
	f.mu.Lock()
	p := f.parts[fetch.Partition]
	f.mu.Unlock()
	if p == nil {
		f.recycle(fetch.Records)
		return
	}
	if fetch.TopicID != "" && p.topicID != "" && fetch.TopicID != p.topicID {
		f.positionLost(&PositionLostError{
			Position: Position{Partition: p.Partition, TopicID: p.topicID, Offset: p.position(), LeaderEpoch: -1},
			End:      fetch.End, TopicIDNow: fetch.TopicID,
		})
		f.recycle(fetch.Records)
		return
	}
	p.lane.deliver(p, fetch)
}

// positionLost stops the flow, or lets it wait.
func (f *Flow) positionLost(err *PositionLostError) {
	if !f.cfg.WaitOnLostPosition {
		f.fail(err)
		return
	}
	f.mu.Lock()
	p := f.parts[err.Partition]
	f.mu.Unlock()
	if p == nil {
		return
	}
	p.lane.mu.Lock()
	first := !p.gone
	p.gone = true
	p.lane.mu.Unlock()
	if first {
		f.waitForPosition(err.Partition, err)
	}
}

// waitForPosition shows and says that a partition is not read.
func (f *Flow) waitForPosition(p Partition, err error) {
	f.mu.Lock()
	f.waiting[p] = err
	f.mu.Unlock()
	f.log.Error("position lost: the partition is not read until its position is set and the flow started again",
		slog.String("topic", p.Topic), slog.Int("partition", int(p.ID)), slog.Any("error", err))
}
