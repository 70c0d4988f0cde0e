package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
)

// The timestamps with which ListOffsets asks for the ends of a log.
const (
	atEarliest int64 = -2
	atLatest   int64 = -1
)

// A topic that is missing is looked for so many times, with a wait between.
const (
	topicTries = 4
	topicWait  = 250 * time.Millisecond
)

// coordinatorWait is how long to wait before a coordinator is looked for again.
const coordinatorWait = 100 * time.Millisecond

// committed is what the group has committed of a partition.
type committed struct {
	offset int64
	epoch  int32
	marked bool // by the flow that asks
}

// cluster answers questions about a cluster over one admin client.
type cluster struct {
	cl   *kgo.Client
	adm  *kadm.Client
	conn *Connection
}

func newCluster(conn *Connection, opts []kgo.Opt) (*cluster, error) {
	// An answer is wanted soon, or the reason why there is none: the engine
	// retries what is transient, and says so. Questions are few, so where
	// a partition's leader is need not be remembered for long.
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.RequestRetries(2), kgo.RetryTimeout(answerTimeout),
		kgo.MetadataMinAge(100*time.Millisecond))...)
	if err != nil {
		return nil, flow.Fatal(fmt.Errorf("kafka: %w", err))
	}
	return &cluster{cl, kadm.NewClient(cl), conn}, nil
}

func (c *cluster) close() { c.cl.Close() }

// topics returns the cluster's id and the topics: those named, each of which
// must exist, or those that match the pattern.
func (c *cluster) topics(ctx context.Context, names []string, pattern *regexp.Regexp) (string, kadm.TopicDetails, error) {
	doing := "looking for topics " + strings.Join(names, ", ")
	if pattern != nil {
		doing, names = "looking for topics that match "+pattern.String(), nil
	}
	md, err := c.metadata(ctx, names...)
	if err != nil {
		return "", nil, c.conn.explain(doing, err)
	}
	if pattern != nil {
		md.Topics.FilterInternal()
		maps.DeleteFunc(md.Topics, func(t string, _ kadm.TopicDetail) bool { return !pattern.MatchString(t) })
	}
	for _, t := range md.Topics.Sorted() {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return "", nil, flow.Fatal(fmt.Errorf("kafka: topic %s does not exist (brokers %s), or %s may not see it; create it, correct the name, or grant Describe on it",
				t.Topic, c.conn.addresses(), c.conn.principal()))
		case t.Err != nil:
			return "", nil, c.conn.explain("looking at topic "+t.Topic, t.Err)
		}
		for _, p := range t.Partitions.Sorted() {
			if p.Err != nil && !kerr.IsRetriable(p.Err) {
				return "", nil, c.conn.explain(fmt.Sprintf("looking at %s[%d]", t.Topic, p.Partition), p.Err)
			}
		}
	}
	return md.Cluster, md.Topics, nil
}

// metadata looks at the topics, or at all. A topic that was created just now is
// not known to every broker yet: a missing one is looked for again.
func (c *cluster) metadata(ctx context.Context, names ...string) (md kadm.Metadata, err error) {
	for range topicTries {
		md, err = c.adm.Metadata(ctx, names...)
		if err != nil || !errors.Is(md.Topics.Error(), kerr.UnknownTopicOrPartition) || !sleep(ctx, topicWait) {
			break
		}
	}
	return md, err
}

// listOffsets asks the leaders of exactly these partitions for the offset of a
// time in milliseconds, or atEarliest or atLatest. -1 says that there is no
// record of that time or later.
func (c *cluster) listOffsets(ctx context.Context, parts []flow.Partition, isolation int8, at int64) (map[flow.Partition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = isolation
	index := map[string]int{}
	for _, p := range parts {
		i, ok := index[p.Topic]
		if !ok {
			i = len(req.Topics)
			index[p.Topic] = i
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = p.Topic
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p.ID, at
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	out := make(map[flow.Partition]int64, len(parts))
	for _, shard := range c.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, c.conn.explain("asking for offsets", shard.Err)
		}
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			return nil, fmt.Errorf("kafka: asked for offsets, got a %T", shard.Resp)
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				name := flow.Partition{Topic: t.Topic, ID: p.Partition}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, c.conn.explain("asking for offsets of "+name.String(), err)
				}
				out[name] = p.Offset
			}
		}
	}
	for _, p := range parts {
		if _, ok := out[p]; !ok {
			return nil, flow.Transient(fmt.Errorf("kafka: no broker answered for the offsets of %s (brokers %s)", p, c.conn.addresses()))
		}
	}
	return out, nil
}

// fetchOffsets asks for what the group has committed: nothing, if there is no such group.
func (c *cluster) fetchOffsets(ctx context.Context, group string) (resp kadm.OffsetResponses, err error) {
	err = awaitCoordinator(ctx, func() error {
		resp, err = c.adm.FetchOffsets(ctx, group)
		return err
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	return resp, err
}

// awaitCoordinator repeats what fails because the group has no coordinator yet: its broker
// has just started, or begins to keep groups when somebody asks for the first one.
func awaitCoordinator(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for {
		err := do()
		none := errors.Is(err, kerr.CoordinatorNotAvailable) || errors.Is(err, kerr.CoordinatorLoadInProgress) || errors.Is(err, kerr.NotCoordinator)
		if !none || !sleep(ctx, coordinatorWait) {
			return err
		}
	}
}

// groupOffsets are the offsets that the group has committed. Those of another
// flow than the one named are a fatal error: the flows would share the
// partitions, and each would miss what the other reads.
func (c *cluster) groupOffsets(ctx context.Context, group, flowName string) (map[flow.Partition]committed, error) {
	doing := "asking for the offsets of group " + group
	resp, err := c.fetchOffsets(ctx, group)
	if err != nil {
		return nil, c.conn.explain(doing, err)
	}
	out := map[flow.Partition]committed{}
	for t, ps := range resp {
		for p, o := range ps {
			if o.Err != nil {
				return nil, c.conn.explain(fmt.Sprintf("%s for %s[%d]", doing, t, p), o.Err)
			}
			m, marked := parseMark(o.Metadata)
			if marked && flowName != "" && m.flow != flowName {
				return nil, otherFlow(group, flow.Partition{Topic: t, ID: p}, m, flowName)
			}
			if o.At >= 0 {
				out[flow.Partition{Topic: t, ID: p}] = committed{o.At, o.LeaderEpoch, marked}
			}
		}
	}
	return out, nil
}

// otherFlow is the error of a group that another flow has committed offsets of p in.
func otherFlow(group string, p flow.Partition, other mark, flowName string) error {
	lost := "unless its target keeps positions, they are where it would go on, and lost then"
	if other.source != "" {
		lost = "they are where it would go on, and lost then"
	}
	return flow.Fatal(fmt.Errorf("kafka: group %s belongs to flow %s (it has committed offsets of %s), and this is flow %s: in one group "+
		"each would get a part of the partitions only; give this flow a group of its own, or, if flow %s is gone for good, delete the group's offsets "+
		"(kafka-consumer-groups.sh --delete --group %s; %s)", group, other.flow, p, flowName, other.flow, group, lost))
}

// describe fills in what the engine wants to know of partitions: the ends of
// their logs, and where the configured start lies.
func (c *cluster) describe(ctx context.Context, cfg *SourceConfig, details kadm.TopicDetails, parts []flow.Partition, group map[flow.Partition]committed) ([]flow.PartitionInfo, error) {
	begin, err := c.listOffsets(ctx, parts, cfg.isolation(), atEarliest)
	if err != nil {
		return nil, err
	}
	end, err := c.listOffsets(ctx, parts, cfg.isolation(), atLatest)
	if err != nil {
		return nil, err
	}
	var timed map[flow.Partition]int64
	since, err := cfg.startTime()
	if err != nil {
		return nil, flow.Fatal(err)
	}
	if !since.IsZero() {
		if timed, err = c.listOffsets(ctx, parts, cfg.isolation(), since.UnixMilli()); err != nil {
			return nil, err
		}
	}
	infos := make([]flow.PartitionInfo, len(parts))
	for i, p := range parts {
		info := flow.PartitionInfo{
			Partition: p, TopicID: topicID(details[p.Topic].ID), Begin: begin[p], End: end[p], Start: begin[p], Committed: -1, LeaderEpoch: -1,
		}
		g, hasCommitted := group[p]
		if hasCommitted {
			info.Committed, info.LeaderEpoch = g.offset, g.epoch
		}
		switch {
		case cfg.Start == startLatest:
			info.Start = end[p]
		case cfg.Start == startGroup && hasCommitted:
			info.Start = g.offset
		case timed != nil:
			if info.Start = timed[p]; info.Start < 0 {
				info.Start = end[p]
			}
		}
		infos[i] = info
	}
	return infos, nil
}

// diverged returns the positions whose leader epoch ended, in the log as it is
// now, before the position: a leader was elected that had not all records, and
// what is at these offsets now is not what was read. (KIP-320. kgo could do
// this as well, but sets the partition to another offset when it finds it.)
func (c *cluster) diverged(ctx context.Context, positions []flow.Position) (map[flow.Partition]int64, error) {
	var req kadm.OffsetForLeaderEpochRequest
	for _, p := range positions {
		if p.Offset > 0 && p.LeaderEpoch >= 0 {
			req.Add(p.Topic, p.ID, p.LeaderEpoch)
		}
	}
	if req == nil {
		return nil, nil
	}
	resp, err := c.adm.OffsetForLeaderEpoch(ctx, req)
	if err != nil {
		return nil, c.conn.explain("comparing leader epochs", err)
	}
	out := map[flow.Partition]int64{}
	for _, p := range positions {
		e, asked := resp[p.Topic][p.ID]
		switch {
		case !asked:
		case e.Err != nil:
			return nil, c.conn.explain("comparing the leader epoch of "+p.String(), e.Err)
		case e.EndOffset >= 0 && e.EndOffset < p.Offset:
			out[p.Partition] = e.EndOffset
		}
	}
	return out, nil
}

// topicID is the text form of a topic's id; empty for clusters that have none.
func topicID(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

// partitionsOf lists all partitions of the topics, sorted.
func partitionsOf(details kadm.TopicDetails) []flow.Partition {
	var parts []flow.Partition
	for _, t := range details.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			parts = append(parts, flow.Partition{Topic: t.Topic, ID: p.Partition})
		}
	}
	return parts
}
