package kafka

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// The broker of the tests offers every mechanism that there is here, so what it
// says to another is said for it.
func TestMechanismThatIsNotOffered(t *testing.T) {
	t.Parallel()
	cfg := newSecure(t).app("any")
	wantError(t, "a mechanism", cfg.explain("connecting", kerr.UnsupportedSaslMechanism), flow.ClassFatal,
		"does not accept SASL mechanism SCRAM-SHA-512", "one that it offers (", "OAUTHBEARER")
	cfg.Brokers = []string{"127.0.0.1:1"}
	wantError(t, "nobody to ask", cfg.explain("connecting", kerr.UnsupportedSaslMechanism), flow.ClassFatal, "one that it offers, or")
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
	s.createACLs(acl())
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
			case "--resource-pattern-type":
				acl.ResourcePatternType(kadm.ACLPatternPrefixed)
			case "--cluster":
				acl.Clusters()
			}
		}
		s.createACLs(acl)
	}
}

// createACLs returns once the broker knows the rights: it is told by the controller, later.
func (s *secure) createACLs(acls *kadm.ACLBuilder) {
	s.t.Helper()
	if _, err := s.adm.CreateACLs(s.t.Context(), acls); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the rights to be known", func() bool {
		known, err := s.adm.DescribeACLs(s.t.Context(), acls)
		return err == nil && !slices.ContainsFunc(known, func(r kadm.DescribeACLsResult) bool { return r.Err != nil || len(r.Described) == 0 })
	})
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
		{func() error { return initProducer(&name) }, mayTransact(name[:len(name)-2]), "grant it Write on transactional ids that begin with " + name[:len(name)-2]},
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
	s.createACLs(kadm.NewACLs().Allow(principal).AllowHosts("*").Topics(prefix).Groups(prefix).
		Operations(kadm.OpAll).ResourcePatternType(kadm.ACLPatternPrefixed))
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
	wantError(t, "creating", openLetters(t, cfg), flow.ClassFatal, cfg.Topic, "Write on topic "+cfg.Topic, "and Create")
	cfg.Topic = s.Prefix + foreign
	if err := openLetters(t, cfg); err != nil {
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

// The shared broker's certificate is good; this is another's that has expired.
func TestBrokersCertificateHasExpired(t *testing.T) {
	t.Parallel()
	ca := logintest.NewCA(t, "ca")
	pair, err := tls.X509KeyPair(ca.Issue("broker", time.Now().Add(-time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil) // the handshake is as far as it comes
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	logintest.Write(t, file, ca.PEM)
	src, err := NewSource(SourceConfig{
		Connection: Connection{Brokers: []string{srv.Listener.Addr().String()}, TLS: &TLS{CAFile: file}}, Topics: []string{"x"}, Group: "g",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSource(t, src) })
	_, err = src.Open(t.Context())
	wantError(t, "expired", err, flow.ClassFatal, "expired", "renew it, or check this machine's clock")
}

func TestCommandIsForAShell(t *testing.T) {
	t.Parallel()
	got := mayRead("a b'c").command("h:1", "User:CN=x,O=Some One")
	want := "kafka-acls.sh --bootstrap-server h:1 --command-config admin.properties --add --allow-principal 'User:CN=x,O=Some One' --operation Read --topic 'a b'\\''c'"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
