package kafka

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// check runs the checks of a connector that is not open.
func check(t testing.TB, c connect.Checker, s flow.Setup) []connect.Check {
	t.Helper()
	return c.Check(t.Context(), s)
}

func checkSource(t testing.TB, cfg SourceConfig) []connect.Check {
	t.Helper()
	src, err := NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return check(t, src, flow.Setup{Flow: "f"})
}

func checkLetters(t testing.TB, cfg DeadLetterConfig) []connect.Check {
	t.Helper()
	d, err := NewDeadLetters(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return check(t, d, flow.Setup{Flow: "f"})
}

func checkSink(t testing.TB, cfg SinkConfig, s flow.Setup) []connect.Check {
	t.Helper()
	sink, err := NewSink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := sink.(connect.Checker)
	if !ok {
		t.Fatalf("%T checks nothing", sink)
	}
	return check(t, c, s)
}

// wantCheck looks for a check of this status and field, whose words contain all of these.
func wantCheck(t testing.TB, got []connect.Check, status connect.CheckStatus, field string, words ...string) {
	t.Helper()
	var lines []string
next:
	for _, c := range got {
		line := fmt.Sprintf("%s | %s | %s | %s | %s", c.Status, c.Field, c.What, c.Found, c.Next)
		lines = append(lines, line)
		if c.Status != status || c.Field != field {
			continue
		}
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return
	}
	t.Errorf("no check: %s | %s | %q in\n%s", status, field, words, strings.Join(lines, "\n"))
}

// wantAll checks that all checks have the status, and that all but good ones say what to do.
func wantAll(t testing.TB, got []connect.Check, status connect.CheckStatus) {
	t.Helper()
	for _, c := range got {
		if c.Status != status {
			t.Errorf("%s: %s: %s (%s)", c.Status, c.What, c.Found, c.Next)
		}
	}
	if len(got) == 0 {
		t.Error("nothing was checked")
	}
}

func TestSourceIsChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2)
	cfg := b.config(topic)
	cfg.Flow, cfg.ClientID = "f", "me"
	b.fill(topic, 2, 0, 5)
	got := checkSource(t, cfg)
	wantAll(t, got, connect.CheckOK)
	wantCheck(t, got, connect.CheckOK, "brokers", "brokers "+b.addr, "Kafka 4.1", "1 broker, cluster ")
	wantCheck(t, got, connect.CheckOK, "", "login", "as the anonymous user, in plain text")
	wantCheck(t, got, connect.CheckOK, "group", "group "+cfg.Group, "does not exist yet")
	wantCheck(t, got, connect.CheckOK, "topics", "topic "+topic, "2 partitions, 10 offsets", "records for 7 days")

	in := newIntake(t)
	r := run(t, cfg, in)
	eventually(t, "the records", func() bool { return in.count() == 10 })
	if err := r.Commit(t.Context(), []flow.Position{{Partition: flow.Partition{Topic: topic}, Offset: 3}, {Partition: flow.Partition{Topic: topic, ID: 1}, Offset: 5}}); err != nil {
		t.Fatal(err)
	}
	got = checkSource(t, cfg)
	wantAll(t, got, connect.CheckOK)
	wantCheck(t, got, connect.CheckOK, "group", "Stable, classic", "lag 2 in 1 of 2 partitions", "1 member: me at 127.0.0.1")

	change := func(f func(*SourceConfig)) []connect.Check {
		c := cfg
		f(&c)
		return checkSource(t, c)
	}
	wantCheck(t, change(func(c *SourceConfig) { c.Assignor = "range" }), connect.CheckFailed, "assignor", "by cooperative-sticky", "by range", "set assignor: cooperative-sticky")
	wantCheck(t, change(func(c *SourceConfig) { c.Protocol = protocolConsumer }), connect.CheckWarning, "protocol", "set protocol: classic")
	wantCheck(t, change(func(c *SourceConfig) { c.Topics = []string{topic, topic + ".no"} }), connect.CheckFailed, "topics[1]", topic+".no", "does not exist", "kafka-topics.sh --bootstrap-server "+b.addr+" --create")
	wantCheck(t, change(func(c *SourceConfig) { c.Topics, c.Pattern = nil, "^"+topic+"-no" }), connect.CheckWarning, "pattern", "there are none")
	wantCheck(t, change(func(c *SourceConfig) { c.Topics, c.Pattern = nil, "^"+topic }), connect.CheckOK, "pattern", "topic "+topic)
	wantCheck(t, change(func(c *SourceConfig) { c.Fetch.ResponseLimit = 8 << 20 }), connect.CheckWarning, "fetch.response_limit", "33554432")
	src, err := NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantCheck(t, check(t, src, flow.Setup{Flow: "g"}), connect.CheckFailed, "group", "belongs to flow f", "no other flow has")
}

func TestBrokersAreChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	cfg.Brokers = []string{"127.0.0.1:1", b.addr}
	got := checkSource(t, cfg)
	wantCheck(t, got, connect.CheckWarning, "brokers[0]", "broker 127.0.0.1:1", "connection refused", "can be reached from here")
	wantCheck(t, got, connect.CheckOK, "topics", cfg.Topics[0])
	cfg.Brokers = cfg.Brokers[:1]
	got = checkSource(t, cfg)
	wantAll(t, got, connect.CheckFailed)
	wantCheck(t, got, connect.CheckFailed, "brokers[0]", "broker 127.0.0.1:1")
	// A connection that is the source's is the source's to correct.
	got = checkLetters(t, DeadLetterConfig{Connection: cfg.Connection, Topic: "dead", Source: &cfg})
	wantCheck(t, got, connect.CheckFailed, "", "broker 127.0.0.1:1")
}

func TestLoginIsChecked(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	topic := s.Prefix + testservice.Name(t)
	s.create(topic, 1)
	good := s.app(topic)
	wantCheck(t, checkSource(t, good), connect.CheckOK, "sasl", "as user "+s.Username+" by SCRAM-SHA-512, over TLS 1.3")
	cfg := s.app(topic)
	cfg.SASL.Password = "wrong"
	wantCheck(t, checkSource(t, cfg), connect.CheckFailed, "sasl", "SASL_AUTHENTICATION_FAILED", "check sasl.username")
	cfg = s.app(topic)
	cfg.TLS = &TLS{}
	wantCheck(t, checkSource(t, cfg), connect.CheckFailed, "tls.ca_file", "unknown authority", "set tls.ca_file")
	cfg.TLS = nil
	wantCheck(t, checkSource(t, cfg), connect.CheckFailed, "tls", "speaks TLS")
	cfg.TLS = &TLS{InsecureSkipVerify: true}
	wantCheck(t, checkSource(t, cfg), connect.CheckWarning, "tls.insecure_skip_verify", "not checked", "tls.ca_file")
	mutual := s.app(topic)
	mutual.Brokers, mutual.SASL = []string{s.MTLSBroker}, nil
	mutual.TLS = &TLS{CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile}
	wantCheck(t, checkSource(t, mutual), connect.CheckOK, "", "login", "certificate "+s.CertFile)
	k := &checks{conn: &mutual.Connection}
	k.expiry("certificate c", "tls.cert_file", time.Now().Add(72*time.Hour+time.Minute))
	wantCheck(t, k.list, connect.CheckWarning, "tls.cert_file", "in 3 days", "renew")
}

// Every check of a missing right has the command that grants it.
func TestRightsAreChecked(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	name := testservice.Name(t)
	s.create(name, 1)
	s.addUser(name, "secret")
	cfg := s.app(name)
	cfg.Group = name
	cfg.SASL = &SASL{Mechanism: "SCRAM-SHA-512", Username: name, Password: connect.Secret("secret")}
	allow := func(b *kadm.ACLBuilder) {
		t.Helper()
		if _, err := s.adm.CreateACLs(t.Context(), b.Allow("User:"+name).AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)); err != nil {
			t.Fatal(err)
		}
	}
	// The rights of one step are known to the brokers soon.
	soon := func(check func() []connect.Check, status connect.CheckStatus, field string, words ...string) {
		t.Helper()
		eventually(t, fmt.Sprint(words), func() bool {
			got := check()
			return slices.ContainsFunc(got, func(c connect.Check) bool {
				return c.Status == status && c.Field == field && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c.What+c.Found+c.Next, w) })
			})
		})
	}
	source := func() []connect.Check { return checkSource(t, cfg) }
	grant := "kafka-acls.sh --bootstrap-server " + s.SASLBroker + " --command-config admin.properties --add --allow-principal User:" + name
	soon(source, connect.CheckFailed, "topics[0]", "user "+name, grant+" --operation Read --topic "+name)
	allow(kadm.NewACLs().Topics(name).Operations(kadm.OpDescribe))
	soon(source, connect.CheckFailed, "topics[0]", "Read on topic "+name+" is missing", grant+" --operation Read --topic "+name)
	allow(kadm.NewACLs().Topics(name).Operations(kadm.OpRead))
	soon(source, connect.CheckFailed, "group", "group "+name, grant+" --operation Read --group "+name)
	soon(source, connect.CheckWarning, "topics", "cannot be seen", grant+" --operation DescribeConfigs --topic "+name)
	allow(kadm.NewACLs().Groups(name).Operations(kadm.OpRead))
	soon(source, connect.CheckOK, "group", "does not exist yet")

	src := cfg
	src.Topics = []string{s.Prefix + name}
	sink := func() []connect.Check {
		return checkSink(t, SinkConfig{Connection: cfg.Connection, Topic: name, Source: &src}, flow.Setup{Flow: "f"})
	}
	soon(sink, connect.CheckFailed, "topic", "Write on topic "+name+" is missing", grant+" --operation Write --topic "+name)
	soon(sink, connect.CheckFailed, "delivery", "transactions of flow f", grant+" --operation Write --transactional-id f- --resource-pattern-type prefixed")
}

// What has not been read and is about to be removed is warned of, and what is removed already.
func TestRetentionIsComparedWithLag(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	checked := func(age time.Duration, configs ...string) (SourceConfig, string) {
		t.Helper()
		topic := b.topic(1, configs...)
		cfg := b.config(topic)
		for range 4 {
			b.produce(&kgo.Record{Topic: topic, Value: make([]byte, 1000), Timestamp: time.Now().Add(-age)})
		}
		b.commitAs(cfg.Group, topic, 0, 1)
		return cfg, topic
	}
	cfg, topic := checked(40*time.Hour, "retention.ms=172800000")
	wantCheck(t, checkSource(t, cfg), connect.CheckWarning, "topics", "topic "+topic, "3 offsets", "removed within 12 hours", "records for 2 days", "retention.ms=345600000")
	cfg, _ = checked(time.Hour, "retention.ms=172800000")
	wantAll(t, checkSource(t, cfg), connect.CheckOK)
	cfg, topic = checked(0, "retention.bytes=3000")
	wantCheck(t, checkSource(t, cfg), connect.CheckWarning, "topics", topic+"[0] holds about", "retention.bytes=6000")
	cfg, topic = checked(0, "retention.bytes=100000")
	wantAll(t, checkSource(t, cfg), connect.CheckOK)
	if _, err := b.adm.DeleteRecords(t.Context(), kadm.Offsets{topic: {0: {Topic: topic, At: 3}}}); err != nil {
		t.Fatal(err)
	}
	wantCheck(t, checkSource(t, cfg), connect.CheckWarning, "topics", "2 offsets", "that of "+topic+"[0] is 1, and the log begins at 3", "penstock position")
	cfg, _ = checked(0, "retention.ms=3600000")
	wantCheck(t, checkSource(t, cfg), connect.CheckWarning, "topics", "records for 1h0m0s", "stopped for longer")
}

func TestDeadLetterTopicAndTargetAreChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	src := b.config(b.topic(2, "max.message.bytes=3000000"))
	src.ClientID, src.Isolation = "x", readCommitted
	conn := src.Connection
	letters := func(topic string, more ...func(*DeadLetterConfig)) []connect.Check {
		cfg := DeadLetterConfig{Connection: conn, Topic: topic, Source: &src}
		for _, f := range more {
			f(&cfg)
		}
		return checkLetters(t, cfg)
	}
	create := func(c *DeadLetterConfig) { c.Create = true }
	wantAll(t, letters(b.topic(1, "retention.ms=-1")), connect.CheckOK)
	wantCheck(t, letters(b.topic(1)), connect.CheckWarning, "topic", "records for 7 days", "retention.ms=-1")
	bad := letters(b.topic(1, "cleanup.policy=compact", "min.insync.replicas=2", "max.message.bytes=1000"))
	wantAll(t, bad, connect.CheckFailed)
	wantCheck(t, bad, connect.CheckFailed, "topic", "cleanup.policy is compact", "cleanup.policy=delete")
	wantCheck(t, bad, connect.CheckFailed, "topic", "min.insync.replicas is 2", "no write can succeed", "min.insync.replicas=1")
	wantCheck(t, bad, connect.CheckFailed, "topic", "up to 1000 bytes", src.Topics[0]+" has up to 3000000", "max.message.bytes=3000000")
	wantCheck(t, letters("no-such-topic"), connect.CheckFailed, "topic", "does not exist", "set create: true")
	wantCheck(t, letters("no-such-topic", create), connect.CheckOK, "topic", "is created when the flow starts, with 2 partitions")
	wantCheck(t, letters("no-such-topic", create, func(c *DeadLetterConfig) { c.Replication = 3 }), connect.CheckFailed, "replication", "3 replicas", "set replication to 1")
	if md, err := b.adm.Metadata(t.Context(), "no-such-topic"); err != nil || md.Topics["no-such-topic"].Err == nil {
		t.Errorf("a check has created the topic (%v)", err)
	}

	wanted := b.topic(2)
	cfg := SinkConfig{Connection: conn, Topic: wanted, Source: &src, DeadLetterTopic: b.topic(1, "retention.ms=-1")}
	got := checkSink(t, cfg, flow.Setup{Flow: "f"})
	wantAll(t, got, connect.CheckOK)
	wantCheck(t, got, connect.CheckOK, "delivery", "transactions of flow f", "forgotten when the flow does not run for 7 days")
	wantCheck(t, checkSink(t, cfg, flow.Setup{Flow: "f", ClusterID: "other"}), connect.CheckFailed, "delivery", "the source reads cluster other", "at_least_once")
	cfg.TransactionTimeout = 15 * time.Minute // as long as the brokers allow
	wantCheck(t, checkSink(t, cfg, flow.Setup{Flow: "f"}), connect.CheckOK, "delivery", "15m0s")
	cfg.Delivery, cfg.Topic = deliverAtLeastOnce, b.topic(1, "max.message.bytes=1000")
	got = checkSink(t, cfg, flow.Setup{Flow: "f"})
	wantCheck(t, got, connect.CheckFailed, "partition", "1 partition", "has 2", "--partitions 2")
	wantCheck(t, got, connect.CheckWarning, "topic", "up to 1000 bytes", "become dead letters")
	cfg.Brokers = []string{strings.Replace(b.addr, "127.0.0.1", "localhost", 1)} // Validate does not know that it is the same cluster
	cfg.Topic = src.Topics[0]
	wantCheck(t, checkSink(t, cfg, flow.Setup{Flow: "f"}), connect.CheckFailed, "topic", "it would read what it has written")
	wantCheck(t, checkLetters(t, DeadLetterConfig{Connection: cfg.Connection, Topic: src.Topics[0], Source: &src}), connect.CheckFailed, "topic", "come back")
}

func TestReplicasAreChecked(t *testing.T) {
	replicated := func(leader int32, insync ...int32) *kadm.TopicDetail {
		return &kadm.TopicDetail{Topic: "t", Partitions: kadm.PartitionDetails{4: {Partition: 4, Leader: leader, Replicas: []int32{1, 2, 3}, ISR: insync}}}
	}
	for _, c := range []struct {
		topic  *kadm.TopicDetail
		min    string
		status connect.CheckStatus
		words  string
	}{
		{replicated(1, 1, 2, 3), "2", "", ""},
		{replicated(-1), "2", connect.CheckFailed, "1 partition of 1 without a leader (4)"},
		{replicated(1, 1, 2), "2", connect.CheckWarning, "not in sync (4)"},
		{replicated(1, 1), "2", connect.CheckFailed, "has 1 in sync now"},
		{replicated(1, 1, 2, 3), "3", connect.CheckWarning, "while one broker is down, nothing can be written"},
		{replicated(1, 1, 2, 3), "1", connect.CheckWarning, "is lost with it"},
	} {
		k := &checks{conn: &Connection{Brokers: []string{"b:1"}}}
		if k.usable(c.topic, "topic", kadm.OpWrite, mayWrite("t")) {
			k.durable(c.topic, "topic", settings{"min.insync.replicas": c.min}, 3)
		}
		if c.status == "" {
			if k.list != nil {
				t.Errorf("got %v", k.list)
			}
			continue
		}
		wantCheck(t, k.list, c.status, "topic", c.words)
	}
}
