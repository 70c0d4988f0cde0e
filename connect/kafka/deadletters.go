package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// DeadLetterConfig is the configuration of DeadLetters.
type DeadLetterConfig struct {
	Connection

	Topic       string `yaml:"topic" required:"true" doc:"Topic that receives the dead letters."`
	Create      bool   `yaml:"create" doc:"Create the topic if it does not exist, with the size limit of the source's topics."`
	Partitions  int32  `yaml:"partitions" doc:"Partitions of a topic that is created. Default: as many as the source's largest topic."`
	Replication int32  `yaml:"replication" doc:"Replicas of a topic that is created. Default: the cluster's."`

	// Source is the flow's source, if it is Kafka: its topics must not contain
	// Topic, and their records must fit. Complete sets it.
	Source *SourceConfig `yaml:"-"`
	// Logger is told what could not be checked; nil: slog.Default().
	Logger *slog.Logger `yaml:"-"`
}

// Complete takes the connection from the flow's Kafka source where none is
// configured. For the registry.
func (c *DeadLetterConfig) Complete(with connect.Context) error {
	source, ok := with.Source.(*SourceConfig)
	if !ok || source == nil {
		return nil
	}
	c.Source = source
	c.complete(&source.Connection)
	return nil
}

// Validate refuses impossible combinations with a *connect.FieldError for each
// of them.
func (c *DeadLetterConfig) Validate() error {
	var errs []error
	errs = append(errs, c.missing(), c.Connection.Validate())
	switch {
	case !isTopicName(c.Topic):
		errs = append(errs, connect.Errorf("topic", "%q is not a topic's name: want 1 to 249 letters, digits, dots, dashes or underscores", c.Topic))
	case c.Source != nil && c.Source.reads(c.Topic) && slices.ContainsFunc(c.Brokers, func(b string) bool { return slices.Contains(c.Source.Brokers, b) }):
		// Clusters that have no address in common are compared when they are open.
		errs = append(errs, connect.Errorf("topic", "%w", c.loop()))
	}
	switch {
	case !c.Create && (c.Partitions != 0 || c.Replication != 0):
		errs = append(errs, connect.Errorf("create", "partitions and replication are those of a topic that is created; set create: true, or remove them"))
	case c.Partitions < 0:
		errs = append(errs, connect.Errorf("partitions", "%d is not a number of partitions", c.Partitions))
	case c.Replication < 0 || c.Replication > 1<<15-1:
		errs = append(errs, connect.Errorf("replication", "%d is not a number of replicas", c.Replication))
	}
	return errors.Join(errs...)
}

// loop is the error of a topic that the flow itself reads.
func (c *DeadLetterConfig) loop() error {
	return fmt.Errorf("%s is the dead-letter topic and one of the %s that the flow reads: a dead letter would come back as a record; "+
		"use another topic, or a pattern that does not match it", c.Topic, c.Source.what())
}

// DeadLetters writes dead letters to a topic: at least once, durable on all
// in-sync replicas, those of one source partition in order in one partition.
type DeadLetters struct {
	cfg DeadLetterConfig
	log *slog.Logger

	// turn holds one token: whoever has it puts. Letters of one Put at a time
	// keep every produced batch below the topic's size limit.
	turn chan struct{}
	// Set by Open.
	flow       string
	admin      *cluster
	cl         *kgo.Client
	partitions int32
	limit      int // max.message.bytes of the topic; 0 if not known
}

var _ flow.DeadLetterQueue = (*DeadLetters)(nil)

// NewDeadLetters makes the queue. It connects to nothing.
func NewDeadLetters(cfg DeadLetterConfig) (*DeadLetters, error) {
	connect.Defaults(&cfg)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &DeadLetters{cfg: cfg, log: cfg.Logger, turn: make(chan struct{}, 1)}
	if d.log == nil {
		d.log = slog.Default()
	}
	return d, nil
}

// Open implements flow.DeadLetterQueue. It may be called again after an error.
func (d *DeadLetters) Open(ctx context.Context, setup flow.Setup) error {
	d.free()
	ctx, cancel := context.WithTimeout(ctx, 2*answerTimeout)
	defer cancel()
	opts, err := d.cfg.options(d.log)
	if err != nil {
		return flow.Fatal(err)
	}
	d.flow = setup.Flow
	if d.admin, err = newCluster(&d.cfg.Connection, opts); err != nil {
		return err
	}
	d.limit = 0
	var source *sourceTopics
	if d.cfg.Source != nil {
		if source, err = lookAtSource(ctx, d.cfg.Source, d.log); err != nil {
			return err
		}
	}
	if err := d.lookAtTopic(ctx, source); err != nil {
		return err
	}
	if source != nil && d.limit > 0 && d.limit < source.limit {
		return flow.Fatal(fmt.Errorf("kafka: dead-letter topic %s takes messages up to %d bytes (max.message.bytes), but source topic %s has up to %d: "+
			"a large record could never become a dead letter; raise the limit of %s to at least %d",
			d.cfg.Topic, d.limit, source.largest, source.limit, d.cfg.Topic, source.limit))
	}
	d.cl, err = kgo.NewClient(append(slices.Clone(opts),
		kgo.DefaultProduceTopic(d.cfg.Topic),
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
		return flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	return nil
}

// lookAtTopic finds, or creates, the topic.
func (d *DeadLetters) lookAtTopic(ctx context.Context, source *sourceTopics) error {
	topic := d.cfg.Topic
	clusterID, t, err := d.admin.writable(ctx, topic, d.cfg.Create)
	switch {
	case source != nil && source.clusterID == clusterID && d.cfg.Source.reads(topic):
		return flow.Fatal(fmt.Errorf("kafka: %w", d.cfg.loop()))
	case errors.Is(err, kerr.UnknownTopicOrPartition) && d.cfg.Create:
		return d.create(ctx, source)
	case err != nil:
		return err
	}
	d.partitions = int32(len(t.Partitions)) //nolint:gosec // a number of partitions
	limits, err := d.admin.limits(ctx, []string{topic}, d.log)
	d.limit = limits[topic]
	return err
}

func (d *DeadLetters) create(ctx context.Context, source *sourceTopics) error {
	d.partitions = max(d.cfg.Partitions, 1)
	if source != nil {
		if d.cfg.Partitions == 0 {
			d.partitions = max(source.most, 1)
		}
		d.limit = source.limit
	}
	return d.admin.create(ctx, d.cfg.Topic, d.partitions, d.cfg.Replication, d.limit)
}

// Put implements flow.DeadLetterQueue.
func (d *DeadLetters) Put(ctx context.Context, letters []flow.DeadLetter) error {
	if d.cl == nil {
		return flow.Fatal(errors.New("kafka: the dead-letter queue is not open"))
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return d.putError(ctx.Err())
	}
	// What is produced together may become one batch. Half of the limit leaves
	// room for its framing; a letter that alone is larger goes alone, and
	// passes if it was within the limit, compressed, where it comes from.
	limit := 512 << 10
	if d.limit > 0 {
		limit = d.limit / 2
	}
	var chunk []*kgo.Record
	size := 0
	for i := range letters {
		r := letterRecord(&letters[i], d.flow)
		r.Partition = letters[i].ID % d.partitions
		n := recordSize(r)
		if len(chunk) > 0 && size+n > limit {
			if err := d.produce(ctx, chunk); err != nil {
				return err
			}
			chunk, size = nil, 0
		}
		chunk, size = append(chunk, r), size+n
	}
	return d.produce(ctx, chunk)
}

// produce returns when all records are durable, or ctx ends. kgo may deliver
// what it holds then; that is why records are copies, and letters have an id.
func (d *DeadLetters) produce(ctx context.Context, records []*kgo.Record) error {
	results := make(chan error, len(records))
	for _, r := range records {
		d.cl.Produce(ctx, r, func(_ *kgo.Record, err error) { results <- err })
	}
	for range records {
		select {
		case err := <-results:
			if err != nil {
				return d.putError(err)
			}
		case <-ctx.Done():
			return d.putError(ctx.Err())
		}
	}
	return nil
}

func (d *DeadLetters) putError(err error) error {
	doing := "writing to dead-letter topic " + d.cfg.Topic
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return flow.Fatal(fmt.Errorf("kafka: %s: %w; raise its max.message.bytes (now %d) above the largest record of the source", doing, err, d.limit))
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries), errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return flow.Transient(fmt.Errorf("kafka: %s (brokers %s): %w; check that the topic exists and has enough in-sync replicas", doing, d.cfg.addresses(), err))
	}
	return d.cfg.explain(doing, err, mayWrite(d.cfg.Topic), mayWriteIdempotently())
}

// Close implements flow.DeadLetterQueue.
func (d *DeadLetters) Close(context.Context) error {
	d.free()
	return nil
}

func (d *DeadLetters) free() {
	if d.cl != nil {
		d.cl.Close()
		d.cl = nil
	}
	if d.admin != nil {
		d.admin.close()
		d.admin = nil
	}
}
