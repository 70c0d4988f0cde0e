package kafka

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

// letterProducer writes to a dead-letter topic: at least once, durable on all in-sync
// replicas.
type letterProducer struct {
	conn  *Connection
	topic string
	cl    *kgo.Client
	// turn holds one token: whoever has it puts. Letters of one put at a time
	// keep every produced batch below the topic's size limit.
	turn       chan struct{}
	partitions int32
	limit      int // max.message.bytes of the topic; 0 if not known
}

func newLetterProducer(conn *Connection, opts []kgo.Opt, topic string, partitions int32, limit int) (*letterProducer, error) {
	cl, err := kgo.NewClient(append(slices.Clone(opts),
		kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// The source's batches may be compressed: a record that is larger than the
		// topic's limit has to be, too.
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
		kgo.ProducerLinger(0),
		// One letter is one batch if it is large; the broker judges its size.
		kgo.BrokerMaxWriteBytes(1<<30), kgo.ProducerBatchMaxBytes(1<<30-1<<20),
		kgo.RecordDeliveryTimeout(time.Minute))...)
	if err != nil {
		return nil, flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	return &letterProducer{conn: conn, topic: topic, cl: cl, turn: make(chan struct{}, 1), partitions: partitions, limit: limit}, nil
}

// letter is the record of a letter. Those of one source partition go to one partition.
func (p *letterProducer) letter(l *flow.DeadLetter, flowName string) *kgo.Record {
	r := letterRecord(l, flowName)
	r.Partition = l.ID % p.partitions
	return r
}

// room is how much is produced together: what may become one batch. Half of the limit
// leaves room for its framing.
func (p *letterProducer) room() int {
	if p.limit > 0 {
		return p.limit / 2
	}
	return 512 << 10
}

// put returns when all records are durable. One that alone is larger than there is
// room goes alone, and passes if it was within the limit, compressed, where it comes from.
func (p *letterProducer) put(ctx context.Context, records iter.Seq[*kgo.Record]) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return p.putError(ctx.Err())
	}
	var chunk []*kgo.Record
	size := 0
	for r := range records {
		n := recordSize(r)
		if len(chunk) > 0 && size+n > p.room() {
			if err := p.produce(ctx, chunk); err != nil {
				return err
			}
			chunk, size = nil, 0
		}
		chunk, size = append(chunk, r), size+n
	}
	return p.produce(ctx, chunk)
}

// produce returns when all records are durable, or ctx ends. kgo may deliver
// what it holds then; that is why records are copies, and letters have an id.
func (p *letterProducer) produce(ctx context.Context, records []*kgo.Record) error {
	results := make(chan error, len(records))
	for _, r := range records {
		p.cl.Produce(ctx, r, func(_ *kgo.Record, err error) { results <- err })
	}
	for range records {
		select {
		case err := <-results:
			if err != nil {
				return p.putError(err)
			}
		case <-ctx.Done():
			return p.putError(ctx.Err())
		}
	}
	return nil
}

func (p *letterProducer) putError(err error) error {
	doing := "writing to dead-letter topic " + p.topic
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return flow.Fatal(fmt.Errorf("kafka: %s: %w; raise its max.message.bytes (now %d) above the largest record of the source", doing, err, p.limit))
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries), errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return flow.Transient(fmt.Errorf("kafka: %s (brokers %s): %w; check that the topic exists and has enough in-sync replicas", doing, p.conn.addresses(), err))
	}
	return p.conn.explain(doing, err, mayWrite(p.topic), mayWriteIdempotently())
}
