package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// TLS says how to encrypt. It must not be copied after its first use.
type TLS struct {
	CAFile             string `yaml:"ca_file" doc:"PEM file with the CAs that may sign the brokers' certificates, in place of the system's. This and the other files are read again for every new connection, so certificates can be renewed while the flow runs."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client's certificate, for brokers that ask for one. Needs key_file."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file."`
	ServerName         string `yaml:"server_name" doc:"Name expected in the brokers' certificates, where it is not the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" doc:"Accept any certificate. Whoever sits between can read and change everything: for tests only."`

	cas  kept[*x509.CertPool]
	cert kept[*tls.Certificate]
}

// dialTimeout bounds a connection's TCP and TLS handshakes together.
const dialTimeout = 10 * time.Second

func (t *TLS) check() error {
	switch {
	case t == nil:
	case t.CertFile != "" && t.KeyFile == "":
		return connect.Errorf("tls.cert_file", "a client certificate needs its private key; set key_file as well")
	case t.KeyFile != "" && t.CertFile == "":
		return connect.Errorf("tls.key_file", "a private key needs its certificate; set cert_file as well")
	case t.InsecureSkipVerify && t.CAFile != "":
		return connect.Errorf("tls.insecure_skip_verify", "no certificate is checked, so ca_file has no use; remove one of the two")
	case t.InsecureSkipVerify && t.ServerName != "":
		return connect.Errorf("tls.insecure_skip_verify", "no certificate is checked, so server_name has no use; remove one of the two")
	}
	return nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer dials with what the files hold at that time. t may be nil: plain text.
func (t *TLS) dialer(log *slog.Logger) (dialFunc, error) {
	plain := &net.Dialer{Timeout: dialTimeout}
	if t == nil {
		return plain.DialContext, nil
	}
	if _, err := t.config(log); err != nil {
		return nil, err
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		cfg, err := t.config(log)
		if err != nil {
			return nil, err
		}
		// tls.Dialer takes the name from addr where none is set.
		return (&tls.Dialer{NetDialer: plain, Config: cfg}).DialContext(ctx, network, addr)
	}, nil
}

func (t *TLS) config(log *slog.Logger) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // asked for by name, and documented
	}
	var err error
	if t.CAFile != "" {
		cfg.RootCAs, err = t.cas.load(log, func() (*x509.CertPool, error) { return readCAs("tls.ca_file", t.CAFile) })
		if err != nil {
			return nil, err
		}
	}
	if t.CertFile != "" {
		cert, err := t.cert.load(log, t.readCert)
		if err != nil {
			return nil, err
		}
		// Certificates would leave it out where the broker names only other CAs,
		// and nobody would know why it asks for one.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert, t.expired(cert, time.Now())
		}
	}
	return cfg, nil
}

func readCAs(field, file string) (*x509.CertPool, error) {
	b, err := readFile(field, file)
	if err != nil {
		return nil, err
	}
	if err := wholePEM(b); err != nil {
		return nil, connect.Errorf(field, "%s %w", file, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, connect.Errorf(field, "%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// readCert reads certificate and key. Where one of the two is written and the
// other is not yet, they do not fit.
func (t *TLS) readCert() (*tls.Certificate, error) {
	certPEM, err := readFile("tls.cert_file", t.CertFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile("tls.key_file", t.KeyFile)
	if err != nil {
		return nil, err
	}
	if err := wholePEM(certPEM); err != nil {
		return nil, connect.Errorf("tls.cert_file", "%s %w", t.CertFile, err)
	}
	if err := wholePEM(keyPEM); err != nil {
		return nil, connect.Errorf("tls.key_file", "%s %w", t.KeyFile, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, connect.Errorf("tls.cert_file", "%s with the key in %s: %w", t.CertFile, t.KeyFile, err)
	}
	return &cert, t.expired(&cert, time.Now())
}

// expired says so before the broker does, which gives no reason.
func (t *TLS) expired(cert *tls.Certificate, now time.Time) error {
	switch {
	case now.After(cert.Leaf.NotAfter):
		return connect.Errorf("tls.cert_file", "the certificate in %s has expired on %s: renew it", t.CertFile, cert.Leaf.NotAfter.Format(time.RFC3339))
	case now.Before(cert.Leaf.NotBefore):
		return connect.Errorf("tls.cert_file", "the certificate in %s is not valid before %s: wait, or check this machine's clock",
			t.CertFile, cert.Leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// subject is the name in the client's certificate as brokers write it; empty if
// it is not known.
func (t *TLS) subject() string {
	t.cert.mu.Lock()
	defer t.cert.mu.Unlock()
	if !t.cert.ok {
		return ""
	}
	return fmt.Sprint(t.cert.value.Leaf.Subject)
}
