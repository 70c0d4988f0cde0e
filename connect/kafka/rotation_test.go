package kafka

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/internal/testservice/logintest"
	"github.com/penstockdev/penstock/internal/testservice/server"
)

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
	s := newSecure(t)
	topic := s.Prefix + testservice.Name(t)
	s.create(topic, 1)
	with := func(oauth OAuth) SourceConfig {
		cfg := s.app(topic)
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
		e := logintest.NewEndpoint(t, s.Username, server.ReauthEvery)
		cfg := with(from(e))
		in := newIntake(t)
		r := run(t, cfg, in)
		var w wire
		probe := s.client(&cfg.Connection, kgo.WithHooks(&w))
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
		s.fill(topic, 1, 0, 3)
		eventually(t, "the records", func() bool { return in.count() == 3 })
		if err := r.fatal(); err != nil {
			t.Error(err)
		}
	})

	t.Run("from a file that changes", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "token")
		logintest.Write(t, file, logintest.Token(s.Username, time.Now().Add(server.ReauthEvery)))
		cfg := with(OAuth{TokenFile: file})
		probe := s.client(&cfg.Connection)
		eventually(t, "the token to end", func() bool {
			err := cfg.explain("asking", probe.Ping(t.Context()))
			if err != nil {
				wantError(t, "an old token", err, flow.ClassTransient, file, "is good until", "what renews the file")
			}
			return err != nil
		})
		logintest.Write(t, file, logintest.Token(s.Username, time.Now().Add(time.Hour)), "\n")
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
		}, flow.ClassFatal, []string{s.SASLBroker, "the token was refused", "invalid_token", "sasl.oauth"}},
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
	s := newSecure(t)
	name := s.Prefix + testservice.Name(t)
	s.create(name, 1)
	s.addUser(name, "old")
	s.allow("User:"+name, name)
	file := filepath.Join(t.TempDir(), "password")
	logintest.Write(t, file, "old\n")
	cfg := s.app(name)
	cfg.Group = name
	cfg.SASL = &SASL{Mechanism: "SCRAM-SHA-256", Username: name, PasswordFile: file}
	in := newIntake(t)
	r := run(t, cfg, in)
	s.fill(name, 1, 0, 3)
	eventually(t, "the records", func() bool { return in.count() == 3 })
	probe := s.client(&cfg.Connection)

	s.addUser(name, "new")
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
	s.fill(name, 1, 3, 3)
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
	o.createACLs(deny)
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
