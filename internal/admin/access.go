package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
)

// level is what a page needs.
type level int

const (
	levelHealth  level = iota // nothing: for probes, which have no login
	levelMetrics              // a login where there is one
	levelAPI                  // a login, or a loopback address
)

// logEvery bounds how often refused requests are logged: whoever asks in a loop must not
// fill the disk.
const logEvery = 10 * time.Second

// guard decides who may ask for what. (config.Admin.Validate decides which addresses are
// served at all.)
//
//   - An address of this machine alone (loopback) needs nothing; the users of the machine are trusted.
//   - At another address without a token and client certificates (allow_remote) there are metrics and
//     health, and everything else is refused with 403.
//   - Where a token or client certificates are configured, everything but health needs
//     them; where both are, both.
//   - Without a token, what a browser sends for another site is refused: requests with an Origin,
//     and, at a loopback address, for a Host that is not this machine (DNS rebinding).
type guard struct {
	config   config.Admin
	host     string
	loopback bool
	log      *slog.Logger

	token  *reread[[sha256.Size]byte] // nil without one
	tls    *reread[*tls.Config]       // nil without TLS
	logged atomic.Int64               // when a refusal was logged last, in Unix nanoseconds
}

// newGuard reads the files.
func newGuard(c config.Admin, log *slog.Logger) (*guard, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	g := &guard{config: c, log: log}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("admin.address: %w", err)
	}
	g.host, g.loopback = host, loopback(host)
	if g.hasToken() {
		if g.token, err = newReread(log, func() ([sha256.Size]byte, error) { return readToken(&c) }, c.TokenFile); err != nil {
			return nil, err
		}
	}
	if c.TLS.Cert != "" {
		if g.tls, err = newReread(log, func() (*tls.Config, error) { return readTLS(&c.TLS) }, c.TLS.Cert, c.TLS.Key, c.TLS.ClientCA); err != nil {
			return nil, err
		}
	}
	if g.hasToken() && !g.loopback && g.tls == nil {
		log.Warn("the admin server's token crosses the network in clear: set admin.tls.cert and admin.tls.key, or put a proxy with TLS before it",
			slog.String("address", c.Address))
	}
	return g, nil
}

func (g *guard) hasToken() bool { return g.config.Token != "" || g.config.TokenFile != "" }

// loopback says that a host is this machine.
func loopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// readToken returns the hash of the token: what is compared has one length.
func readToken(c *config.Admin) ([sha256.Size]byte, error) {
	if c.TokenFile == "" {
		return sha256.Sum256([]byte(c.Token)), nil
	}
	text, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("admin.token_file: %w; make it, with: openssl rand -hex 24, or correct the path", err)
	}
	token := strings.TrimSpace(string(text))
	if err := (&config.Admin{Token: connect.Secret(token)}).Validate(); err != nil || token == "" {
		return [sha256.Size]byte{}, fmt.Errorf("admin.token_file: %s holds no token, or one that can be guessed; fill it with: openssl rand -hex 24", c.TokenFile)
	}
	return sha256.Sum256([]byte(token)), nil
}

func readTLS(t *config.AdminTLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("admin.tls.cert, admin.tls.key: %w", err)
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
	}
	if t.ClientCA == "" {
		return c, nil
	}
	text, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("admin.tls.client_ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("admin.tls.client_ca: %s holds no certificate in PEM form", t.ClientCA)
	}
	// Not required here: probes of health have none. The handler asks for it.
	c.ClientAuth = tls.VerifyClientCertIfGiven
	return c, nil
}

// serverTLS is nil where the server speaks plain HTTP.
func (g *guard) serverTLS() *tls.Config {
	if g.tls == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return g.tls.get(), nil },
	}
}

// handler lets those requests through to next that the rules allow for a page of this level.
func (g *guard) handler(l level, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, title, detail := g.check(l, r)
		if status == 0 {
			next.ServeHTTP(w, r)
			return
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="penstock"`)
		}
		g.logRefused(r.Context(), r, title)
		writeProblem(w, status, title, detail)
	})
}

// check returns status 0 for a request that is allowed.
func (g *guard) check(l level, r *http.Request) (status int, title, detail string) {
	if !g.hasToken() {
		site := r.Header.Get("Sec-Fetch-Site")
		if r.Header.Get("Origin") != "" || site != "" && site != "none" && site != "same-origin" {
			return http.StatusForbidden, "request of a web page",
				"a web page has sent this request, and without a token nothing tells it from an attack: set admin.token_file where pages are to use the API"
		}
		if g.loopback && g.tls == nil && !g.here(r.Host) {
			return http.StatusForbidden, "unknown host",
				fmt.Sprintf("the request is for host %q, and this server is for %s alone: use that address, or set admin.token_file", r.Host, g.config.Address)
		}
	}
	if l == levelHealth {
		return 0, "", ""
	}
	if !g.hasToken() && g.config.TLS.ClientCA == "" {
		if g.loopback || l == levelMetrics {
			return 0, "", ""
		}
		return http.StatusForbidden, "the API needs a login here",
			fmt.Sprintf("%s can be reached from other machines without login, and serves only /metrics, /healthz and /readyz: set admin.token_file or admin.tls.client_ca, or use a loopback address", g.config.Address)
	}
	if g.config.TLS.ClientCA != "" && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return http.StatusForbidden, "client certificate needed",
			"this server wants a client certificate that admin.tls.client_ca has signed: with penstock, say --cert and --key"
	}
	if g.token == nil {
		return 0, "", ""
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return http.StatusUnauthorized, "token needed",
			"this server wants its token: with penstock, say --token-file or set PENSTOCK_ADMIN_TOKEN; else send it as Authorization: Bearer"
	}
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), g.token.get()
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return http.StatusUnauthorized, "wrong token", "the token is not the one that this server was started with (admin.token_file, or PENSTOCK_ADMIN_TOKEN there)"
	}
	return 0, "", ""
}

// here says that a Host header means this server.
func (g *guard) here(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return loopback(host) || strings.EqualFold(host, g.host)
}

func (g *guard) logRefused(ctx context.Context, r *http.Request, why string) {
	now := time.Now().UnixNano()
	last := g.logged.Load()
	if now-last < int64(logEvery) || !g.logged.CompareAndSwap(last, now) {
		return
	}
	g.log.WarnContext(ctx, "a request to the admin server was refused; more within 10 s are not logged",
		slog.String("why", why), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("remote", r.RemoteAddr))
}
