package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/failpoint"
)

const (
	// linger keeps kgo from sending before a batch is full: what is left goes
	// with the flush at the end.
	linger = 5 * time.Second
	// largestWrite bounds one request, as kgo and the brokers do by default.
	largestWrite = 99 << 20
)

// producer produces what one lane writes, over a client of its own: a lane waits
// for its own records only, and in a transaction fails alone.
//
// kgo reads the batch's bytes until it has called a record's promise; nothing
// here returns before all promises were called.
type producer struct {
	s  *Sink
	cl *kgo.Client // nil until the first Write, and after errors
	// large says that the client takes records of any size. It leaves what becomes one
	// batch, which the broker bounds, to the producer, which flushes in between.
	large bool
	// made is the limit of a batch that the client was made with.
	made int

	records []kgo.Record // reused; those of row i at i less the first row
	headers []kgo.RecordHeader
	targets []*target // by part
	limit   int       // of a batch in bytes, for any topic
	promise func(*kgo.Record, error)

	// Written by promises, which kgo calls one after the other; read after a flush.
	err   error
	topic string // that err is about
}

func newProducer(s *Sink) *producer {
	p := &producer{s: s}
	p.promise = p.done
	return p
}

func (p *producer) done(r *kgo.Record, err error) {
	if err != nil && p.err == nil {
		p.err, p.topic = err, r.Topic
	}
}

// prepare finds the target of each part, and says whether records are so large
// that they need a client for such. Those that are surely too large for the
// topic are a data error.
func (p *producer) prepare(ctx context.Context, b *flow.Batch, letters []flow.DeadLetter) (large bool, err error) {
	p.targets = p.targets[:0]
	for k := range b.Parts {
		t, err := p.s.targetFor(ctx, &b.Parts[k])
		if err != nil {
			return false, err
		}
		p.targets = append(p.targets, t)
	}
	largest, err := p.largest(ctx, b)
	if err != nil {
		return false, err
	}
	for i := range letters {
		largest = max(largest, batchOf(letters[i].Record)+letterOverhead)
	}
	p.limit = p.s.smallest()
	return largest > p.limit, nil
}

// largest returns the size of the largest row, or the error of rows that are
// surely too large for their topic, by its limit as it is now.
func (p *producer) largest(ctx context.Context, b *flow.Batch) (largest int, err error) {
	var rows []int
	var first *target // of the rows
	for k := range b.Parts {
		part, fresh, most := &b.Parts[k], false, p.most(p.targets[k])
		for i := b.Next(part.First); i >= 0 && i < part.End; i = b.Next(i + 1) {
			size := batchOf(&b.Records[i])
			largest = max(largest, size)
			if size <= most {
				continue
			}
			if !fresh && size <= largestWrite { // the limit may have been raised
				t, err := p.s.find(ctx, p.targets[k].name, p.targets[k].partitions, p.targets[k].limit)
				if err != nil {
					return 0, err
				}
				p.targets[k], fresh, most = t, true, p.most(t)
				if size <= most {
					continue
				}
			}
			if rows = append(rows, i); first == nil {
				first = p.targets[k]
			}
		}
	}
	if rows == nil {
		return largest, nil
	}
	return 0, oversized(b, rows, first)
}

// most is how large a record of the topic can be, before it is compressed.
func (p *producer) most(t *target) int {
	if p.s.cfg.Compression == "none" && t.limit > 0 {
		return min(t.limit, largestWrite)
	}
	return largestWrite
}

// oversized is the error of rows that the topic does not take.
func oversized(b *flow.Batch, rows []int, t *target) error {
	err := fmt.Errorf("the record has %d bytes, and topic %s takes messages up to %d (max.message.bytes)",
		batchOf(&b.Records[rows[0]]), t.name, min(cmp.Or(t.limit, largestWrite), largestWrite))
	return &flow.DataError{Rows: rows, Err: &flow.RecordError{Class: "oversized", Err: err}}
}

// batchOf bounds the size of a batch that holds the record alone, uncompressed.
func batchOf(r *flow.Record) int {
	const framing = 61 + 24 // of the batch; lengths in the record
	n := len(r.Key) + len(r.Value) + framing
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + 10
	}
	return n
}

// letterOverhead bounds what a dead letter has beside the record.
const letterOverhead = maxMessage + 2<<10

// targetFor returns the topic that takes the records of the part.
func (s *Sink) targetFor(ctx context.Context, part *flow.Part) (*target, error) {
	name := part.Topic
	if name = s.cfg.target(name); name == "" {
		return nil, flow.Fatal(errors.New("kafka: the source's topic has no name"))
	}
	t := s.known(name)
	if t != nil && (s.cfg.Partition != partitionKeep || part.ID < t.partitions) {
		return t, nil
	}
	// The topic, or the partition, appeared while the flow ran.
	partitions := part.ID + 1
	if t == nil && s.cfg.Create && s.cfg.Source != nil {
		source, err := lookAtSource(ctx, s.cfg.Source, s.log)
		if err != nil {
			return nil, err
		}
		partitions = max(partitions, source.partitions[part.Topic])
	}
	t, err := s.find(ctx, name, partitions, 0)
	if err != nil {
		return nil, err
	}
	if s.cfg.Partition == partitionKeep && part.ID >= t.partitions {
		return nil, flow.Transient(fmt.Errorf("kafka: topic %s has %d partitions, and %s is to be kept in the partition of its number (partition: keep): add partitions to %s",
			name, t.partitions, part.Partition, name))
	}
	return t, nil
}

// connect makes the client, unless there is one of the kind. With a transactional
// id its transactions are its own.
func (p *producer) connect(large bool, opts []kgo.Opt) error {
	batch := p.limit
	if large {
		batch = largestWrite
	}
	if p.cl != nil && p.made == batch {
		return nil
	}
	p.drop()
	cfg := &p.s.cfg
	cl, err := kgo.NewClient(append(slices.Concat(p.s.opts, []kgo.Opt{
		kgo.RecordPartitioner(newPartitioner(cfg.Partition, cfg.DeadLetterTopic)),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(cfg.codec(), kgo.NoCompression()),
		kgo.ProducerLinger(linger),
		kgo.ProducerBatchMaxBytes(int32(batch)), //nolint:gosec // at most largestWrite
		kgo.MaxBufferedRecords(math.MaxInt),     // the flow bounds what it buffers
		kgo.MetadataMinAge(250 * time.Millisecond),
	}), opts...)...)
	if err != nil {
		return flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	p.cl, p.large, p.made = cl, large, batch
	return nil
}

// drop closes the client. A transaction that is open is aborted by the next
// client of the same transactional id, or the broker.
func (p *producer) drop() {
	if p.cl != nil {
		p.cl.Close()
		p.cl = nil
	}
}

// produce produces the rows and the dead letters. Nothing of them is in kgo's
// hands when it returns; without an error all are durable.
func (p *producer) produce(ctx context.Context, b *flow.Batch, letters []flow.DeadLetter) error {
	p.err, p.topic = nil, ""
	whole := context.WithoutCancel(ctx) // records end together, with a flush
	first := max(0, b.Next(0))
	if n := b.Len(); len(p.records) < n {
		p.records = make([]kgo.Record, n)
	}
	defer func() {
		clear(p.records[:b.Len()]) // the batch's bytes must not outlive it
		clear(p.headers)
		p.headers = p.headers[:0]
	}()
	room := p.limit / 2 // half of the limit leaves some for the framing
	for k := range b.Parts {
		part, name := &b.Parts[k], p.targets[k].name
		for i := b.Next(part.First); i >= 0 && i < part.End; i = b.Next(i + 1) {
			from, r := &b.Records[i], &p.records[i-first]
			r.Topic, r.Partition = name, part.ID
			r.Key, r.Value = from.Key, from.Value
			r.Timestamp = time.UnixMicro(from.Timestamp)
			r.Headers = p.header(from.Headers)
			if p.large {
				size := batchOf(from)
				if size > room { // there is no room in this batch
					if err := p.flush(ctx); err != nil {
						return err
					}
					room = p.limit / 2
				}
				room -= size
				if size > p.limit/2 {
					p.cl.Produce(whole, r, p.promise)
					if err := p.flush(ctx); err != nil {
						if data, ok := errors.AsType[*flow.DataError](err); ok && data.Rows == nil {
							return oversized(b, []int{i}, p.targets[k])
						}
						return err
					}
					room = p.limit / 2
					continue
				}
			}
			p.cl.Produce(whole, r, p.promise)
		}
	}
	failpoint.Hit("sink.in_copy")
	if len(letters) > 0 {
		if err := p.letters(ctx, letters); err != nil {
			return err
		}
	}
	return p.flush(ctx)
}

func (p *producer) letters(ctx context.Context, letters []flow.DeadLetter) error {
	failpoint.Hit("sink.dead_letter")
	whole := context.WithoutCancel(ctx)
	for i := range letters {
		r := letterRecord(&letters[i], p.s.setup.Flow)
		r.Topic, r.Partition = p.s.cfg.DeadLetterTopic, letters[i].ID%p.s.letters
		p.cl.Produce(whole, r, p.promise)
		if p.large { // one letter is one batch
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// header converts the headers of one record.
func (p *producer) header(headers []flow.Header) []kgo.RecordHeader {
	if len(headers) == 0 {
		return nil
	}
	at := len(p.headers)
	for i := range headers {
		p.headers = append(p.headers, kgo.RecordHeader(headers[i]))
	}
	return p.headers[at:len(p.headers):len(p.headers)]
}

// flush waits until everything that was produced is acknowledged, or has
// failed; when ctx ends, everything has.
func (p *producer) flush(ctx context.Context) error {
	if err := p.cl.Flush(ctx); err != nil {
		p.cl.UnsafeAbortBufferedRecords()
		_ = p.cl.Flush(context.WithoutCancel(ctx)) // only promises are left to be called
		return p.s.writeError(p.s.cfg.Topic, err)
	}
	if p.err != nil {
		if !p.large && errors.Is(p.err, kerr.MessageTooLarge) {
			p.s.forget(p.topic) // its limit was lowered: the next attempt looks at it again
		}
		return p.s.writeError(p.topic, p.err)
	}
	return nil
}

// refused gives what a broker said a class and words. needs are rights that it
// takes beside those to write.
func (s *Sink) refused(doing, topic string, err error, needs ...right) error {
	is := func(errs ...error) bool {
		return slices.ContainsFunc(errs, func(e error) bool { return errors.Is(err, e) })
	}
	said := fmt.Errorf("kafka: %s (brokers %s): %w", doing, s.cfg.addresses(), err)
	switch {
	case flow.ClassOf(err) != flow.ClassUnknown:
		return err
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge) && topic == s.cfg.DeadLetterTopic:
		return flow.Fatal(fmt.Errorf("%w; raise its max.message.bytes above the largest record of the source", said))
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge):
		return &flow.DataError{Err: &flow.RecordError{Class: "oversized", Err: said}}
	case is(kerr.InvalidRecord, kerr.InvalidTimestamp):
		return &flow.DataError{Err: said}
	case is(kerr.UnknownTopicOrPartition, kerr.UnknownTopicID):
		return flow.Transient(fmt.Errorf("%w; check that the topic exists", said))
	case is(kerr.TransactionAbortable, kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.ConcurrentTransactions,
		kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState, kerr.OperationNotAttempted,
		kgo.ErrRecordTimeout, kgo.ErrRecordRetries, kgo.ErrAborting, kgo.ErrClientClosed):
		return flow.Transient(said)
	}
	return s.cfg.explain(doing, err, append(needs, mayWrite(topic), mayWriteIdempotently(), mayTransact(s.setup.Flow+"-"))...)
}
