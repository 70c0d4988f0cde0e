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
		"brokers ":              func(c *SourceConfig) { c.Brokers = []string{"kafka://h:1"} },
		"topics":                func(c *SourceConfig) { c.Topics = nil },
		"topics ":               func(c *SourceConfig) { c.Topics = []string{"a.*"} },
		"topics  ":              func(c *SourceConfig) { c.Topics = []string{"a", "a"} },
		"topics   ":             func(c *SourceConfig) { c.Topics = []string{"a b"} },
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
