package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

var _ flow.Peeker = (*Source)(nil)

// Peek implements flow.Peeker: it reads the partitions directly, without the
// group.
func (s *Source) Peek(ctx context.Context, from []flow.Position, n int, deliver func(flow.Fetch)) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	parts := make([]flow.Partition, len(from))
	for i := range from {
		parts[i] = from[i].Partition
	}
	ends, err := c.listOffsets(ctx, parts, s.cfg.isolation(), atLatest)
	if err != nil {
		return err
	}
	opts, err := s.cfg.options(s.log)
	if err != nil {
		return flow.Fatal(err)
	}
	opts = append(opts, kgo.FetchMaxWait(s.cfg.Fetch.Wait), kgo.WithDecompressor(newDecompressor(c.cl)))
	count := 0
	err = scan(ctx, &s.cfg.Connection, opts, s.cfg.isolation(), from, ends, func() bool { return count < n }, func(f flow.Fetch) {
		count += len(f.Records)
		deliver(f)
	})
	if large, ok := errors.AsType[*kgo.ErrDecompressTooLarge](err); ok {
		return s.cfg.tooLarge(flow.Partition{Topic: large.Topic, ID: large.Partition}, large.Offset)
	}
	return err
}

// stallTime is how long scan waits for records that are there.
const stallTime = 30 * time.Second

// scan reads partitions directly, without a group, from positions up to ends,
// for as long as more says so; opts are those of the connection. It returns nil when ctx ends.
func scan(ctx context.Context, conn *Connection, opts []kgo.Opt, isolation int8, from []flow.Position, ends map[flow.Partition]int64,
	more func() bool, deliver func(flow.Fetch),
) error {
	offsets, ids, missing := map[string]map[int32]kgo.Offset{}, map[flow.Partition]string{}, map[flow.Partition]bool{}
	for _, p := range from {
		if p.Offset >= ends[p.Partition] {
			continue
		}
		ids[p.Partition], missing[p.Partition] = p.TopicID, true
		if offsets[p.Topic] == nil {
			offsets[p.Topic] = map[int32]kgo.Offset{}
		}
		offsets[p.Topic][p.ID] = kgo.NewOffset().At(p.Offset)
	}
	if len(missing) == 0 {
		return nil
	}
	level := kgo.ReadUncommitted()
	if isolation == isolationCommitted {
		level = kgo.ReadCommitted()
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(offsets),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(), // else an aborted tail would be waited for
	)...)
	if err != nil {
		return flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	defer cl.Close()
	for more() && len(missing) > 0 && ctx.Err() == nil {
		var failure error
		poll, cancel := context.WithTimeout(ctx, stallTime)
		fetches := cl.PollFetches(poll)
		stalled := poll.Err() != nil && ctx.Err() == nil
		cancel()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			name := flow.Partition{Topic: p.Topic, ID: p.Partition}
			if p.Err != nil && !ended(p.Err) && failure == nil {
				failure = conn.explain("reading "+name.String(), p.Err)
			}
			if len(p.Records) == 0 {
				return
			}
			last := p.Records[len(p.Records)-1]
			if last.Offset+1 >= ends[name] {
				delete(missing, name)
			}
			deliver(flow.Fetch{
				Partition: name, TopicID: ids[name], Records: views(make([]flow.Record, 0, len(p.Records)), p.Records),
				Next: last.Offset + 1, LeaderEpoch: last.LeaderEpoch, End: p.HighWatermark,
			})
		})
		switch {
		case failure != nil:
			return failure
		case stalled:
			return conn.explain(fmt.Sprintf("reading %d partitions to their end", len(missing)), context.DeadlineExceeded)
		}
	}
	return nil
}
