package kafka

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/connect"
)

func TestSpecs(t *testing.T) {
	if _, err := connect.SpecOf[SourceConfig](); err != nil {
		t.Error(err)
	}
	if _, err := connect.SpecOf[DeadLetterConfig](); err != nil {
		t.Error(err)
	}
}

func TestValidateSource(t *testing.T) {
	valid := func() SourceConfig {
		c := SourceConfig{Connection: Connection{Brokers: []string{"127.0.0.1:9092"}}, Topics: []string{"a"}, Group: "g"}
		connect.Defaults(&c)
		return c
	}
	c := valid()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for path, change := range map[string]func(*SourceConfig){
		"brokers":               func(c *SourceConfig) { c.Brokers = nil },
		"brokers[0]":            func(c *SourceConfig) { c.Brokers = []string{"kafka://h:1"} },
		"brokers[1]":            func(c *SourceConfig) { c.Brokers = []string{"h:1", "h:99999"} },
		"brokers[0] ":           func(c *SourceConfig) { c.Brokers = []string{":1"} },
		"brokers[0]  ":          func(c *SourceConfig) { c.Brokers = []string{"h:"} },
		"brokers[0]   ":         func(c *SourceConfig) { c.Brokers = []string{"a b:1"} },
		"brokers[0]    ":        func(c *SourceConfig) { c.Brokers = []string{"h:0"} },
		"brokers[0]     ":       func(c *SourceConfig) { c.Brokers = []string{""} },
		"topics":                func(c *SourceConfig) { c.Topics = nil },
		"topics[0]":             func(c *SourceConfig) { c.Topics = []string{"a.*"} },
		"topics[1]":             func(c *SourceConfig) { c.Topics = []string{"a", "a"} },
		"topics[0] ":            func(c *SourceConfig) { c.Topics = []string{"a b"} },
		"topics[0]  ":           func(c *SourceConfig) { c.Topics = []string{".."} },
		"pattern":               func(c *SourceConfig) { c.Pattern = "a" },
		"pattern ":              func(c *SourceConfig) { c.Topics, c.Pattern = nil, "a(" },
		"group":                 func(c *SourceConfig) { c.Group = "" },
		"start":                 func(c *SourceConfig) { c.Start = "yesterday" },
		"heartbeat_interval":    func(c *SourceConfig) { c.HeartbeatInterval = 16 * time.Second },
		"session_timeout":       func(c *SourceConfig) { c.SessionTimeout = -1 },
		"metadata_max_age":      func(c *SourceConfig) { c.MetadataMaxAge = time.Nanosecond },
		"fetch.wait":            func(c *SourceConfig) { c.Fetch.Wait = time.Nanosecond },
		"fetch.max_bytes":       func(c *SourceConfig) { c.Fetch.MaxBytes = 1 << 40 },
		"fetch.partition_bytes": func(c *SourceConfig) { c.Fetch.PartitionBytes = 5 << 20 },
		"fetch.min_bytes":       func(c *SourceConfig) { c.Fetch.MinBytes = 5 << 20 },
		"fetch.response_limit":  func(c *SourceConfig) { c.Fetch.ResponseLimit = 5 << 20 },
		"tls.cert_file":         func(c *SourceConfig) { c.TLS = &TLS{CertFile: "c"} },
		"tls.key_file":          func(c *SourceConfig) { c.TLS = &TLS{KeyFile: "k"} },
		"tls.insecure_skip_verify": func(c *SourceConfig) {
			c.TLS = &TLS{InsecureSkipVerify: true, CAFile: "a"}
		},
		"sasl.username":      func(c *SourceConfig) { c.SASL = &SASL{Password: "p"} },
		"sasl.password":      func(c *SourceConfig) { c.SASL = &SASL{Username: "u"} },
		"sasl.password_file": func(c *SourceConfig) { c.SASL = &SASL{Username: "u", Password: "p", PasswordFile: "f"} },
		"sasl.mechanism":     func(c *SourceConfig) { c.SASL = &SASL{Username: "u", Password: "p", Mechanism: "GSSAPI"} },
	} {
		c := valid()
		change(&c)
		wantField(t, path, c.Validate())
	}
}

func TestValidateNamesAllFaults(t *testing.T) {
	c := SourceConfig{Connection: Connection{Brokers: []string{":1", "h:1", "h:x"}, SASL: &SASL{Mechanism: "NTLM"}}, Topics: []string{"a b", "b", "c!"}, Start: "now"}
	connect.Defaults(&c)
	c.SessionTimeout, c.Fetch.MaxBytes = -1, 0
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, path := range []string{
		"brokers[0]", "brokers[2]", "sasl.username", "sasl.password", "sasl.mechanism", "topics[0]", "topics[2]", "group", "start", "session_timeout", "fetch.max_bytes",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+path+": ") {
			t.Errorf("nothing about %s in:\n%v", path, err)
		}
	}
	for _, b := range []string{"h", "h:1", "127.0.0.1:65535", "[::1]:9092", "::1", "kafka-0.kafka_x.svc.cluster.local:9092"} {
		if !isAddress(b) {
			t.Errorf("%s was refused", b)
		}
	}
}

func TestConnectionOfTheSourceIsTakenAsAWhole(t *testing.T) {
	half := Connection{TLS: &TLS{}}
	for name, err := range map[string]error{
		"sink":         (&SinkConfig{Connection: half, Topic: "t", TransactionTimeout: time.Second}).Validate(),
		"dead letters": (&DeadLetterConfig{Connection: half, Topic: "t"}).Validate(),
	} {
		wantField(t, "brokers", err)
		if err == nil || !strings.Contains(err.Error(), "only as a whole") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTimesOfTheConsumerProtocol(t *testing.T) {
	c := SourceConfig{Protocol: protocolConsumer}
	connect.Defaults(&c)
	if c.timesOfMember() {
		t.Error("the defaults were taken for a choice")
	}
	c.HeartbeatInterval = time.Second
	if !c.timesOfMember() {
		t.Error("heartbeat_interval was overlooked")
	}
}

// A right to read that goes missing is waited for a moment, if there was one.
func TestRefusalOfWhatCouldBeRead(t *testing.T) {
	start := time.Now()
	p := partition{at: start}
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{
		{time.Second, false}, // refused from the beginning
		{time.Minute, true},
		{time.Minute + 4*time.Second, true},
		{time.Minute + 6*time.Second, false},
		{time.Minute + 7*time.Second, false},
		{time.Hour, true}, // granted since, and refused again
	} {
		if got := p.refuse(start.Add(c.after)); got != c.want {
			t.Errorf("refused after %s: waited for: %t", c.after, got)
		}
	}
}

func TestDeadLettersOfTheSourcesOwnTopic(t *testing.T) {
	source := &SourceConfig{Connection: Connection{Brokers: []string{"a:1", "b:1"}}, Topics: []string{"x"}}
	for _, c := range []struct {
		brokers       []string
		topic, match  string
		wantsRefusing bool
	}{
		{nil, "x", "", true},
		{nil, "y", "", false},
		{[]string{"b:1"}, "x", "", true},
		{[]string{"other:1"}, "x", "", false}, // compared when both are open
		{nil, "x.dead", `^x`, true},
		{nil, "dead.x", `^x`, false},
	} {
		cfg := DeadLetterConfig{Connection: Connection{Brokers: c.brokers}, Topic: c.topic}
		src := *source
		if c.match != "" {
			src.Topics, src.Pattern = nil, c.match
		}
		if err := cfg.Complete(connect.Context{Source: &src}); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); c.wantsRefusing {
			wantField(t, "topic", err)
		} else if err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestValidateDeadLetters(t *testing.T) {
	valid := func() DeadLetterConfig {
		return DeadLetterConfig{Connection: Connection{Brokers: []string{"h:1"}}, Topic: "dead"}
	}
	c := valid()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for path, change := range map[string]func(*DeadLetterConfig){
		"brokers":     func(c *DeadLetterConfig) { c.Brokers = nil },
		"topic":       func(c *DeadLetterConfig) { c.Topic = "" },
		"create":      func(c *DeadLetterConfig) { c.Partitions = 3 },
		"partitions":  func(c *DeadLetterConfig) { c.Create, c.Partitions = true, -1 },
		"replication": func(c *DeadLetterConfig) { c.Create, c.Replication = true, 1<<20 },
		"tls.cert_file": func(c *DeadLetterConfig) {
			c.TLS = &TLS{CertFile: "c"}
		},
	} {
		c := valid()
		change(&c)
		wantField(t, path, c.Validate())
	}
}

func wantField(t *testing.T, path string, err error) {
	t.Helper()
	var field *connect.FieldError
	if !errors.As(err, &field) {
		t.Errorf("%s: %v", path, err)
		return
	}
	if field.Path != strings.TrimSpace(path) { // spaces make the keys differ
		t.Errorf("%s: error at %s: %v", path, field.Path, err)
	}
}
