package kafka

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
)

// SinkConfig is the configuration of a Sink. The zero value of a field means
// the default in its tag.
type SinkConfig struct {
	Connection

	Topic     string `yaml:"topic" required:"true" doc:"Topic to write to. {topic} stands for the name of the topic that a record was read from: mirror.{topic}."`
	Partition string `yaml:"partition" default:"keep" enum:"keep,key,sticky" doc:"Which partition a record goes to. keep: that of the same number as it was read from, which keeps the order; the target needs as many. key: by a hash of the key (murmur2, as Java's clients), so that a key's records keep their order; records without a key go anywhere. sticky: anywhere, a batch at a time."`

	Delivery           string        `yaml:"delivery" default:"exactly_once" enum:"exactly_once,at_least_once" doc:"exactly_once: records, dead letters and the group's offsets in one transaction; the source must be Kafka, in the same cluster, and readers must read committed records only. The positions are the group's offsets: the broker forgets them when the flow does not run for offsets.retention.minutes (a week as a rule). at_least_once: records may be written again after a failure."`
	TransactionTimeout time.Duration `yaml:"transaction_timeout" default:"10s" doc:"The broker aborts a transaction that is open for this long. So it is also how long readers of committed records wait behind one that a killed process has left; a batch must be written in less. Bounded by the broker's transaction.max.timeout.ms."`

	DeadLetterTopic string `yaml:"dead_letter_topic" doc:"Topic of the same cluster that takes records that cannot be written, in the transaction of their batch. Default: none; the flow's dead_letters are used, if there are any."`

	Compression string `yaml:"compression" default:"snappy" enum:"none,gzip,snappy,lz4,zstd" doc:"How batches are compressed. zstd is smallest, snappy costs least, none is right where network and disks are idle."`

	Create      bool  `yaml:"create" doc:"Create topics that do not exist, with as many partitions as the topic that is read (the largest one, if several go into one), and its size limit."`
	Replication int32 `yaml:"replication" doc:"Replicas of topics that are created. Default: the cluster's."`

	// Source is the flow's source, if it is Kafka: its topics must not be written
	// to, and say how many partitions are needed. Complete sets it.
	Source *SourceConfig `yaml:"-"`
	// Logger is told what could not be checked; nil: slog.Default().
	Logger *slog.Logger `yaml:"-"`
}

// What SinkConfig.Delivery can be.
const (
	deliverExactlyOnce = "exactly_once"
	deliverAtLeastOnce = "at_least_once"
)

// topicOfSource stands in SinkConfig.Topic for the topic that a record was read from.
const topicOfSource = "{topic}"

// Complete takes the connection from the flow's Kafka source where none is
// configured. For the registry.
func (c *SinkConfig) Complete(with connect.Context) error {
	source, ok := with.Source.(*SourceConfig)
	if !ok || source == nil {
		if c.Delivery == deliverExactlyOnce || c.Delivery == "" {
			return connect.Errorf("delivery", "exactly_once needs a Kafka source in the same cluster: its group keeps the positions; set delivery: at_least_once")
		}
		return nil
	}
	c.Source = source
	c.complete(&source.Connection)
	return nil
}

// Validate refuses impossible combinations with a *connect.FieldError for each
// of them.
func (c *SinkConfig) Validate() error {
	var errs []error
	errs = append(errs, c.missing(), c.Connection.Validate(), c.validateTopics())
	if c.TransactionTimeout < time.Second || c.TransactionTimeout > 15*time.Minute {
		errs = append(errs, connect.Errorf("transaction_timeout", "%s is out of range; want 1s to 15m", c.TransactionTimeout))
	}
	switch {
	case !c.Create && c.Replication != 0:
		errs = append(errs, connect.Errorf("create", "replication is that of a topic that is created; set create: true, or remove it"))
	case c.Replication < 0 || c.Replication > 1<<15-1:
		errs = append(errs, connect.Errorf("replication", "%d is not a number of replicas", c.Replication))
	}
	return errors.Join(errs...)
}

func (c *SinkConfig) validateTopics() error {
	var errs []error
	if example := c.target("t"); !isTopicName(example) {
		errs = append(errs, connect.Errorf("topic", "%q is not a topic's name: want 1 to 249 letters, digits, dots, dashes or underscores, and %s for that of the source", c.Topic, topicOfSource))
	}
	switch {
	case c.DeadLetterTopic == "":
	case !isTopicName(c.DeadLetterTopic):
		errs = append(errs, connect.Errorf("dead_letter_topic", "%q is not a topic's name: want 1 to 249 letters, digits, dots, dashes or underscores", c.DeadLetterTopic))
	case c.DeadLetterTopic == c.Topic:
		errs = append(errs, connect.Errorf("dead_letter_topic", "%s is the topic that takes the records: use another one", c.Topic))
	}
	if c.Source != nil && slices.ContainsFunc(c.Brokers, func(b string) bool { return slices.Contains(c.Source.Brokers, b) }) {
		// Clusters that have no address in common are compared when they are open.
		errs = append(errs, c.loop(c.Source.Topics))
	}
	return errors.Join(errs...)
}

// loop is the error of a flow that would read what it writes; topics are those
// that it reads by now.
func (c *SinkConfig) loop(topics []string) error {
	const why = "%s is written to, and is one of the %s that the flow reads: it would read what it has written; " +
		"use another topic, or a pattern that does not match it"
	targets := []string{c.Topic}
	if strings.Contains(c.Topic, topicOfSource) {
		targets = nil
		for _, t := range topics {
			targets = append(targets, c.target(t))
		}
	}
	for _, t := range targets {
		if c.Source.reads(t) {
			return connect.Errorf("topic", why, t, c.Source.what())
		}
	}
	if c.DeadLetterTopic != "" && c.Source.reads(c.DeadLetterTopic) {
		return connect.Errorf("dead_letter_topic", why, c.DeadLetterTopic, c.Source.what())
	}
	return nil
}

// target is the topic that takes records of the source's topic.
func (c *SinkConfig) target(source string) string {
	return strings.ReplaceAll(c.Topic, topicOfSource, source)
}

func (c *SinkConfig) codec() kgo.CompressionCodec {
	switch c.Compression {
	case "gzip":
		return kgo.GzipCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	case "none":
		return kgo.NoCompression()
	}
	return kgo.SnappyCompression()
}

func (c *SinkConfig) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}
