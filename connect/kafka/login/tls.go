package login

import (
	"crypto/tls"
	"crypto/x509"
	"os"

	"github.com/penstockdev/penstock/connect"
)

// TLS says how to encrypt. Files are read again for every new connection, so
// that certificates can be renewed while the flow runs; the CA file only at the start.
type TLS struct {
	CAFile             string `yaml:"ca_file" doc:"PEM file with the CAs that may sign the brokers' certificates, in place of the system's."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client's certificate, for brokers that ask for one. Needs key_file."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file."`
	ServerName         string `yaml:"server_name" doc:"Name expected in the brokers' certificates, where it is not the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" doc:"Accept any certificate. Whoever sits between can read and change everything: for tests only."`
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
