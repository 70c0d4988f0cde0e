package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstockdev/penstock/flow"
)

// target is a topic that is written to.
type target struct {
	name       string
	partitions int32
	limit      int // max.message.bytes; 0 if not known
}

// defaultLimit is Kafka's max.message.bytes where it cannot be asked for.
const defaultLimit = 1048588

// sourceTopics is what the checks need to know of the flow's source.
type sourceTopics struct {
	clusterID  string
	partitions map[string]int32
	most       int32  // of the largest
	limit      int    // largest max.message.bytes; 0 if not known
	largest    string // the topic that has it
}

func (s *sourceTopics) names() (out []string) {
	for t := range s.partitions {
		out = append(out, t)
	}
	return out
}

// lookAtSource looks at the topics that the source reads.
func lookAtSource(ctx context.Context, src *SourceConfig, log *slog.Logger) (*sourceTopics, error) {
	opts, err := src.options(log)
	if err != nil {
		return nil, flow.Fatal(err)
	}
	c, err := newCluster(&src.Connection, opts)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var pattern *regexp.Regexp
	if src.Pattern != "" {
		if pattern, err = regexp.Compile(src.Pattern); err != nil {
			return nil, flow.Fatal(err)
		}
	}
	id, details, err := c.topics(ctx, src.Topics, pattern)
	if err != nil {
		return nil, err
	}
	out := &sourceTopics{clusterID: id, partitions: map[string]int32{}}
	for _, t := range details {
		n := int32(len(t.Partitions)) //nolint:gosec // a number of partitions
		out.partitions[t.Topic] = n
		out.most = max(out.most, n)
	}
	limits, err := c.limits(ctx, details.Names(), log)
	for t, n := range limits {
		if n > out.limit {
			out.limit, out.largest = n, t
		}
	}
	return out, err
}

// lookAtTopics finds, or creates, everything that is written to, as far as it
// can be known before anything is read.
func (s *Sink) lookAtTopics(ctx context.Context) error {
	md, err := s.admin.adm.BrokerMetadata(ctx)
	if err != nil {
		return s.cfg.explain("connecting", err)
	}
	s.clusterID = md.Cluster
	source := &sourceTopics{}
	if s.cfg.Source != nil {
		if source, err = lookAtSource(ctx, s.cfg.Source, s.log); err != nil {
			return err
		}
		if source.clusterID == s.clusterID {
			if err := s.cfg.loop(source.names()); err != nil {
				return flow.Fatal(fmt.Errorf("kafka: %w", err))
			}
		}
	}
	s.mu.Lock()
	s.targets = map[string]*target{}
	s.mu.Unlock()
	if s.cfg.DeadLetterTopic != "" {
		t, err := s.find(ctx, s.cfg.DeadLetterTopic, source.most, source.limit)
		if err != nil {
			return fmt.Errorf("dead_letter_topic: %w", err)
		}
		s.letters = t.partitions
	}
	if !strings.Contains(s.cfg.Topic, topicOfSource) {
		if _, err := s.find(ctx, s.cfg.Topic, source.most, source.limit); err != nil {
			return err
		}
	}
	for topic, partitions := range source.partitions {
		if err := s.targetOf(ctx, topic, partitions, source.limit); err != nil {
			return err
		}
	}
	return nil
}

// targetOf finds, or creates, the topic for records of a topic of the source.
func (s *Sink) targetOf(ctx context.Context, topic string, partitions int32, limit int) error {
	name := s.cfg.target(topic)
	t := s.known(name)
	if t == nil {
		var err error
		if t, err = s.find(ctx, name, partitions, limit); err != nil {
			return err
		}
	}
	if s.cfg.Partition == partitionKeep && t.partitions < partitions {
		return flow.Fatal(fmt.Errorf("kafka: topic %s has %d partitions and %s has %d: with partition: keep every partition needs its counterpart; "+
			"add partitions to %s, or set partition: key", name, t.partitions, topic, partitions, name))
	}
	return nil
}

func (s *Sink) known(name string) *target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.targets[name]
}

func (s *Sink) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.targets, name)
}

// find looks at a topic that is written to, and creates it if it is missing
// and Create is set.
func (s *Sink) find(ctx context.Context, topic string, partitions int32, limit int) (*target, error) {
	_, t, err := s.admin.writable(ctx, topic, s.cfg.Create)
	out := &target{name: topic, partitions: int32(len(t.Partitions))} //nolint:gosec // a number of partitions
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition) && s.cfg.Create:
		out.partitions = max(partitions, 1)
		err := s.admin.create(ctx, topic, out.partitions, s.cfg.Replication, limit)
		if err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		limits, err := s.admin.limits(ctx, []string{topic}, s.log)
		if err != nil {
			return nil, err
		}
		limit = limits[topic]
	}
	out.limit = limit
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets[topic] = out
	return out, nil
}

// smallest is a limit that batches for all topics keep to.
func (s *Sink) smallest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := largestWrite
	for _, t := range s.targets {
		limit = min(limit, cmp.Or(t.limit, defaultLimit))
	}
	return limit
}

// writable looks at a topic that is to be written to, and returns it and the
// cluster's id. One that is missing and may be created is kerr.UnknownTopicOrPartition.
func (c *cluster) writable(ctx context.Context, topic string, create bool) (string, kadm.TopicDetail, error) {
	look, needs := c.metadata, []right{mayWrite(topic)}
	if create {
		look, needs = c.adm.Metadata, append(needs, mayCreate(topic)) // it may well be missing
	}
	md, err := look(kadm.WithAuthorizedOps(ctx), topic)
	t := md.Topics[topic]
	if err == nil {
		err = t.Err
	}
	if err == nil && len(t.AuthorizedOperations) > 0 && !slices.Contains(t.AuthorizedOperations, kadm.OpWrite) {
		err, needs = kerr.TopicAuthorizationFailed, needs[:1]
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if !create {
			err = flow.Fatal(fmt.Errorf("kafka: topic %s does not exist (brokers %s), or %s may not see it; create it, or set create: true",
				topic, c.conn.addresses(), c.conn.principal()))
		}
		return md.Cluster, t, err
	}
	return md.Cluster, t, c.conn.explain("looking for topic "+topic, err, needs...)
}

// create creates a topic. A limit of 0 leaves max.message.bytes to the cluster,
// as does a replication of 0.
func (c *cluster) create(ctx context.Context, topic string, partitions, replication int32, limit int) error {
	configs := map[string]*string{}
	if limit > 0 {
		text := strconv.Itoa(limit)
		configs["max.message.bytes"] = &text
	}
	factor := int16(-1)
	if replication > 0 {
		factor = int16(replication) //nolint:gosec // Validate bounds it
	}
	resp, err := c.adm.CreateTopic(ctx, partitions, factor, configs, topic)
	if err == nil {
		err = resp.Err
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return flow.Transient(fmt.Errorf("kafka: topic %s was created by somebody else just now", topic))
	}
	return c.conn.explain("creating topic "+topic, err, mayCreate(topic))
}

// limits returns max.message.bytes of the topics. Without the right to see it
// there is a warning and no number: the broker refuses what is too large.
func (c *cluster) limits(ctx context.Context, topics []string, log *slog.Logger) (map[string]int, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	configs, err := c.adm.DescribeTopicConfigs(ctx, topics...)
	if err == nil {
		for _, rc := range configs {
			if err == nil && rc.Err != nil {
				err = rc.Err
			}
		}
	}
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		log.Warn("cannot check that large records fit: the right DescribeConfigs is missing",
			slog.Any("topics", topics), slog.String("principal", c.conn.principal()))
		return nil, nil
	case err != nil:
		return nil, c.conn.explain("asking for max.message.bytes of "+strings.Join(topics, ", "), err)
	}
	out := map[string]int{}
	for _, rc := range configs {
		for _, e := range rc.Configs {
			if n, err := strconv.Atoi(e.MaybeValue()); e.Key == "max.message.bytes" && err == nil {
				out[rc.Name] = n
			}
		}
	}
	return out, nil
}
