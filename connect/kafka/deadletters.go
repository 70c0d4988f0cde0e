package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

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

	// Set by Open.
	flow  string
	admin *cluster
	out   *letterProducer
	// kept is where the letters are, for LetterLog.
	kept *LetterLog
}

var _ flow.DeadLetterQueue = (*DeadLetters)(nil)

// NewDeadLetters makes the queue. It connects to nothing.
func NewDeadLetters(cfg DeadLetterConfig) (*DeadLetters, error) {
	connect.Defaults(&cfg)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &DeadLetters{cfg: cfg, log: cfg.Logger}
	if d.log == nil {
		d.log = slog.Default()
	}
	d.kept = newLetterLog(&d.cfg.Connection, d.cfg.Topic, d.log)
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
	var source *sourceTopics
	if d.cfg.Source != nil {
		if source, err = lookAtSource(ctx, d.cfg.Source, d.log); err != nil {
			return err
		}
	}
	partitions, limit, err := d.lookAtTopic(ctx, source)
	if err != nil {
		return err
	}
	if source != nil && limit > 0 && limit < source.limit {
		return flow.Fatal(d.cfg.tooSmall(limit, source))
	}
	d.out, err = newLetterProducer(&d.cfg.Connection, opts, d.cfg.Topic, partitions, limit)
	return err
}

// tooSmall is the error of a topic that cannot take all records of the source.
func (c *DeadLetterConfig) tooSmall(limit int, source *sourceTopics) error {
	return fmt.Errorf("kafka: dead-letter topic %s takes messages up to %d bytes (max.message.bytes), but source topic %s has up to %d: "+
		"a large record could never become a dead letter; raise the limit of %s to at least %d",
		c.Topic, limit, source.largest, source.limit, c.Topic, source.limit)
}

// lookAtTopic finds, or creates, the topic. The limit is its max.message.bytes; 0 if not known.
func (d *DeadLetters) lookAtTopic(ctx context.Context, source *sourceTopics) (partitions int32, limit int, err error) {
	topic := d.cfg.Topic
	clusterID, t, err := d.admin.writable(ctx, topic, d.cfg.Create)
	switch {
	case source != nil && source.clusterID == clusterID && d.cfg.Source.reads(topic):
		return 0, 0, flow.Fatal(fmt.Errorf("kafka: %w", d.cfg.loop()))
	case errors.Is(err, kerr.UnknownTopicOrPartition) && d.cfg.Create:
		return d.create(ctx, source)
	case err != nil:
		return 0, 0, err
	}
	limits, err := d.admin.limits(ctx, []string{topic}, d.log)
	return int32(len(t.Partitions)), limits[topic], err //nolint:gosec // a number of partitions
}

func (d *DeadLetters) create(ctx context.Context, source *sourceTopics) (partitions int32, limit int, err error) {
	partitions = max(d.cfg.Partitions, 1)
	if source != nil {
		if d.cfg.Partitions == 0 {
			partitions = max(source.most, 1)
		}
		limit = source.limit
	}
	return partitions, limit, d.admin.create(ctx, d.cfg.Topic, partitions, d.cfg.Replication, limit)
}

// Put implements flow.DeadLetterQueue.
func (d *DeadLetters) Put(ctx context.Context, letters []flow.DeadLetter) error {
	if d.out == nil {
		return flow.Fatal(errors.New("kafka: the dead-letter queue is not open"))
	}
	return d.out.put(ctx, func(yield func(*kgo.Record) bool) {
		for i := range letters {
			if !yield(d.out.letter(&letters[i], d.flow)) {
				return
			}
		}
	})
}

// LetterLog is where the letters are kept, for those who work with them. It needs no Open, and is
// closed by Close.
func (d *DeadLetters) LetterLog() flow.LetterLog { return d.kept }

// Close implements flow.DeadLetterQueue.
func (d *DeadLetters) Close(context.Context) error {
	d.free()
	d.kept.close()
	return nil
}

func (d *DeadLetters) free() {
	if d.out != nil {
		d.out.cl.Close()
		d.out = nil
	}
	if d.admin != nil {
		d.admin.close()
		d.admin = nil
	}
}
