package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
)

const token = "0123456789abcdef-token"

var silent = slog.New(slog.DiscardHandler)

func TestWhoMayAskForWhat(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "  "+token+"\n")
	local := config.Admin{Address: "127.0.0.1:9464"}
	localToken := config.Admin{Address: "127.0.0.1:9464", TokenFile: file}
	remote := config.Admin{Address: "0.0.0.0:9464", AllowRemote: true}
	remoteToken := config.Admin{Address: "10.1.2.3:9464", Token: connect.Secret(token)}
	bearer := http.Header{"Authorization": {"Bearer " + token}}
	for _, tt := range []struct {
		name   string
		config config.Admin
		level  level
		host   string
		header http.Header
		want   int // 200 is allowed
		detail string
	}{
		{"a user of the machine", local, levelAPI, "127.0.0.1:9464", nil, 200, ""},
		{"by the name localhost", local, levelAPI, "LOCALHOST:9464", nil, 200, ""},
		{"by IPv6", local, levelAPI, "[::1]:9464", nil, 200, ""},
		{"a rebound name", local, levelAPI, "evil.example:9464", nil, 403, "unknown host"},
		{"a rebound name asks for metrics", local, levelMetrics, "evil.example:9464", nil, 403, "unknown host"},
		{"no host", local, levelAPI, "", nil, 403, "unknown host"},
		{"a name that only looks local", local, levelAPI, "127.0.0.1.evil.example", nil, 403, "unknown host"},
		{"a page's request", local, levelAPI, "127.0.0.1:9464", http.Header{"Origin": {"http://evil.example"}}, 403, "web page"},
		{"a page's image", local, levelAPI, "127.0.0.1:9464", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, "web page"},
		{"an image of another server of this machine", local, levelAPI, "localhost:9464", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403, "web page"},
		{"the address bar", local, levelAPI, "127.0.0.1:9464", http.Header{"Sec-Fetch-Site": {"none"}}, 200, ""},

		{"health without the token", localToken, levelHealth, "127.0.0.1", nil, 200, ""},
		{"metrics without the token", localToken, levelMetrics, "127.0.0.1", nil, 401, "--token-file"},
		{"the API without the token", localToken, levelAPI, "127.0.0.1", nil, 401, "--token-file"},
		{"the token of the file", localToken, levelAPI, "127.0.0.1", bearer, 200, ""},
		{"the token with a scheme in small letters", localToken, levelAPI, "127.0.0.1", http.Header{"Authorization": {"bearer " + token}}, 200, ""},
		{"a wrong token", localToken, levelAPI, "127.0.0.1", http.Header{"Authorization": {"Bearer " + token + "x"}}, 401, "not the one"},
		{"an empty token", localToken, levelAPI, "127.0.0.1", http.Header{"Authorization": {"Bearer "}}, 401, "--token-file"},
		{"another scheme", localToken, levelAPI, "127.0.0.1", http.Header{"Authorization": {"Basic " + token}}, 401, "--token-file"},
		{"a page with the token", localToken, levelAPI, "console.example", http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://console.example"}}, 200, ""},

		{"remote metrics", remote, levelMetrics, "pod.example:9464", nil, 200, ""},
		{"remote health", remote, levelHealth, "pod.example:9464", nil, 200, ""},
		{"the remote API", remote, levelAPI, "pod.example:9464", nil, 403, "admin.token_file"},
		{"the remote API, asked as localhost", remote, levelAPI, "localhost:9464", nil, 403, "admin.token_file"},
		{"remote with the token", remoteToken, levelAPI, "pod.example", bearer, 200, ""},
		{"remote metrics without it", remoteToken, levelMetrics, "pod.example", nil, 401, "--token-file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := newGuard(tt.config, silent)
			if err != nil {
				t.Fatal(err)
			}
			h := g.handler(tt.level, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			r.Host = tt.host
			maps.Copy(r.Header, tt.header)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if body := w.Body.String(); w.Code != tt.want || !strings.Contains(body, tt.detail) {
				t.Errorf("%d %s, want %d with %q", w.Code, body, tt.want, tt.detail)
			} else if strings.Contains(body, token) {
				t.Errorf("the answer holds the token: %s", body)
			}
			if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (tt.want == 401) {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
		})
	}
}

func TestWhatCannotBeServedIsRefused(t *testing.T) {
	dir := t.TempDir()
	short, empty := filepath.Join(dir, "short"), filepath.Join(dir, "empty")
	writeFile(t, short, "secret\n")
	writeFile(t, empty, "\n")
	for want, c := range map[string]config.Admin{
		"can be reached from other machines": {Address: "0.0.0.0:9464"},
		"no token, or one that can be":       {Address: "127.0.0.1:0", TokenFile: short},
		"holds no token":                     {Address: "127.0.0.1:0", TokenFile: empty},
		"no such file":                       {Address: "0.0.0.0:0", TokenFile: filepath.Join(dir, "none")},
		"admin.tls.cert":                     {Address: "127.0.0.1:0", TLS: config.AdminTLS{Cert: short, Key: short}},
	} {
		if _, err := newGuard(c, silent); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		} else if strings.Contains(err.Error(), "secret\n") {
			t.Errorf("the error holds the token: %v", err)
		}
	}
}

func TestTokenIsReadAgainWhenItsFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, token)
	g, err := newGuard(config.Admin{Address: "127.0.0.1:0", TokenFile: file}, silent)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	g.token.now = func() time.Time { return now }
	ask := func(token string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.Host = "localhost"
		r.Header.Set("Authorization", "Bearer "+token)
		status, _, _ := g.check(levelAPI, r)
		return status
	}
	const second = "fedcba9876543210-newer"
	writeFile(t, file, second)
	now = now.Add(2 * rereadEvery)
	if ask(token) != 401 || ask(second) != 0 {
		t.Error("the token that the file had before is taken, or the new one is not")
	}
	writeFile(t, file, "short") // somebody is writing it
	now = now.Add(2 * rereadEvery)
	if ask(second) != 0 {
		t.Error("a file that holds no token has taken the old one away")
	}
}

func TestClientCertificatesAndTheirRenewal(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	writeFile(t, path("ca.pem"), string(ca.pem))
	ca.issue(t, path("server"), 1)
	ca.issue(t, path("client"), 2)
	newAuthority(t).issue(t, path("stranger"), 3)
	g, err := newGuard(config.Admin{
		Address: "0.0.0.0:0", TLS: config.AdminTLS{Cert: path("server.pem"), Key: path("server.key"), ClientCA: path("ca.pem")},
	}, silent)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	g.tls.now = func() time.Time { return now }
	mux := http.NewServeMux()
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/api", g.handler(levelAPI, nothing))
	mux.Handle("/healthz", g.handler(levelHealth, nothing))
	server := httptest.NewUnstartedServer(mux)
	server.TLS = g.serverTLS()
	server.Config.ErrorLog = slog.NewLogLogger(silent.Handler(), slog.LevelError)
	server.StartTLS()
	defer server.Close()

	ask := func(page, cert string) (status int, serial int64) {
		t.Helper()
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca.pem)
		c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		if cert != "" {
			pair, err := tls.LoadX509KeyPair(path(cert+".pem"), path(cert+".key"))
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+page, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, 0
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	for _, tt := range []struct {
		page, cert string
		want       int
	}{{"/api", "client", 200}, {"/api", "", 403}, {"/healthz", "", 200}, {"/api", "stranger", 0}} {
		if status, _ := ask(tt.page, tt.cert); status != tt.want {
			t.Errorf("%s with certificate %q: %d, want %d", tt.page, tt.cert, status, tt.want)
		}
	}
	ca.issue(t, path("server"), 77)
	now = now.Add(2 * rereadEvery)
	if _, serial := ask("/healthz", ""); serial != 77 {
		t.Errorf("the server shows certificate %d, and its file has 77", serial)
	}
}

func TestRefusalsAreLoggedButNotEachOfThem(t *testing.T) {
	var log bytes.Buffer
	g, err := newGuard(config.Admin{Address: "127.0.0.1:0", Token: token}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	h := g.handler(levelAPI, http.NotFoundHandler())
	for range 100 {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/v1/flows", http.NoBody)
		r.Header.Set("Authorization", "Bearer guessed-guessed-guessed")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "wrong token") || strings.Contains(log.String(), "guessed-") {
		t.Errorf("100 refusals left %d lines:\n%s", n, log.String())
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue writes base.pem and base.key, for servers of this machine and for clients.
func (a *authority) issue(t *testing.T, base string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, base+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, base+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}
