// Package logintest makes what tests of logins need: certificates of a CA of
// their own, tokens, and an endpoint that hands tokens out. Only tests import it.
package logintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// CA is a certificate authority.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// PEM is its certificate.
	PEM []byte
}

// NewCA makes one.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	ca := &CA{t: t, key: newKey(t), cert: &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, ca.cert, ca.cert, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	ca.PEM = block("CERTIFICATE", der)
	return ca
}

// Issue makes a certificate for a subject, valid until then, and for these hosts;
// none: localhost and 127.0.0.1.
func (ca *CA) Issue(name string, until time.Time, hosts ...string) (cert, key []byte) {
	ca.t.Helper()
	var ips []net.IP
	if len(hosts) == 0 {
		hosts, ips = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	private := newKey(ca.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(ca.t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: hosts, IPAddresses: ips,
	}, ca.cert, &private.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		ca.t.Fatal(err)
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", keyDER)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Write makes the file hold the parts.
func Write[T string | []byte](t testing.TB, file string, parts ...T) {
	t.Helper()
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if err := os.WriteFile(file, all, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Token makes an unsecured token, which Kafka takes where it is not told how
// to check signatures.
func Token(subject string, expires time.Time) string {
	part := func(v map[string]any) string {
		b, _ := json.Marshal(v) //nolint:errchkjson // text and numbers
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "none"}) + "." +
		part(map[string]any{"sub": subject, "iat": time.Now().Unix(), "exp": float64(expires.UnixMilli()) / 1000, "scope": "kafka"}) + "."
}

// Endpoint is a token endpoint over TLS. Its client is id:secret.
type Endpoint struct {
	// URL is what token_url takes, CAFile what ca_file does.
	URL, CAFile string
	// ID and Secret are the client's; they need escaping, which is the point.
	ID, Secret string

	t       testing.TB
	mu      sync.Mutex
	life    time.Duration
	subject string
	broken  http.HandlerFunc
	asked   int
	scope   string
}

// NewEndpoint starts one that hands out tokens of subject that live so long. It
// ends with the test.
func NewEndpoint(t testing.TB, subject string, life time.Duration) *Endpoint {
	t.Helper()
	e := &Endpoint{t: t, ID: "client:1", Secret: "se cret%/", subject: subject, life: life, CAFile: t.TempDir() + "/endpoint.pem"}
	s := httptest.NewTLSServer(http.HandlerFunc(e.serve))
	t.Cleanup(s.Close)
	e.URL = s.URL + "/token"
	Write(t, e.CAFile, block("CERTIFICATE", s.Certificate().Raw))
	return e
}

// Break answers with h from now on; nil: with tokens again.
func (e *Endpoint) Break(h http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = h
}

// Live sets how long tokens live from now on.
func (e *Endpoint) Live(life time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.life = life
}

// Asked says how often a token was asked for, and with which scope last.
func (e *Endpoint) Asked() (times int, scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked, e.scope
}

func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.asked++
	e.scope = r.PostFormValue("scope")
	broken, life, subject := e.broken, e.life, e.subject
	e.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	switch {
	case broken != nil:
		broken(w, r)
	case id != url.QueryEscape(e.ID), secret != url.QueryEscape(e.Secret):
		Refuse(http.StatusUnauthorized, `{"error":"invalid_client","error_description":"no such client"}`)(w, r)
	case r.Method != http.MethodPost, r.PostFormValue("grant_type") != "client_credentials":
		Refuse(http.StatusBadRequest, `{"error":"unsupported_grant_type"}`)(w, r)
	default:
		Refuse(http.StatusOK, `{"access_token":"`+Token(subject, time.Now().Add(life))+`","token_type":"Bearer"}`)(w, r)
	}
}

// Refuse answers with that status and JSON.
func Refuse(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}
