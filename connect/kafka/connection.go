package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/connect"
)

// Connection says how to reach a cluster, and as whom.
type Connection struct {
	Brokers  []string `yaml:"brokers" doc:"Addresses (host:port) to learn the cluster from; two or three are enough."`
	ClientID string   `yaml:"client_id" default:"penstock" doc:"Name of this client in the brokers' logs, metrics and quotas."`
	TLS      *TLS     `yaml:"tls" doc:"Encrypt, and check the brokers' certificates. An empty mapping uses the system's CAs. Absent: plain text."`
	SASL     *SASL    `yaml:"sasl" doc:"Log in with a user name and a password."`
}

// TLS says how to encrypt. Files are read again for every new connection, so
// that certificates can be renewed while the flow runs; the CA file only at the start.
type TLS struct {
	CAFile             string `yaml:"ca_file" doc:"PEM file with the CAs that may sign the brokers' certificates, in place of the system's."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client's certificate, for brokers that ask for one. Needs key_file."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file."`
	ServerName         string `yaml:"server_name" doc:"Name expected in the brokers' certificates, where it is not the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" doc:"Accept any certificate. Whoever sits between can read and change everything: for tests only."`
}

// SASL is a login.
type SASL struct {
	Mechanism    string         `yaml:"mechanism" default:"SCRAM-SHA-512" enum:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" doc:"How to log in. PLAIN sends the password: use it with tls only."`
	Username     string         `yaml:"username" required:"true" doc:"User name."`
	Password     connect.Secret `yaml:"password" doc:"Password; better as ${VARIABLE}."`
	PasswordFile string         `yaml:"password_file" doc:"File that holds the password, in place of password. Read at every login; a line end at its end does not count."`
}

const (
	dialTimeout = 10 * time.Second
	// answerTimeout bounds a question to the cluster where nobody else does.
	answerTimeout = 15 * time.Second
)

// Validate refuses impossible combinations with a *connect.FieldError for each
// of them.
func (c *Connection) Validate() error {
	var errs []error
	for i, b := range c.Brokers {
		if !isAddress(b) {
			errs = append(errs, connect.Errorf(fmt.Sprintf("brokers[%d]", i), "%q is not a broker's address; write host:port, with a port from 1 to 65535", b))
		}
	}
	return errors.Join(append(errs, c.TLS.check(), c.SASL.check())...)
}

// isAddress says whether b is a host, or host:port.
func isAddress(b string) bool {
	host, port, err := net.SplitHostPort(b)
	if err != nil { // without a port kgo takes 9092; an IPv6 address may stand alone
		host, port = b, "9092"
		if strings.Contains(b, ":") && net.ParseIP(b) == nil {
			return false
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("/,;@?#", r)
	})
}

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

func (s *SASL) check() error {
	if s == nil {
		return nil
	}
	var errs []error
	if s.Username == "" {
		errs = append(errs, connect.Errorf("sasl.username", "a login needs a user name"))
	}
	switch {
	case s.Password == "" && s.PasswordFile == "":
		errs = append(errs, connect.Errorf("sasl.password", "a login needs a password; set password or password_file"))
	case s.Password != "" && s.PasswordFile != "":
		errs = append(errs, connect.Errorf("sasl.password_file", "password is set as well; remove one of the two"))
	}
	switch s.Mechanism {
	case "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
	default:
		errs = append(errs, connect.Errorf("sasl.mechanism", "%q is not supported; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism))
	}
	return errors.Join(errs...)
}

// unset reports whether nothing says where to connect.
func (c *Connection) unset() bool {
	return len(c.Brokers) == 0 && c.TLS == nil && c.SASL == nil
}

// principal names whom the cluster sees, for messages.
func (c *Connection) principal() string {
	switch {
	case c.SASL != nil:
		return "user " + c.SASL.Username
	case c.TLS != nil && c.TLS.CertFile != "":
		return "the owner of certificate " + c.TLS.CertFile
	default:
		return "the anonymous user"
	}
}

func (c *Connection) addresses() string { return strings.Join(c.Brokers, ", ") }

// options are those that every client of the connection shares.
func (c *Connection) options(log *slog.Logger) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("penstock", "1"),
		kgo.DialTimeout(dialTimeout),
		kgo.DisableClientMetrics(),
		kgo.WithLogger(kgoLogger{log}),
	}
	if c.TLS != nil {
		cfg, err := c.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(cfg))
	}
	if c.SASL != nil {
		m, err := c.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

func (t *TLS) config() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // asked for by name, and documented
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, connect.Errorf("tls.ca_file", "%w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, connect.Errorf("tls.ca_file", "%s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, connect.Errorf("tls.cert_file", "%w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return cfg, nil
}

func (s *SASL) mechanism() (sasl.Mechanism, error) {
	if _, err := s.password(); err != nil {
		return nil, err
	}
	if s.Mechanism == "PLAIN" {
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := s.password()
			return plain.Auth{User: s.Username, Pass: pass}, err
		}), nil
	}
	auth := func(context.Context) (scram.Auth, error) {
		pass, err := s.password()
		return scram.Auth{User: s.Username, Pass: pass}, err
	}
	if s.Mechanism == "SCRAM-SHA-256" {
		return scram.Sha256(auth), nil
	}
	return scram.Sha512(auth), nil
}

func (s *SASL) password() (string, error) {
	if s.PasswordFile == "" {
		return s.Password.Reveal(), nil
	}
	b, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return "", connect.Errorf("sasl.password_file", "%w", err)
	}
	pass := strings.TrimRight(string(b), "\r\n")
	if pass == "" {
		return "", connect.Errorf("sasl.password_file", "%s is empty", s.PasswordFile)
	}
	return pass, nil
}

// kgoLogger passes what kgo says on: its errors and warnings are details of
// what it retries by itself, worth a debug line at most.
type kgoLogger struct{ log *slog.Logger }

func (l kgoLogger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	//nolint:sloglint // kgo brings message and keys
	l.log.Debug("kgo: "+msg, append([]any{slog.String("kgo_level", fmt.Sprint(level))}, keyvals...)...)
}
