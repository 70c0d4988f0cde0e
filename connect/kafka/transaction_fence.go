package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

const (
	// settleTime is how long a predecessor's transaction may take to end by itself.
	settleTime = 300 * time.Millisecond
	// fenceTimeout is the transaction timeout that a fenced id is left with, until its
	// owner asks for another.
	fenceTimeout = 10 * time.Second
)

// kept returns the offsets that the group keeps. With stable, partitions whose
// offset a transaction that is not ended may move are returned apart.
func (c *cluster) kept(ctx context.Context, group string, stable bool) (map[flow.Partition]kept, map[flow.Partition]bool, error) {
	doing := "asking for the offsets of group " + group
	ask := ctx
	if stable {
		ask = kadm.RequireStable(ctx)
	}
	resp, err := c.fetchOffsets(ask, group)
	if err != nil {
		return nil, nil, c.conn.explain(doing, err)
	}
	out, unstable := map[flow.Partition]kept{}, map[flow.Partition]bool{}
	for t, ps := range resp {
		for id, o := range ps {
			p := flow.Partition{Topic: t, ID: id}
			switch {
			case errors.Is(o.Err, kerr.UnstableOffsetCommit):
				unstable[p] = true
			case o.Err != nil:
				return nil, nil, c.conn.explain(fmt.Sprintf("%s for %s", doing, p), o.Err)
			case o.At >= 0:
				k := kept{Checkpoint: flow.Checkpoint{Position: flow.Position{Partition: p, Offset: o.At, LeaderEpoch: o.LeaderEpoch}}}
				if m, ok := parseMark(o.Metadata); ok {
					k.mark, k.marked = m, m.source != ""
					k.Owner, k.TopicID = m.owner, m.topicID
				}
				out[p] = k
			}
		}
	}
	return out, unstable, nil
}

// settle waits until no open transaction can move the offsets of the partitions.
// One that does not end soon is ended: the metadata of the offset says which. The lane whose it
// is notices, if it is alive, and goes on with what it still owns.
//
// A partition that was just assigned is settled before anybody asks for its
// offset: kgo would wait until the broker ends the transaction.
func (c *cluster) settle(ctx context.Context, group string, ps []flow.Partition, log *slog.Logger) error {
	for open := time.Now(); ; {
		_, unstable, err := c.kept(ctx, group, true)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(ps, func(p flow.Partition) bool { return unstable[p] }) {
			return nil
		}
		if time.Since(open) > settleTime {
			if err := c.fencePredecessors(ctx, group, ps, unstable, log); err != nil {
				return err
			}
			open = time.Now()
		}
		if !pause(ctx) {
			return ctx.Err()
		}
	}
}

func (c *cluster) fencePredecessors(ctx context.Context, group string, ps []flow.Partition, unstable map[flow.Partition]bool, log *slog.Logger) error {
	stored, _, err := c.kept(ctx, group, false)
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, p := range ps {
		id := stored[p].writer
		if !unstable[p] || id == "" || done[id] {
			continue
		}
		done[id] = true
		log.Warn("ending the open transaction of a predecessor", slog.String("partition", p.String()), slog.String("transactional_id", id))
		if _, err := c.fence(ctx, id, fenceTimeout); err != nil {
			return err
		}
	}
	return nil
}

// fence ends the transaction of a transactional id, by the outcome that was
// decided or by an abort, and fences its producer. Who was told the answer is the
// producer now; the broker aborts its transactions after the timeout.
func (c *cluster) fence(ctx context.Context, id string, timeout time.Duration) (*kmsg.InitProducerIDResponse, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = int32(timeout.Milliseconds()) //nolint:gosec // minutes at most
	for {
		resp, err := req.RequestWith(ctx, c.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		switch {
		case !errors.Is(err, kerr.ConcurrentTransactions):
			return resp, c.conn.explain("ending the transaction of "+id, err, mayTransact(idPrefix(id)))
		case !pause(ctx):
			return nil, ctx.Err()
		}
	}
}
