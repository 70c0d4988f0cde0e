package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// SourceConfig is the configuration of a Source. The zero value of a field
// means the default in its tag.
type SourceConfig struct {
	Connection `required:"brokers"`

	Topics  []string `yaml:"topics" doc:"Topics to read. Either this or pattern."`
	Pattern string   `yaml:"pattern" doc:"Regular expression (RE2): every topic whose name it matches is read, those that appear later too. Internal topics never. Either this or topics."`

	Group      string `yaml:"group" doc:"Consumer group. Default: the flow's name. A group belongs to one flow and one target: members of one group share the partitions, so a second flow, or the same flow into another database, needs a group of its own."`
	InstanceID string `yaml:"instance_id" doc:"Static membership: a name that this process alone has in the group. After a restart within session_timeout it gets its partitions back without a rebalance; in return it does not leave the group when it stops."`

	Start     string `yaml:"start" default:"earliest" doc:"Where a flow without a checkpoint starts: earliest, latest, group (the group's committed offsets, earliest where there is none), or an RFC 3339 time (the first record of that time or later)."`
	Isolation string `yaml:"isolation" default:"read_committed" enum:"read_committed,read_uncommitted" doc:"read_committed leaves out records of aborted transactions, and waits for open ones."`
	Assignor  string `yaml:"assignor" default:"cooperative-sticky" enum:"cooperative-sticky,sticky,range,roundrobin" doc:"How the group shares partitions out. All members must agree. Only cooperative-sticky goes on reading what a member keeps during a rebalance."`

	Protocol string `yaml:"protocol" default:"classic" enum:"classic,consumer" doc:"Group protocol. consumer (KIP-848, Kafka 4.0 or newer; from 4.3 on it is advised) lets the broker share out partitions, without a barrier for all members; assignor range means the broker's range, any other its uniform, and session_timeout and heartbeat_interval are the broker's (group.consumer.session.timeout.ms). All members must agree; a group that has no members can change."`

	SessionTimeout    time.Duration `yaml:"session_timeout" default:"45s" doc:"After this long without a heartbeat the group takes the partitions away. The broker bounds it (group.min.session.timeout.ms, group.max.session.timeout.ms)."`
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval" default:"3s" doc:"How often to tell the group that the process lives; at most a third of session_timeout."`
	RebalanceTimeout  time.Duration `yaml:"rebalance_timeout" default:"60s" doc:"How long a rebalance waits for this process to write what it holds and join again."`
	MetadataMaxAge    time.Duration `yaml:"metadata_max_age" default:"1m" doc:"How often to look for new partitions, and topics that match pattern."`

	Fetch FetchConfig `yaml:"fetch" doc:"How much to ask the brokers for at a time. Bounds the memory outside the flow's buffer."`

	// Flow is the flow's name, which is left with the group's offsets, so that
	// another flow is refused in the same group; empty: nothing is left, nobody
	// is refused. Complete sets it.
	Flow string `yaml:"-"`
	// Logger receives what is retried inside; nil: slog.Default().
	Logger *slog.Logger `yaml:"-"`
}

// FetchConfig bounds one answer of a broker. More is not faster, and costs
// memory: one answer per broker is held while the next is on its way.
type FetchConfig struct {
	MaxBytes       connect.Bytes `yaml:"max_bytes" default:"4MiB" doc:"Bytes of one answer (compressed as stored). A single batch that is larger still arrives, alone."`
	PartitionBytes connect.Bytes `yaml:"partition_bytes" default:"512KiB" doc:"Bytes of one partition in an answer. A single batch that is larger still arrives, alone."`
	MinBytes       connect.Bytes `yaml:"min_bytes" default:"1B" doc:"The broker answers when it has this much, or after wait."`
	Wait           time.Duration `yaml:"wait" default:"100ms" doc:"How long a broker with nothing new holds an answer back. A partition that was paused is asked for again after at most this time, so keep it short."`
	ResponseLimit  connect.Bytes `yaml:"response_limit" default:"100MiB" doc:"Largest answer that is accepted; bounds the largest batch, so also the largest record. The flow stops with an error at a larger one."`
	BatchLimit     connect.Bytes `yaml:"batch_limit" default:"256MiB" doc:"Largest size of one batch after decompression. The flow stops with an error at a larger one."`
}

// The starts that are words; any other is a time.
const (
	startEarliest = "earliest"
	startLatest   = "latest"
	startGroup    = "group"
)

const readCommitted = "read_committed"

// The isolation levels in Kafka's protocol.
const (
	isolationUncommitted int8 = 0
	isolationCommitted   int8 = 1
)

// protocolConsumer is KIP-848's.
const protocolConsumer = "consumer"

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// Validate refuses impossible combinations with a *connect.FieldError for each
// of them.
func (c *SourceConfig) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, connect.Errorf("brokers", "name at least one broker, as host:port"))
	}
	errs = append(errs, c.Connection.Validate(), c.validateTopics())
	if c.Protocol == protocolConsumer && c.Assignor == "roundrobin" {
		errs = append(errs, connect.Errorf("assignor", "with protocol: consumer the broker knows range and uniform (any sticky assignor here); it has no roundrobin"))
	}
	if c.Group == "" {
		errs = append(errs, connect.Errorf("group", "name the consumer group"))
	}
	if _, err := c.startTime(); err != nil {
		errs = append(errs, connect.Errorf("start", "%w", err))
	}
	return errors.Join(append(errs, c.validateTimes(), c.Fetch.validate())...)
}

func (c *SourceConfig) validateTopics() error {
	switch {
	case len(c.Topics) > 0 && c.Pattern != "":
		return connect.Errorf("pattern", "topics is set as well; remove one of the two")
	case len(c.Topics) == 0 && c.Pattern == "":
		return connect.Errorf("topics", "name at least one topic, or set pattern")
	}
	var errs []error
	for i, t := range c.Topics {
		path := fmt.Sprintf("topics[%d]", i)
		switch {
		case !isTopicName(t) && strings.ContainsAny(t, `*^$+?()[]|\`):
			errs = append(errs, connect.Errorf(path, "%q is not a topic's name; for a regular expression use pattern", t))
		case !isTopicName(t):
			errs = append(errs, connect.Errorf(path, "%q is not a topic's name: want 1 to 249 letters, digits, dots, dashes or underscores", t))
		case slices.Contains(c.Topics[:i], t):
			errs = append(errs, connect.Errorf(path, "%s is named twice", t))
		}
	}
	if _, err := regexp.Compile(c.Pattern); err != nil {
		errs = append(errs, connect.Errorf("pattern", "%w", err))
	}
	return errors.Join(errs...)
}

// isTopicName says whether Kafka takes the name.
func isTopicName(t string) bool { return topicName.MatchString(t) && t != "." && t != ".." }

// reads says whether the topic is, or would be, one that the source reads.
func (c *SourceConfig) reads(topic string) bool {
	if c.Pattern == "" {
		return slices.Contains(c.Topics, topic)
	}
	pattern, err := regexp.Compile(c.Pattern)
	return err == nil && pattern.MatchString(topic)
}

func (c *SourceConfig) validateTimes() error {
	var errs []error
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"session_timeout", c.SessionTimeout},
		{"heartbeat_interval", c.HeartbeatInterval},
		{"rebalance_timeout", c.RebalanceTimeout},
		{"metadata_max_age", c.MetadataMaxAge},
		{"fetch.wait", c.Fetch.Wait},
	} {
		if d.v < 10*time.Millisecond || d.v > math.MaxInt32*time.Millisecond {
			errs = append(errs, connect.Errorf(d.name, "%s is out of range; want 10ms to 596h", d.v))
		}
	}
	if len(errs) == 0 && 3*c.HeartbeatInterval > c.SessionTimeout {
		errs = append(errs, connect.Errorf("heartbeat_interval", "%s is more than a third of session_timeout (%s): one lost heartbeat would take the partitions away; "+
			"set at most %s", c.HeartbeatInterval, c.SessionTimeout, c.SessionTimeout/3))
	}
	return errors.Join(errs...)
}

func (f *FetchConfig) validate() error {
	var errs []error
	for _, b := range []struct {
		name string
		v    connect.Bytes
	}{
		{"fetch.max_bytes", f.MaxBytes},
		{"fetch.partition_bytes", f.PartitionBytes},
		{"fetch.min_bytes", f.MinBytes},
		{"fetch.response_limit", f.ResponseLimit},
		{"fetch.batch_limit", f.BatchLimit},
	} {
		if b.v < 1 || b.v > math.MaxInt32 {
			errs = append(errs, connect.Errorf(b.name, "%s is out of range; want 1B to 2147483647B", b.v))
		}
	}
	switch {
	case len(errs) > 0:
		return errors.Join(errs...)
	case f.PartitionBytes > f.MaxBytes:
		return connect.Errorf("fetch.partition_bytes", "%s is more than fetch.max_bytes (%s)", f.PartitionBytes, f.MaxBytes)
	case f.MinBytes > f.MaxBytes:
		return connect.Errorf("fetch.min_bytes", "%s is more than fetch.max_bytes (%s)", f.MinBytes, f.MaxBytes)
	case f.MaxBytes > f.ResponseLimit/2:
		return connect.Errorf("fetch.response_limit", "%s is less than twice fetch.max_bytes (%s): an answer that ends with one large batch would be refused",
			f.ResponseLimit, f.MaxBytes)
	}
	return nil
}

// startTime is the time that Start names; zero where it is a word.
func (c *SourceConfig) startTime() (time.Time, error) {
	switch c.Start {
	case startEarliest, startLatest, startGroup:
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, c.Start)
	if err != nil {
		return time.Time{}, errors.New("\"" + c.Start + "\" is not a start; use earliest, latest, group, or a time like 2026-01-31T08:00:00Z")
	}
	return t, nil
}

// timesOfMember says that the times which a classic member chooses are not the
// defaults.
func (c *SourceConfig) timesOfMember() bool {
	var d SourceConfig
	connect.Defaults(&d)
	return c.SessionTimeout != d.SessionTimeout || c.HeartbeatInterval != d.HeartbeatInterval
}

// isolation is the level in Kafka's protocol.
func (c *SourceConfig) isolation() int8 {
	if c.Isolation == readCommitted {
		return isolationCommitted
	}
	return isolationUncommitted
}

// name is flow.Log.Name.
func (c *SourceConfig) name() string {
	if c.Pattern != "" {
		return "group " + c.Group + ", topics matching " + c.Pattern
	}
	return "group " + c.Group + ", topics " + strings.Join(slices.Sorted(slices.Values(c.Topics)), ", ")
}

// what names the topics for messages.
func (c *SourceConfig) what() string {
	if c.Pattern != "" {
		return "topics matching " + c.Pattern
	}
	return "topics " + strings.Join(c.Topics, ", ")
}

// Complete takes the group's name from the flow. For the registry.
func (c *SourceConfig) Complete(with connect.Context) error {
	c.Flow = with.Flow
	if c.Group == "" {
		c.Group = with.Flow
	}
	return nil
}

func (c *SourceConfig) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}
