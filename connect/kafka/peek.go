package kafka

import (
	"context"
	"errors"
	"fmt"

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
	offsets, ids := map[string]map[int32]kgo.Offset{}, map[string]string{}
	for _, p := range from {
		ids[p.Topic] = p.TopicID
		if p.Offset >= ends[p.Partition] {
			delete(ends, p.Partition)
			continue
		}
		if offsets[p.Topic] == nil {
			offsets[p.Topic] = map[int32]kgo.Offset{}
		}
		offsets[p.Topic][p.ID] = kgo.NewOffset().At(p.Offset)
	}
	if len(offsets) == 0 {
		return nil
	}
	opts, err := s.cfg.options(s.log)
	if err != nil {
		return flow.Fatal(err)
	}
	level := kgo.ReadUncommitted()
	if s.cfg.Isolation == readCommitted {
		level = kgo.ReadCommitted()
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(offsets),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(), // else an aborted tail would be waited for
		kgo.FetchMaxWait(s.cfg.Fetch.Wait),
		kgo.WithDecompressor(newDecompressor(c.cl)),
	)...)
	if err != nil {
		return flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	defer cl.Close()
	return s.peek(ctx, cl, ends, n, func(f flow.Fetch) {
		f.TopicID = ids[f.Topic]
		deliver(f)
	})
}

// peek polls until the partitions have been read up to ends, or n records.
func (s *Source) peek(ctx context.Context, cl *kgo.Client, ends map[flow.Partition]int64, n int, deliver func(flow.Fetch)) error {
	count := 0
	for count < n && len(ends) > 0 && ctx.Err() == nil {
		var failure error
		cl.PollFetches(ctx).EachPartition(func(p kgo.FetchTopicPartition) {
			name := flow.Partition{Topic: p.Topic, ID: p.Partition}
			if p.Err != nil && !ended(p.Err) && failure == nil {
				var large *kgo.ErrDecompressTooLarge
				if failure = s.cfg.explain("reading "+name.String(), p.Err); errors.As(p.Err, &large) {
					failure = s.cfg.tooLarge(name, large.Offset)
				}
			}
			if len(p.Records) == 0 {
				return
			}
			last := p.Records[len(p.Records)-1]
			if last.Offset+1 >= ends[name] {
				delete(ends, name)
			}
			records := views(make([]flow.Record, 0, len(p.Records)), p.Records)
			count += len(records)
			deliver(flow.Fetch{
				Partition: name, Records: records,
				Next: last.Offset + 1, LeaderEpoch: last.LeaderEpoch, End: p.HighWatermark,
			})
		})
		if failure != nil {
			return failure
		}
	}
	return nil
}
