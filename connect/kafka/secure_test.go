package kafka

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/internal/testservice/logintest"
	"github.com/penstockdev/penstock/internal/testservice/server"
)

// secure is the Kafka that asks who you are, with the administrator's client.
type secure struct {
	*broker
	testservice.Secure
}

func newSecure(t *testing.T) *secure {
	t.Helper()
	return secureAt(t, testservice.KafkaSecure(t))
}

func secureAt(t *testing.T, s testservice.Secure) *secure {
	t.Helper()
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
	wantError(t, "right taken away", r.fatal(), flow.ClassFatal, name, "user "+s.Username, "grant it Read on topic "+name+",")
	s.grant(r.fatal())
	again := newIntake(t)
	cfg := s.app(name)
	cfg.Group += ".again"
	run(t, cfg, again)
	eventually(t, "the records", func() bool { return again.count() == 3 })
}

// grant does what the error says: it runs its kafka-acls.sh, so to speak.
func (s *secure) grant(err error) {
	s.t.Helper()
	_, commands, ok := strings.Cut(err.Error(), "as an administrator with: ")
	if !ok {
		s.t.Fatalf("no command in: %v", err)
	}
	for command := range strings.SplitSeq(commands, " && ") {
		rest, ok := strings.CutPrefix(command, "kafka-acls.sh --bootstrap-server "+s.addr+" --command-config admin.properties --add ")
		if !ok {
			s.t.Fatalf("not a command: %s", command)
		}
		acl := kadm.NewACLs().AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)
		words := strings.Fields(rest)
		for i, word := range words {
			next := append(words[i:], "")[1]
			switch word {
			case "--allow-principal":
				acl.Allow(next)
			case "--operation":
				op, err := kmsg.ParseACLOperation(next)
				if err != nil {
					s.t.Fatal(err)
				}
				acl.Operations(op)
			case "--topic":
				acl.Topics(next)
			case "--group":
				acl.Groups(next)
			case "--transactional-id":
				acl.TransactionalIDs(next)
			case "--cluster":
				acl.Clusters()
			}
		}
		if _, err := s.adm.CreateACLs(s.t.Context(), acl); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Every right that is missing is named, and granting it as the error says helps.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	name := testservice.Name(t)
	s.create(name, 1)
	s.addUser(name, "secret")
	conn := s.app(name).Connection
	conn.SASL = &SASL{Mechanism: "SCRAM-SHA-512", Username: name, Password: "secret"}
	c := s.client(&conn)
	initProducer := func(id *string) error {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = id, 1000
		resp, err := req.RequestWith(t.Context(), c)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	}
	for _, op := range []struct {
		try   func() error
		needs right
		say   string
	}{
		{func() error { return initProducer(nil) }, mayWriteIdempotently(), "grant it IdempotentWrite on the cluster"},
		{func() error { return initProducer(&name) }, mayTransact(name), "grant it Write on transactional id " + name},
		{func() error {
			md, err := kadm.NewClient(c).Metadata(t.Context(), name)
			return errors.Join(err, md.Topics.Error())
		}, mayDescribe(name), "grant it Describe on topic " + name},
		{func() error {
			return c.ProduceSync(t.Context(), &kgo.Record{Topic: name, Value: []byte("x")}).FirstErr()
		}, mayWrite(name), "grant it Write on topic " + name},
		{func() error {
			_, err := kadm.NewClient(c).FetchOffsets(t.Context(), name)
			return err
		}, mayJoin(name), "grant it Read on group " + name},
		{func() error {
			resp, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, name+".new")
			return cmp.Or(resp.Err, err)
		}, mayCreate(name + ".new"), "grant it Create on topic " + name + ".new"},
	} {
		err := conn.explain("trying", op.try(), mayRead("another"), op.needs)
		if err != nil && op.needs.resource == "topic" { // both are topics
			err = conn.explain("trying", op.try(), op.needs)
		}
		wantError(t, op.say, err, flow.ClassFatal, "user "+name+" may not do this", op.say, "--allow-principal User:"+name)
		s.grant(err)
		eventually(t, op.say, func() bool { err = op.try(); return err == nil })
	}
}

// addUser adds one who may do nothing.
func (s *secure) addUser(name, password string) {
	s.t.Helper()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		got, err := s.adm.AlterUserSCRAMs(s.t.Context(), nil, []kadm.UpsertSCRAM{{User: name, Mechanism: m, Iterations: 4096, Password: password}})
		if err = cmp.Or(err, got.Error()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// allow gives principal all rights to topics and groups whose name begins so.
func (s *secure) allow(principal, prefix string) {
	s.t.Helper()
	_, err := s.adm.CreateACLs(s.t.Context(), kadm.NewACLs().Allow(principal).AllowHosts("*").Topics(prefix).Groups(prefix).
		Operations(kadm.OpAll).ResourcePatternType(kadm.ACLPatternPrefixed))
	if err != nil {
		s.t.Fatal(err)
	}
}

// client is one of the connection's, and not a source's.
func (s *secure) client(conn *Connection, more ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	opts, err := conn.options(slog.Default())
	if err != nil {
		s.t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, append(more, kgo.RequestRetries(1), kgo.MetadataMinAge(10*time.Millisecond))...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	return cl
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

// own is a secure Kafka of the test's own. It trusts clients of ca, too.
type own struct {
	*secure
	node  *server.Kafka
	certs *server.Certs
	ca    *logintest.CA
}

func newOwn(t *testing.T) *own {
	t.Helper()
	testservice.KafkaSecure(t) // says how to start services
	libs, err := server.CachedKafkaLibs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := &own{ca: logintest.NewCA(t, "another CA")}
	if o.certs, err = server.NewCerts(filepath.Join(dir, "tls")); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(o.certs.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	logintest.Write(t, o.certs.CAFile, ca, o.ca.PEM)
	if o.node, err = server.NewSecureKafka(t.Context(), filepath.Join(dir, "kafka"), libs, o.certs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.node.Kill)
	o.secure = secureAt(t, testservice.Secure{
		SASLBroker: o.node.Addr(), MTLSBroker: o.node.MTLSAddr(), CAFile: o.certs.CAFile, CertFile: o.certs.ClientCert, KeyFile: o.certs.ClientKey,
		Username: server.AppUser, Password: server.AppPassword, AdminUsername: server.AdminUser, AdminPassword: server.AdminPassword,
		Prefix: server.AllowedPrefix,
	})
	return o
}

// wire counts what goes to brokers.
type wire struct{ connects, logins atomic.Int32 }

func (w *wire) OnBrokerConnect(kgo.BrokerMetadata, time.Duration, net.Conn, error) { w.connects.Add(1) }

func (w *wire) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == kmsg.SASLAuthenticate.Int16() {
		w.logins.Add(1)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	topic := o.Prefix + testservice.Name(t)
	o.create(topic, 1)
	with := func(oauth OAuth) SourceConfig {
		cfg := o.app(topic)
		cfg.SASL = &SASL{Mechanism: "OAUTHBEARER", OAuth: &oauth}
		return cfg
	}
	from := func(e *logintest.Endpoint) OAuth {
		return OAuth{TokenURL: e.URL, CAFile: e.CAFile, ClientID: e.ID, ClientSecret: connect.Secret(e.Secret), Extensions: map[string]string{"logicalCluster": "lkc-1"}}
	}

	// The broker wants a new login every server.ReauthEvery, and a token holds no
	// longer than that: connections that live must log in with new ones.
	t.Run("renewed on living connections", func(t *testing.T) {
		t.Parallel()
		e := logintest.NewEndpoint(t, o.Username, server.ReauthEvery)
		cfg := with(from(e))
		in := newIntake(t)
		r := run(t, cfg, in)
		var w wire
		probe := o.client(&cfg.Connection, kgo.WithHooks(&w))
		eventually(t, "three tokens more, and logins with them", func() bool {
			if err := probe.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			asked, _ := e.Asked()
			return asked >= 4 && w.logins.Load() >= w.connects.Load()+3
		})
		if n := w.connects.Load(); n > 2 { // one as a seed, one as a broker
			t.Errorf("%d connections were made", n)
		}
		o.fill(topic, 1, 0, 3)
		eventually(t, "the records", func() bool { return in.count() == 3 })
		if err := r.fatal(); err != nil {
			t.Error(err)
		}
	})

	t.Run("from a file that changes", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "token")
		logintest.Write(t, file, logintest.Token(o.Username, time.Now().Add(server.ReauthEvery)))
		cfg := with(OAuth{TokenFile: file})
		probe := o.client(&cfg.Connection)
		eventually(t, "the token to end", func() bool {
			err := cfg.explain("asking", probe.Ping(t.Context()))
			if err != nil {
				wantError(t, "an old token", err, flow.ClassTransient, file, "is good until", "what renews the file")
			}
			return err != nil
		})
		logintest.Write(t, file, logintest.Token(o.Username, time.Now().Add(time.Hour)), "\n")
		if err := probe.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})

	for name, c := range map[string]struct {
		oauth func(t *testing.T) OAuth
		class flow.Class
		say   []string
	}{
		"refused": {func(t *testing.T) OAuth {
			file := filepath.Join(t.TempDir(), "token")
			logintest.Write(t, file, "not-a-jwt")
			return OAuth{TokenFile: file}
		}, flow.ClassFatal, []string{o.SASLBroker, "the token was refused", "invalid_token", "sasl.oauth"}},
		"a user without rights": {
			func(t *testing.T) OAuth { return from(logintest.NewEndpoint(t, "stranger", time.Hour)) },
			flow.ClassFatal,
			[]string{"user stranger may not do this: grant it Read on topic " + topic, "--allow-principal User:stranger --operation Read --topic " + topic},
		},
		"wrong secret": {func(t *testing.T) OAuth {
			c := from(logintest.NewEndpoint(t, "x", time.Hour))
			c.ClientSecret = "wrong"
			return c
		}, flow.ClassFatal, []string{"no token from https://", "invalid_client", "sasl.oauth.client_id"}},
		"endpoint away": {func(*testing.T) OAuth {
			return OAuth{TokenURL: "https://127.0.0.1:1/token", ClientID: "c", ClientSecret: "s"}
		}, flow.ClassTransient, []string{"no token from https://127.0.0.1:1/token", "check that token_url can be reached"}},
		"endpoint of an unknown CA": {func(t *testing.T) OAuth {
			c := from(logintest.NewEndpoint(t, "x", time.Hour))
			c.CAFile = ""
			return c
		}, flow.ClassFatal, []string{"no token from", "set sasl.oauth.ca_file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, err := NewSource(with(c.oauth(t)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeSource(t, src) })
			_, err = src.Open(t.Context())
			wantError(t, name, err, c.class, c.say...)
		})
	}
}

// The broker wants a new login every server.ReauthEvery. Between the change there
// and the one here logins are refused, and nothing stops.
func TestPasswordRotation(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	name := o.Prefix + testservice.Name(t)
	o.create(name, 1)
	o.addUser(name, "old")
	o.allow("User:"+name, name)
	file := filepath.Join(t.TempDir(), "password")
	logintest.Write(t, file, "old\n")
	cfg := o.app(name)
	cfg.Group = name
	cfg.SASL = &SASL{Mechanism: "SCRAM-SHA-256", Username: name, PasswordFile: file}
	in := newIntake(t)
	r := run(t, cfg, in)
	o.fill(name, 1, 0, 3)
	eventually(t, "the records", func() bool { return in.count() == 3 })
	probe := o.client(&cfg.Connection)

	o.addUser(name, "new")
	eventually(t, "a refusal", func() bool {
		err := cfg.explain("asking", probe.Ping(t.Context()))
		if err != nil {
			wantError(t, "half changed", err, flow.ClassTransient, "user "+name+" is refused, and was not before", "within a minute")
		}
		return err != nil
	})
	logintest.Write(t, file, "") // somebody opens it to write
	logintest.Write(t, file, "new\n")
	if err := probe.Ping(t.Context()); err != nil {
		t.Errorf("after the change: %v", err)
	}
	o.fill(name, 1, 3, 3)
	eventually(t, "more records", func() bool { return slices.Contains(in.values(name, 0), "5") })
	if err := r.fatal(); err != nil {
		t.Error(err)
	}
}

// Client certificate, key, the broker's certificate and the CA that is
// trusted are all changed under a source that runs.
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	name := o.Prefix + testservice.Name(t)
	o.create(name, 1)
	for _, p := range []string{"User:CN=one", "User:CN=two"} {
		o.allow(p, name)
	}
	dir := t.TempDir()
	files := TLS{CAFile: filepath.Join(dir, "ca"), CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	issue := func(subject string) {
		cert, key := o.ca.Issue(subject, time.Now().Add(time.Hour))
		logintest.Write(t, files.CertFile, cert)
		logintest.Write(t, files.KeyFile, key)
	}
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	firstCA := ca[:len(ca)-len(o.ca.PEM)]
	logintest.Write(t, files.CAFile, firstCA)
	issue("one")
	cfg := o.app(name)
	cfg.Brokers, cfg.Group, cfg.SASL = []string{o.MTLSBroker}, name, nil
	cfg.TLS = &TLS{CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile}
	in := newIntake(t)
	r := run(t, cfg, in)
	records := 0
	more := func(when string) {
		t.Helper()
		o.fill(name, 1, records, 3)
		records += 3
		last := fmt.Sprint(records - 1) // not the count: who joins again starts where the test says, at the beginning
		eventually(t, "the records "+when, func() bool { return slices.Contains(in.values(name, 0), last) })
	}
	more("at first")

	logintest.Write(t, files.CertFile, "half of a certif")
	logintest.Write(t, files.CAFile, firstCA[:100])
	more("with half-written files")
	if err := o.client(&cfg.Connection).Ping(t.Context()); err != nil {
		t.Errorf("a new connection with half-written files: %v", err)
	}

	logintest.Write(t, files.CAFile, firstCA)
	issue("two")
	deny := kadm.NewACLs().Deny("User:CN=one").DenyHosts("*").Topics(name).Operations(kadm.OpDescribe).ResourcePatternType(kadm.ACLPatternLiteral)
	if _, err := o.adm.CreateACLs(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	probe := o.client(&cfg.Connection)
	if _, err := kadm.NewClient(probe).ListEndOffsets(t.Context(), name); err != nil {
		t.Errorf("a new connection is not the new certificate's owner: %v", err)
	}
	if _, err := o.adm.DeleteACLs(t.Context(), kadm.NewACLs().Deny("User:CN=one").DenyHosts("*").Topics(name).Operations(kadm.OpDescribe).
		ResourcePatternType(kadm.ACLPatternLiteral)); err != nil {
		t.Fatal(err)
	}
	more("after the client's certificate")

	// The broker gets a certificate of the other CA, without a restart.
	cert, key := o.ca.Issue("localhost", time.Now().Add(time.Hour))
	store := filepath.Join(dir, "broker.pem")
	logintest.Write(t, store, key, cert)
	set := func(key, value string) kadm.AlterConfig {
		return kadm.AlterConfig{Op: kadm.SetConfig, Name: "listener.name.mtls." + key, Value: &value}
	}
	res, err := o.adm.AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{set("ssl.keystore.type", "PEM"), set("ssl.keystore.location", store)}, 1)
	if err != nil || len(res) != 1 || res[0].Err != nil {
		t.Fatalf("change the broker's certificate: %v, %+v", err, res)
	}
	eventually(t, "the broker's new certificate", func() bool {
		err := cfg.explain("asking", o.client(&cfg.Connection).Ping(t.Context()))
		if err != nil {
			wantError(t, "the other CA", err, flow.ClassFatal, "set tls.ca_file")
		}
		return err != nil
	})
	more("on the old connections")
	logintest.Write(t, files.CAFile, o.ca.PEM)
	eventually(t, "a connection with the new CA", func() bool { return o.client(&cfg.Connection).Ping(t.Context()) == nil })
	o.node.Stop() // and now every connection is a new one
	if err := o.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	more("after the broker's restart")
	if err := r.fatal(); err != nil {
		t.Error(err)
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newSecure(t)
	dir := t.TempDir()
	conn := s.app("x").Connection
	conn.Brokers, conn.SASL = []string{s.MTLSBroker}, nil
	for name, c := range map[string]struct {
		ca    string
		until time.Time
		say   []string
	}{
		"of a CA that the broker does not know": {"unknown", time.Now().Add(time.Hour), []string{s.MTLSBroker, "tls.cert_file"}},
		"expired":                               {"unknown", time.Now().Add(-time.Hour), []string{"tls.cert_file: the certificate in ", "has expired on", "renew it"}},
	} {
		cert, key := logintest.NewCA(t, c.ca).Issue("client", c.until)
		conn.TLS = &TLS{CAFile: s.CAFile, CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
		logintest.Write(t, conn.TLS.CertFile, cert)
		logintest.Write(t, conn.TLS.KeyFile, key)
		cfg := s.app("x")
		cfg.Connection = conn
		src, err := NewSource(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = src.Open(t.Context())
		closeSource(t, src)
		wantError(t, name, err, flow.ClassFatal, c.say...)
	}
}
