package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// settings are what topics, or a broker, are configured with.
type settings map[string]string

func (s settings) number(key string) (int64, bool) {
	n, err := strconv.ParseInt(s[key], 10, 64)
	return n, err == nil
}

// retention is how long a topic keeps records, and how much of a partition; 0: without limit.
func (s settings) retention() (d time.Duration, bytes int64) {
	if !strings.Contains(s["cleanup.policy"], "delete") {
		return 0, 0
	}
	ms, _ := s.number("retention.ms")
	bytes, _ = s.number("retention.bytes")
	const longest = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(max(0, ms), longest)) * time.Millisecond, max(0, bytes)
}

// keeps says what the topic keeps.
func (s settings) keeps() string {
	d, bytes := s.retention()
	var out []string
	if strings.Contains(s["cleanup.policy"], "compact") {
		out = append(out, "the last record of each key")
	}
	if d > 0 {
		out = append(out, "records for "+age(d))
	}
	if bytes > 0 {
		out = append(out, fmt.Sprintf("%d MiB of each partition", bytes>>20))
	}
	if out == nil {
		return "keeps everything"
	}
	return "keeps " + strings.Join(out, " and ")
}

// topicSettings asks for what the topics are configured with. Without the right to know it, one
// warning says so, and there is nothing.
func (k *checks) topicSettings(ctx context.Context, names []string, field string) map[string]settings {
	if len(names) == 0 {
		return nil
	}
	out := map[string]settings{}
	answers, err := k.c.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil { // there is no other answer if one of them may not be seen
		var denied []right
		answers = nil
		for _, name := range names {
			one, failed := k.c.adm.DescribeTopicConfigs(ctx, name)
			switch {
			case errors.Is(failed, kerr.TopicAuthorizationFailed):
				denied = append(denied, right{resource: "topic", name: name, operations: []string{"DescribeConfigs"}})
			case failed == nil:
				answers = append(answers, one...)
			}
		}
		next := ""
		if denied != nil {
			next = k.grant(denied...)
		}
		k.warn("settings of "+some(names), field, next, "retention and size limits cannot be seen: %v", bare(err))
	}
	for _, a := range answers {
		s := settings{}
		for i := range a.Configs {
			s[a.Configs[i].Key] = a.Configs[i].MaybeValue()
		}
		out[a.Name] = s
	}
	return out
}

// some names the first few.
func some(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more topics", strings.Join(names[:2], ", "), len(names)-2)
	}
	if len(names) == 1 {
		return "topic " + names[0]
	}
	return "topics " + strings.Join(names, ", ")
}

// usable checks that a topic is there, in what state its replicas are, and that it may be used;
// op is what for, and r the right to it.
func (k *checks) usable(t *kadm.TopicDetail, field string, op kadm.ACLOperation, r right) bool {
	what := "topic " + t.Topic
	switch {
	case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
		k.fail(what, field, "correct the name, or create it: "+k.tool("kafka-topics.sh", "--create", "--topic", t.Topic), "it does not exist, or %s may not see it", k.conn.principal())
		return false
	case t.Err != nil:
		k.fault(what, field, k.conn.explain("looking at "+what, t.Err, r))
		return false
	case len(t.AuthorizedOperations) > 0 && !slices.Contains(t.AuthorizedOperations, op):
		k.fail(what, field, k.grant(r), "%s may not do what the flow does: %s is missing", k.conn.principal(), r)
		return false
	}
	var dead, behind []string
	for _, p := range t.Partitions.Sorted() {
		switch {
		case p.Leader < 0:
			dead = append(dead, strconv.Itoa(int(p.Partition)))
		case len(p.ISR) < len(p.Replicas):
			behind = append(behind, strconv.Itoa(int(p.Partition)))
		}
	}
	look := k.tool("kafka-topics.sh", "--describe", "--topic", t.Topic)
	if dead != nil {
		k.fail(what, field, "start the brokers that hold it: "+look, "%s of %d without a leader (%s): what is there cannot be read or written now",
			count(len(dead), "partition"), len(t.Partitions), numbersOf(dead))
		return false
	}
	if behind != nil {
		k.warn(what, field, "see which brokers are down or slow: "+look, "%s of %d with replicas that are not in sync (%s)",
			count(len(behind), "partition"), len(t.Partitions), numbersOf(behind))
	}
	return true
}

// numbersOf lists the first few numbers of partitions.
func numbersOf(ids []string) string {
	if len(ids) > 8 {
		return strings.Join(ids[:8], ", ") + ", …"
	}
	return strings.Join(ids, ", ")
}

// written is a topic that the flow writes to.
type written struct {
	topic, field string
	// create says that a missing one is made, with so many partitions and replicas.
	create      bool
	partitions  int32
	replication int32
	// limit is the largest max.message.bytes of what it takes records of; 0 if not known.
	limit   int
	largest string // the topic that has it
	letters bool   // they are dead letters
}

// target checks a topic that is written to, and returns it; nil if it cannot be used yet.
func (k *checks) target(ctx context.Context, w *written) *kadm.TopicDetail {
	what := "topic " + w.topic
	look := k.c.metadata
	if w.create {
		look = k.c.adm.Metadata
	}
	md, err := look(kadm.WithAuthorizedOps(ctx), w.topic)
	if err != nil {
		k.fault(what, w.field, k.conn.explain("looking at "+what, err, mayWrite(w.topic)))
		return nil
	}
	t := md.Topics[w.topic]
	if w.create && errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
		if n := len(md.Brokers); int(w.replication) > n {
			k.fail(what, "replication", fmt.Sprintf("set replication to %d at most", n), "it does not exist, and cannot be created with %d replicas: the cluster has %s", w.replication, count(n, "broker"))
			return nil
		}
		k.ok(what, w.field, "it does not exist yet, and is created when the flow starts, with %s", count(int(max(w.partitions, 1)), "partition"))
		return nil
	}
	if !k.usable(&t, w.field, kadm.OpWrite, mayWrite(w.topic)) {
		if errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
			k.list[len(k.list)-1].Next += "; or set create: true"
		}
		return nil
	}
	before := len(k.list)
	if s := k.topicSettings(ctx, []string{w.topic}, w.field)[w.topic]; s != nil {
		k.durable(&t, w.field, s, len(md.Brokers))
		k.takes(w, s)
		if w.letters {
			k.keepsLetters(w, s)
		}
		if len(k.list) == before {
			k.ok(what, w.field, "%s, %s; takes messages up to %s bytes and %s", count(len(t.Partitions), "partition"),
				count(replicas(&t), "replica"), s["max.message.bytes"], s.keeps())
		}
	}
	return &t
}

// replicas is how many replicas the partition has that has the fewest.
func replicas(t *kadm.TopicDetail) int {
	n := 1 << 15
	for _, p := range t.Partitions {
		n = min(n, len(p.Replicas))
	}
	return n
}

// durable compares min.insync.replicas with the replicas: all writes ask for all that are in sync.
func (k *checks) durable(t *kadm.TopicDetail, field string, s settings, brokers int) {
	what, n := "topic "+t.Topic, replicas(t)
	insync, ok := s.number("min.insync.replicas")
	alive := n
	for _, p := range t.Partitions {
		alive = min(alive, len(p.ISR))
	}
	switch {
	case !ok:
	case int(insync) > n:
		k.fail(what, field, k.alter(t.Topic, fmt.Sprintf("min.insync.replicas=%d", max(1, n-1))),
			"min.insync.replicas is %d, and it has %s: no write can succeed", insync, count(n, "replica"))
	case int(insync) > alive:
		k.fail(what, field, "start the brokers that are down: "+k.tool("kafka-topics.sh", "--describe", "--topic", t.Topic),
			"min.insync.replicas is %d, and a partition has %d in sync now: writes are refused until more are", insync, alive)
	case n > 1 && int(insync) == n:
		k.warn(what, field, k.alter(t.Topic, fmt.Sprintf("min.insync.replicas=%d", n-1)),
			"min.insync.replicas is %d of %s: while one broker is down, nothing can be written", insync, count(n, "replica"))
	case brokers > 1 && n == 1:
		k.warn(what, field, "give it more replicas with kafka-reassign-partitions.sh", "1 replica in a cluster of %s: what its broker loses is lost", count(brokers, "broker"))
	case n > 2 && insync == 1:
		k.warn(what, field, k.alter(t.Topic, "min.insync.replicas=2"),
			"min.insync.replicas is 1 of %s: what one broker alone has acknowledged is lost with it", count(n, "replica"))
	}
}

// takes compares the size limit with that of what is written to the topic.
func (k *checks) takes(w *written, s settings) {
	limit, ok := s.number("max.message.bytes")
	if !ok || w.limit == 0 || int(limit) >= w.limit {
		return
	}
	next := k.alter(w.topic, fmt.Sprintf("max.message.bytes=%d", w.limit))
	found := fmt.Sprintf("it takes messages up to %d bytes (max.message.bytes), and source topic %s has up to %d", limit, w.largest, w.limit)
	if w.letters {
		k.fail("topic "+w.topic, w.field, next, "%s: a large record could never become a dead letter", found)
		return
	}
	k.warn("topic "+w.topic, w.field, next, "%s: larger records become dead letters (class oversized)", found)
}

// lettersTime is how long dead letters should stay at least.
const lettersTime = 14 * 24 * time.Hour

// keepsLetters checks that letters are there until somebody has looked at them.
func (k *checks) keepsLetters(w *written, s settings) {
	what := "topic " + w.topic
	if strings.Contains(s["cleanup.policy"], "compact") {
		k.fail(what, w.field, k.alter(w.topic, "cleanup.policy=delete"),
			"cleanup.policy is %s: letters without a key are refused, and those with one replace each other", s["cleanup.policy"])
		return
	}
	if d, bytes := s.retention(); d > 0 && d < lettersTime || bytes > 0 {
		k.warn(what, w.field, k.alter(w.topic, "retention.ms=-1,retention.bytes=-1"), "it %s: dead letters that nobody has redriven by then are gone", s.keeps())
	}
}
