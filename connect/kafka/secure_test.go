package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// secure is the Kafka that asks who you are, with the administrator's client.
type secure struct {
	*broker
	testservice.Secure
}

func newSecure(t *testing.T) *secure {
	t.Helper()
	s := testservice.KafkaSecure(t)
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &secure{brokerAt(t, s.SASLBroker, kgo.DialTLSConfig(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}),
		kgo.SASL(scram.Auth{User: s.AdminUsername, Pass: s.AdminPassword}.AsSha512Mechanism())), s}
}

func (s *secure) app(topic string) SourceConfig {
	cfg := s.config(topic)
	cfg.Group = s.Prefix + cfg.Group
	cfg.TLS = &TLS{CAFile: s.CAFile}
	cfg.SASL = &SASL{Mechanism: "SCRAM-SHA-512", Username: s.Username, Password: connect.Secret(s.Password)}
	return cfg
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	topic := s.Prefix + testservice.Name(t)
	s.create(topic, 1)
	s.fill(topic, 1, 0, 3)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(s.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*SourceConfig){
		"SCRAM-SHA-512": func(*SourceConfig) {},
		"SCRAM-SHA-256": func(c *SourceConfig) { c.SASL.Mechanism = "SCRAM-SHA-256" },
		"PLAIN":         func(c *SourceConfig) { c.SASL.Mechanism = "PLAIN" },
		"password file": func(c *SourceConfig) { c.SASL.Password, c.SASL.PasswordFile = "", file },
		"certificate": func(c *SourceConfig) {
			c.Brokers, c.SASL = []string{s.MTLSBroker}, nil
			c.TLS.CertFile, c.TLS.KeyFile = s.CertFile, s.KeyFile
		},
		"any certificate of the broker": func(c *SourceConfig) { c.TLS = &TLS{InsecureSkipVerify: true} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := s.app(topic)
			cfg.Group = s.Prefix + testservice.Name(t)
			change(&cfg)
			in := newIntake(t)
			run(t, cfg, in)
			eventually(t, "the records", func() bool { return in.count() == 3 })
		})
	}
}

func TestLoginErrors(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	topic, foreign := s.Prefix+testservice.Name(t), testservice.Name(t)
	s.create(topic, 1)
	s.create(foreign, 1)
	for name, c := range map[string]struct {
		change func(*SourceConfig)
		class  flow.Class
		say    []string
	}{
		"wrong password": {
			func(c *SourceConfig) { c.SASL.Password = "wrong" }, flow.ClassFatal,
			[]string{s.SASLBroker, "user " + s.Username + " was refused", "sasl.username"},
		},
		"unknown user": {
			func(c *SourceConfig) { c.SASL.Username, c.SASL.Mechanism = "nobody", "PLAIN" }, flow.ClassFatal,
			[]string{"user nobody was refused"},
		},
		"unknown CA": {func(c *SourceConfig) { c.TLS.CAFile = "" }, flow.ClassFatal, []string{s.SASLBroker, "set tls.ca_file"}},
		"other name": {
			func(c *SourceConfig) { c.TLS.ServerName = "kafka.example.com" }, flow.ClassFatal,
			[]string{"kafka.example.com", "tls.server_name"},
		},
		"no TLS":   {func(c *SourceConfig) { c.TLS = nil }, flow.ClassFatal, []string{s.SASLBroker, "set tls"}},
		"no login": {func(c *SourceConfig) { c.SASL = nil }, flow.ClassUnknown, []string{"check tls and sasl"}},
		"no certificate": {
			func(c *SourceConfig) { c.Brokers, c.SASL = []string{s.MTLSBroker}, nil }, flow.ClassFatal,
			[]string{s.MTLSBroker, "tls.cert_file"},
		},
		"foreign topic": {
			func(c *SourceConfig) { c.Topics = []string{foreign} }, flow.ClassFatal,
			[]string{foreign, "user " + s.Username, "grant it Read on topic " + foreign},
		},
		"foreign group": {
			func(c *SourceConfig) { c.Group = "foreign" }, flow.ClassFatal,
			[]string{"group foreign", "user " + s.Username, "grant it Read on group foreign"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := s.app(topic)
			c.change(&cfg)
			src, err := NewSource(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeSource(t, src) })
			_, err = src.Open(t.Context())
			wantError(t, name, err, c.class, c.say...)
		})
	}
}

// A right that is taken away while the flow runs stops it, with its name.
func TestRightTakenAway(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	name := testservice.Name(t)
	s.create(name, 1)
	s.fill(name, 1, 0, 3)
	acl := func() *kadm.ACLBuilder {
		return kadm.NewACLs().Allow("User:"+s.Username).AllowHosts("*").Topics(name).Operations(kadm.OpRead, kadm.OpDescribe).
			ResourcePatternType(kadm.ACLPatternLiteral)
	}
	if _, err := s.adm.CreateACLs(t.Context(), acl()); err != nil {
		t.Fatal(err)
	}
	in := newIntake(t)
	r := run(t, s.app(name), in)
	eventually(t, "the records", func() bool { return in.count() == 3 })
	deletion := kadm.NewACLs().Allow("User:" + s.Username).AllowHosts("*").Topics(name).Operations(kadm.OpRead)
	if _, err := s.adm.DeleteACLs(t.Context(), deletion.ResourcePatternType(kadm.ACLPatternLiteral)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an error", func() bool { return r.fatal() != nil })
	wantError(t, "right taken away", r.fatal(), flow.ClassFatal, name, "user "+s.Username, "grant it Read")
}

func TestDeadLetterRights(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	foreign := testservice.Name(t)
	s.create(foreign, 1)
	cfg := DeadLetterConfig{Connection: s.app("x").Connection, Topic: foreign}
	wantError(t, "foreign topic", openLetters(t, cfg), flow.ClassFatal, foreign, "user "+s.Username)
	acls := kadm.NewACLs().Allow("User:" + s.Username).AllowHosts("*").Topics(foreign).Operations(kadm.OpDescribe).
		ResourcePatternType(kadm.ACLPatternLiteral)
	if _, err := s.adm.CreateACLs(t.Context(), acls); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the right to see the topic to arrive", func() bool {
		return flow.ClassOf(openLetters(t, cfg)) == flow.ClassFatal
	})
	wantError(t, "read-only topic", openLetters(t, cfg), flow.ClassFatal, foreign, "user "+s.Username, "grant it Write")
	cfg.Topic, cfg.Create = foreign+".dead", true
	wantError(t, "creating", openLetters(t, cfg), flow.ClassFatal, cfg.Topic, "Describe and Write", "and Create")
	cfg.Topic = s.Prefix + foreign
	if err := openLetters(t, cfg); err != nil {
		t.Error(err)
	}
}
