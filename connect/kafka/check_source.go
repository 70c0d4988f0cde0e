package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var _ connect.Checker = (*Source)(nil)

// Check implements connect.Checker.
func (s *Source) Check(ctx context.Context, setup flow.Setup) []connect.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	k, ok := startChecks(ctx, &s.cfg.Connection, nil, s.extra)
	defer k.close()
	if !ok {
		return k.list
	}
	c := sourceChecks{checks: k, cfg: &s.cfg}
	c.run(ctx, s, setup)
	return k.list
}

// sourceChecks are those of what a source reads.
type sourceChecks struct {
	*checks
	cfg    *SourceConfig
	topics kadm.TopicDetails // that can be read
	set    map[string]settings
	group  map[flow.Partition]committed
	// begin and end are those of the topics that can be read.
	begin, end map[flow.Partition]int64
}

func (c *sourceChecks) run(ctx context.Context, s *Source, setup flow.Setup) {
	field := "topics"
	if s.pattern != nil {
		field = "pattern"
	}
	if !c.findTopics(ctx, s, field) {
		return
	}
	c.set = c.topicSettings(ctx, c.topics.Names(), field)
	parts := partitionsOf(c.topics)
	var err error
	if c.begin, err = c.c.listOffsets(ctx, parts, c.cfg.isolation(), atEarliest); err == nil {
		c.end, err = c.c.listOffsets(ctx, parts, c.cfg.isolation(), atLatest)
	}
	if err != nil {
		c.fault("offsets of "+some(c.topics.Names()), field, err)
		return
	}
	c.readers(ctx, setup)
	const each = 8 // more are summed up where all is well
	for _, t := range c.topics.Sorted() {
		before := len(c.list)
		c.large(&t, field)
		c.retained(ctx, &t, field)
		if len(c.topics) <= each && len(c.list) == before {
			c.ok("topic "+t.Topic, field, "%s, %s%s", count(len(t.Partitions), "partition"), c.records(t.Topic), c.kept(t.Topic))
		}
	}
	if len(c.topics) > each {
		c.ok(some(c.topics.Names()), field, "%d topics, %s", len(c.topics), count(len(parts), "partition"))
	}
}

// findTopics looks for the topics, and keeps those that can be read.
func (c *sourceChecks) findTopics(ctx context.Context, s *Source, field string) bool {
	c.topics = kadm.TopicDetails{}
	ctx = kadm.WithAuthorizedOps(ctx)
	if s.pattern == nil {
		for i, name := range c.cfg.Topics { // one by one: for all of them there is one answer if one may not be seen
			at := fmt.Sprintf("topics[%d]", i)
			md, err := c.c.metadata(ctx, name)
			if err != nil {
				c.fault("topic "+name, at, c.conn.explain("looking for topic "+name, err, mayRead(name)))
				continue
			}
			c.keep(md.Topics[name], at)
		}
		return len(c.topics) > 0
	}
	md, err := c.c.metadata(ctx)
	if err != nil {
		c.fault(c.cfg.what(), field, c.conn.explain("looking for "+c.cfg.what(), err))
		return false
	}
	md.Topics.FilterInternal()
	maps.DeleteFunc(md.Topics, func(t string, _ kadm.TopicDetail) bool { return !s.pattern.MatchString(t) })
	if len(md.Topics) == 0 {
		c.warn(c.cfg.what(), field, "correct pattern, or create a topic; it is looked for every metadata_max_age ("+c.cfg.MetadataMaxAge.String()+")", "there are none that %s may see", c.conn.principal())
	}
	for _, t := range md.Topics.Sorted() {
		c.keep(t, field)
	}
	return len(c.topics) > 0
}

func (c *sourceChecks) keep(t kadm.TopicDetail, field string) {
	if c.usable(&t, field, kadm.OpRead, mayRead(t.Topic)) {
		c.topics[t.Topic] = t
	}
}

func (c *sourceChecks) records(topic string) string {
	n := int64(0)
	for p, end := range c.end {
		if p.Topic == topic {
			n += end - c.begin[p]
		}
	}
	return fmt.Sprintf("%d offsets", n)
}

func (c *sourceChecks) kept(topic string) string {
	if s := c.set[topic]; s != nil {
		return "; it " + s.keeps()
	}
	return ""
}

// large compares the size of messages with what the source accepts.
func (c *sourceChecks) large(t *kadm.TopicDetail, field string) {
	limit, ok := c.set[t.Topic].number("max.message.bytes")
	if ok && limit > int64(c.cfg.Fetch.ResponseLimit) {
		c.warn("topic "+t.Topic, "fetch.response_limit", fmt.Sprintf("set fetch.response_limit to more than %dB", limit),
			"it takes messages up to %d bytes (max.message.bytes), and the source accepts answers up to %s: a larger record would stop the flow", limit, c.cfg.Fetch.ResponseLimit)
	}
	if d, _ := c.set[t.Topic].retention(); d > 0 && d < 24*time.Hour {
		c.warn("topic "+t.Topic, field, c.alter(t.Topic, fmt.Sprintf("retention.ms=%d", (7*24*time.Hour).Milliseconds())),
			"it keeps records for %s: a flow that is stopped for longer loses some", age(d))
	}
}

// readers checks the group.
func (c *sourceChecks) readers(ctx context.Context, setup flow.Setup) {
	what, field := "group "+c.cfg.Group, "group"
	g, err := c.c.group(ctx, c.cfg.Group)
	if err != nil {
		c.fault(what, field, err)
		return
	}
	if len(g.rights) > 0 && !slices.Contains(g.rights, kadm.OpRead) {
		c.fail(what, field, c.grant(mayJoin(c.cfg.Group)), "%s may not join it", c.conn.principal())
		return
	}
	if c.group, err = c.c.groupOffsets(ctx, c.cfg.Group, setup.Flow); err != nil {
		c.fault(what, field, err)
		c.list[len(c.list)-1].Next = "set group to a name that no other flow has"
		return
	}
	if c.cfg.Protocol == protocolConsumer {
		for id, v := range c.versions {
			if _, ok := v.KeyMaxVersion(int16(kmsg.ConsumerGroupHeartbeat)); !ok {
				c.fail(what, "protocol", "set protocol: classic, or upgrade the brokers to Kafka 4.0", "broker %d does not know protocol: consumer", id)
				return
			}
		}
	}
	if c.disagrees(what, &g) {
		return
	}
	lag, behind := int64(0), 0
	for p, end := range c.end {
		if at, ok := c.group[p]; ok && at.offset < end {
			lag, behind = lag+end-at.offset, behind+1
		}
	}
	switch {
	case len(c.group) == 0 && g.state == "":
		c.ok(what, field, "it does not exist yet")
	case len(c.group) == 0:
		c.ok(what, field, "%s, no offsets yet; %s", g.state, g.readers())
	default:
		c.ok(what, field, "%s, %s; lag %d in %d of %d partitions; %s", g.state, g.protocol, lag, behind, len(c.end), g.readers())
	}
}

// readers says who reads.
func (g *group) readers() string {
	if len(g.members) == 0 {
		return "no members"
	}
	return count(len(g.members), "member") + ": " + strings.Join(g.members[:min(3, len(g.members))], "; ")
}

// disagrees says that the members of the group would not let this process in.
func (c *sourceChecks) disagrees(what string, g *group) bool {
	switch {
	case len(g.members) == 0:
		return false
	case g.protocol != c.cfg.Protocol:
		c.warn(what, "protocol", "set protocol: "+g.protocol+", or stop all members first", "it speaks the %s protocol, and this flow %s: they cannot share partitions; %s",
			g.protocol, c.cfg.Protocol, g.readers())
		return true
	case g.protocol == "classic" && g.assignor != "" && g.assignor != c.cfg.Assignor:
		c.fail(what, "assignor", "set assignor: "+g.assignor+", or stop all members first", "it shares partitions out by %s, and this flow by %s: it would be refused; %s",
			g.assignor, c.cfg.Assignor, g.readers())
		return true
	}
	return false
}

// retained compares what the group has not read with what retention is about to remove.
func (c *sourceChecks) retained(ctx context.Context, t *kadm.TopicDetail, field string) {
	what := "topic " + t.Topic
	var parts []flow.Partition // that the group has begun, and not read to the end
	lost, first := int64(0), flow.Partition{}
	for _, p := range partitionsOf(kadm.TopicDetails{t.Topic: *t}) {
		at, ok := c.group[p]
		switch {
		case !ok || at.offset >= c.end[p]:
		case at.offset < c.begin[p]:
			if lost == 0 {
				first = p
			}
			lost += c.begin[p] - at.offset
		default:
			parts = append(parts, p)
		}
	}
	if lost > 0 {
		c.warn(what, field, fmt.Sprintf("see penstock position, and set it to %d to accept the loss", c.begin[first]),
			"%d offsets that the group has not read are gone: that of %s is %d, and the log begins at %d; the flow stops there, unless its target keeps a later position",
			lost, first, c.group[first].offset, c.begin[first])
	}
	d, bytes := c.set[t.Topic].retention()
	if len(parts) == 0 || d == 0 && bytes == 0 {
		return
	}
	if d > 0 {
		c.retainedFor(ctx, what, field, t.Topic, d, parts)
	}
	if bytes > 0 {
		c.retainedBytes(ctx, what, field, t.Topic, bytes, parts)
	}
}

// retainedFor warns of records that have lived three quarters of their time unread.
func (c *sourceChecks) retainedFor(ctx context.Context, what, field, topic string, d time.Duration, parts []flow.Partition) {
	soon, err := c.c.listOffsets(ctx, parts, c.cfg.isolation(), time.Now().Add(-d*3/4).UnixMilli())
	if err != nil {
		c.fault(what, field, err)
		return
	}
	n := int64(0)
	for _, p := range parts {
		young := soon[p]
		if young < 0 {
			young = c.end[p]
		}
		n += max(0, young-c.group[p].offset)
	}
	if n > 0 {
		c.warn(what, field, "run the flow, or keep records longer: "+c.alter(topic, fmt.Sprintf("retention.ms=%d", 2*d.Milliseconds())),
			"%d offsets that the group has not read are removed within %s: it keeps records for %s (retention.ms)", n, age(d/4), age(d))
	}
}

// retainedBytes warns of partitions whose unread records fill three quarters of their size.
func (c *sourceChecks) retainedBytes(ctx context.Context, what, field, topic string, limit int64, parts []flow.Partition) {
	set := kadm.TopicsSet{}
	for _, p := range parts {
		set.Add(topic, p.ID)
	}
	dirs, err := c.c.adm.DescribeAllLogDirs(ctx, set)
	if err != nil || dirs == nil {
		return // it takes a right on the cluster, which a flow does not need
	}
	for _, p := range parts {
		size := int64(0)
		dirs.Each(func(d kadm.DescribedLogDir) {
			if in, ok := d.Topics.Lookup(topic, p.ID); ok {
				size = max(size, in.Size)
			}
		})
		unread := float64(c.end[p]-c.group[p].offset) / float64(max(1, c.end[p]-c.begin[p]))
		if float64(size)*unread > 0.75*float64(limit) {
			c.warn(what, field, "run the flow, or keep more: "+c.alter(topic, fmt.Sprintf("retention.bytes=%d", 2*limit)),
				"%s holds about %d MiB that the group has not read, and keeps %d MiB (retention.bytes)", p, int64(float64(size)*unread)>>20, limit>>20)
			return
		}
	}
}
