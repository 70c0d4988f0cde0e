package login

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/internal/testservice/logintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var tomorrow = time.Now().Add(24 * time.Hour)

// pki is a server that asks for certificates, and a client's files.
type pki struct {
	t      testing.TB
	dir    string
	addr   string
	client *TLS
	dial   dialFunc
	log    *journal

	mu     sync.Mutex
	server *tls.Config
}

// journal is a log that is looked at.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) count(words string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.buf.String(), words)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// newPKI starts a server with a certificate of ca, which trusts clients of ca. It
// answers each line with the name in the client's certificate.
func newPKI(t testing.TB, ca *logintest.CA) *pki {
	p := &pki{t: t, dir: t.TempDir(), log: &journal{}}
	p.client = &TLS{CAFile: p.file("ca.pem"), CertFile: p.file("cert.pem"), KeyFile: p.file("key.pem")}
	p.serve(ca)
	logintest.Write(t, p.client.CAFile, ca.PEM)
	p.issue(ca, "one")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.answer(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	if p.dial, err = p.client.dialer(p.log.logger()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) serve(ca *logintest.CA) {
	cert, key := ca.Issue("server", tomorrow)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
}

// issue gives the client a certificate.
func (p *pki) issue(ca *logintest.CA, name string) {
	cert, key := ca.Issue(name, tomorrow)
	logintest.Write(p.t, p.client.CertFile, cert)
	logintest.Write(p.t, p.client.KeyFile, key)
}

func (p *pki) answer(c net.Conn) {
	p.mu.Lock()
	s := tls.Server(c, p.server)
	p.mu.Unlock()
	defer s.Close()
	for lines := bufio.NewScanner(s); lines.Scan(); {
		if _, err := s.Write([]byte(s.ConnectionState().PeerCertificates[0].Subject.CommonName + "\n")); err != nil {
			return
		}
	}
}

// connection is one that the client has made.
type connection struct {
	net.Conn
	r *bufio.Reader
}

func (p *pki) connect() (*connection, error) {
	c, err := p.dial(p.t.Context(), "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &connection{c, bufio.NewReader(c)}, nil
}

// name asks the server for whom it takes the client.
func (c *connection) name() (string, error) {
	if _, err := c.Write([]byte("who?\n")); err != nil {
		return "", err
	}
	s, err := c.r.ReadString('\n')
	return strings.TrimSpace(s), err
}

func (p *pki) wantName(c *connection, want string) {
	p.t.Helper()
	if got, err := c.name(); err != nil || got != want {
		p.t.Fatalf("the server takes the client for %q (%v), want %q", got, err, want)
	}
}

func (p *pki) wantNew(want string) {
	p.t.Helper()
	c, err := p.connect()
	if err != nil {
		p.t.Fatal(err)
	}
	p.wantName(c, want)
	_ = c.Close()
}

func TestNewConnectionsUseTheNewCertificate(t *testing.T) {
	t.Parallel()
	ca := logintest.NewCA(t, "ca")
	p := newPKI(t, ca)
	old, err := p.connect()
	if err != nil {
		t.Fatal(err)
	}
	p.wantName(old, "one")
	p.issue(ca, "two")
	p.wantNew("two")
	p.wantName(old, "one")
	if name, ok := Principal(p.client, nil); !ok || name != "User:CN=two" {
		t.Errorf("the principal is %q", name)
	}
}

func TestNewConnectionsTrustTheNewCA(t *testing.T) {
	t.Parallel()
	before, after := logintest.NewCA(t, "before"), logintest.NewCA(t, "after")
	p := newPKI(t, before)
	old, err := p.connect()
	if err != nil {
		t.Fatal(err)
	}
	p.serve(after)
	p.issue(after, "two")
	if _, err := p.connect(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Fatalf("an unknown CA gave %v", err)
	}
	logintest.Write(t, p.client.CAFile, before.PEM, after.PEM)
	p.wantNew("two")
	p.wantName(old, "one")
}

func TestHalfWrittenFilesChangeNothing(t *testing.T) {
	t.Parallel()
	ca, other := logintest.NewCA(t, "ca"), logintest.NewCA(t, "other")
	_, foreignKey := ca.Issue("x", tomorrow)
	expired, expiredKey := ca.Issue("x", time.Now().Add(-time.Hour))
	for name, c := range map[string]struct {
		spoil func(*pki)
		say   string
	}{
		"first CA":        {func(p *pki) { logintest.Write(t, p.client.CAFile, ca.PEM[:len(ca.PEM)/2]) }, "ends in the middle"},
		"second CA":       {func(p *pki) { logintest.Write(t, p.client.CAFile, other.PEM, ca.PEM[:len(ca.PEM)-9]) }, "ends in the middle"},
		"empty CA":        {func(p *pki) { logintest.Write(t, p.client.CAFile, "") }, "nothing in PEM form"},
		"CA away":         {func(p *pki) { _ = os.Remove(p.client.CAFile) }, "no such file"},
		"key as CA":       {func(p *pki) { logintest.Write(t, p.client.CAFile, foreignKey) }, "no certificate"},
		"a huge CA":       {func(p *pki) { logintest.Write(t, p.client.CAFile, make([]byte, maxFile+1)) }, "larger than"},
		"empty cert":      {func(p *pki) { logintest.Write(t, p.client.CertFile, "") }, "nothing in PEM form"},
		"key away":        {func(p *pki) { _ = os.Remove(p.client.KeyFile) }, "no such file"},
		"half a key":      {func(p *pki) { logintest.Write(t, p.client.KeyFile, foreignKey[:80]) }, "ends in the middle"},
		"key written yet": {func(p *pki) { logintest.Write(t, p.client.KeyFile, foreignKey) }, "does not match"},
		"expired": {func(p *pki) {
			logintest.Write(t, p.client.CertFile, expired)
			logintest.Write(t, p.client.KeyFile, expiredKey)
		}, "has expired on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPKI(t, ca)
			old, err := p.connect()
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(p)
			for range 3 {
				p.wantNew("one")
			}
			p.wantName(old, "one")
			if warned, said := p.log.count("level=WARN"), p.log.count(c.say); warned != 1 || said == 0 {
				t.Errorf("%d warnings, want one that says %q:\n%s", warned, c.say, p.log.buf.String())
			}
			fresh := &TLS{CAFile: p.client.CAFile, CertFile: p.client.CertFile, KeyFile: p.client.KeyFile}
			_, err = Options(fresh, nil, p.log.logger())
			if field, ok := errors.AsType[*connect.FieldError](err); !ok || !strings.HasPrefix(field.Path, "tls.") {
				t.Errorf("a client that starts now gets %v, want a field's error", err)
			}
			logintest.Write(t, p.client.CAFile, ca.PEM)
			p.issue(ca, "two")
			p.wantNew("two")
			if p.log.count("put right") != 1 || p.log.count("level=WARN") != 1 {
				t.Errorf("after the repair:\n%s", p.log.buf.String())
			}
		})
	}
}

func TestCertificateThatExpiresLater(t *testing.T) {
	t.Parallel()
	ca := logintest.NewCA(t, "ca")
	p := newPKI(t, ca)
	cert, key := ca.Issue("brief", time.Now().Add(2*time.Second)) // whole seconds, so at least one
	logintest.Write(t, p.client.CertFile, cert)
	logintest.Write(t, p.client.KeyFile, key)
	fresh := &TLS{CAFile: p.client.CAFile, CertFile: p.client.CertFile, KeyFile: p.client.KeyFile}
	var err error
	if p.dial, err = fresh.dialer(p.log.logger()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		c, err := p.connect()
		if err == nil {
			_, err = c.name()
		}
		return err != nil && strings.Contains(err.Error(), "has expired on") && strings.Contains(err.Error(), "renew it")
	})
}

func TestDialsWithoutTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t, logintest.NewCA(t, "ca"))
	dial, err := (*TLS)(nil).dialer(p.log.logger())
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(context.Background(), "tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if name, ok := Principal(nil, nil); name != "User:ANONYMOUS" || !ok {
		t.Errorf("the principal is %q", name)
	}
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("waited 20 s in vain")
}
