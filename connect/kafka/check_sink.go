package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

var (
	_ connect.Checker = (*DeadLetters)(nil)
	_ connect.Checker = (*Sink)(nil)
	_ connect.Checker = (*TransactionalSink)(nil)
)

// sourceOf is what the source has; nothing where it cannot be reached, which its own checks say.
func sourceOf(ctx context.Context, src *SourceConfig) *sourceTopics {
	if src != nil {
		ctx, cancel := context.WithTimeout(ctx, 2*reachTime) // the rest is looked at all the same
		defer cancel()
		if found, err := lookAtSource(ctx, src, slog.New(slog.DiscardHandler)); err == nil {
			return found
		}
	}
	return &sourceTopics{}
}

// connectionOf is the source's connection; nil without a source.
func connectionOf(src *SourceConfig) *Connection {
	if src == nil {
		return nil
	}
	return &src.Connection
}

// Check implements connect.Checker.
func (d *DeadLetters) Check(ctx context.Context, _ flow.Setup) []connect.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	k, ok := startChecks(ctx, &d.cfg.Connection, connectionOf(d.cfg.Source), nil)
	defer k.close()
	if !ok {
		return k.list
	}
	source := sourceOf(ctx, d.cfg.Source)
	if source.clusterID == k.clusterID && d.cfg.Source.reads(d.cfg.Topic) {
		k.fail("topic "+d.cfg.Topic, "topic", "use another topic, or a pattern that does not match it", "%v", d.cfg.loop())
		return k.list
	}
	partitions := d.cfg.Partitions
	if partitions == 0 {
		partitions = source.most
	}
	k.target(ctx, &written{
		topic: d.cfg.Topic, field: "topic", create: d.cfg.Create, partitions: partitions, replication: d.cfg.Replication,
		limit: source.limit, largest: source.largest, letters: true,
	})
	return k.list
}

// Check implements connect.Checker.
func (s *Sink) Check(ctx context.Context, _ flow.Setup) []connect.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	k, _ := s.check(ctx)
	defer k.close()
	return k.list
}

// check checks what both sinks need; false where nothing more can be asked.
func (s *Sink) check(ctx context.Context) (*checks, bool) {
	cfg := &s.cfg
	k, ok := startChecks(ctx, &cfg.Connection, connectionOf(cfg.Source), s.extra)
	if !ok {
		return k, false
	}
	source := sourceOf(ctx, cfg.Source)
	if source.clusterID == k.clusterID {
		if err := cfg.loop(source.names()); err != nil {
			k.fault("topic "+cfg.Topic, "topic", err)
			k.list[len(k.list)-1].Next = "use another topic, or a pattern that does not match it"
			return k, true
		}
	}
	targets := map[string]int32{} // partitions that they need
	if !strings.Contains(cfg.Topic, topicOfSource) {
		targets[cfg.Topic] = source.most
	}
	for t, n := range source.partitions {
		targets[cfg.target(t)] = max(targets[cfg.target(t)], n)
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		n := targets[name]
		t := k.target(ctx, &written{
			topic: name, field: "topic", create: cfg.Create, partitions: n, replication: cfg.Replication, limit: source.limit, largest: source.largest,
		})
		if t != nil && cfg.Partition == partitionKeep && len(t.Partitions) < int(n) {
			k.fail("topic "+name, "partition", "set partition: key, or add some: "+k.tool("kafka-topics.sh", "--alter", "--topic", name, "--partitions", fmt.Sprint(n)),
				"it has %s, and a topic of the source has %d: with partition: keep each needs its counterpart", count(len(t.Partitions), "partition"), n)
		}
	}
	if cfg.DeadLetterTopic != "" {
		k.target(ctx, &written{
			topic: cfg.DeadLetterTopic, field: "dead_letter_topic", create: cfg.Create, partitions: source.most, replication: cfg.Replication,
			limit: source.limit, largest: source.largest, letters: true,
		})
	}
	return k, true
}

// Check implements connect.Checker.
func (s *TransactionalSink) Check(ctx context.Context, setup flow.Setup) []connect.Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	k, ok := s.check(ctx)
	defer k.close()
	if !ok {
		return k.list
	}
	if setup.ClusterID != "" && setup.ClusterID != k.clusterID {
		k.fail("delivery: exactly_once", "delivery", "set delivery: at_least_once",
			"the source reads cluster %s, and %s is cluster %s: one transaction has to hold both", setup.ClusterID, s.cfg.addresses(), k.clusterID)
		return k.list
	}
	k.transactions(ctx, setup.Flow, s.cfg.TransactionTimeout)
	return k.list
}

// transactions checks that the flow may have transactions. The right to write under an id
// cannot be asked for, but who may not even describe it may not write either.
func (k *checks) transactions(ctx context.Context, flowName string, timeout time.Duration) {
	what := "transactions of flow " + flowName
	id := flowName + "-check"
	answers, err := k.c.adm.DescribeTransactions(ctx, id)
	if err == nil {
		err = answers[id].Err
	}
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		k.fail(what, "delivery", k.grant(mayTransact(flowName+"-")), "%s may not begin any", k.conn.principal())
		return
	case err != nil && !errors.Is(err, kerr.TransactionalIDNotFound) && !errors.Is(err, kerr.UnsupportedVersion):
		k.fault(what, "delivery", k.conn.explain("asking for transactions", err, mayTransact(flowName+"-")))
		return
	}
	s := k.brokerSettings(ctx)
	if longest, ok := s.number("transaction.max.timeout.ms"); ok && timeout.Milliseconds() > longest {
		k.fail(what, "transaction_timeout", fmt.Sprintf("set transaction_timeout to %s at most", time.Duration(longest)*time.Millisecond),
			"transaction_timeout is %s, and the brokers allow %s (transaction.max.timeout.ms)", timeout, time.Duration(longest)*time.Millisecond)
		return
	}
	forgotten := ""
	if minutes, ok := s.number("offsets.retention.minutes"); ok {
		forgotten = "; the positions are forgotten when the flow does not run for " + age(time.Duration(minutes)*time.Minute)
	}
	k.ok(what, "delivery", "they are allowed, for %s each%s", timeout, forgotten)
}

// brokerSettings are those of one broker; none without the right to see them.
func (k *checks) brokerSettings(ctx context.Context) settings {
	for id := range k.versions {
		answers, err := k.c.adm.DescribeBrokerConfigs(ctx, id)
		if err != nil || len(answers) == 0 || answers[0].Err != nil {
			return nil
		}
		s := settings{}
		for i := range answers[0].Configs {
			s[answers[0].Configs[i].Key] = answers[0].Configs[i].MaybeValue()
		}
		return s
	}
	return nil
}
