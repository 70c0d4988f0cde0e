package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certs are the files of a certificate authority made for one run, with a
// server's certificate for localhost and 127.0.0.1, and a client's.
type Certs struct {
	CAFile                 string
	ServerCert, ServerKey  string
	ClientCert, ClientKey  string
	serverBundle, clientCN string
}

// NewCerts writes new certificates into dir.
func NewCerts(dir string) (*Certs, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &Certs{
		CAFile:     filepath.Join(dir, "ca.pem"),
		ServerCert: filepath.Join(dir, "server.pem"), ServerKey: filepath.Join(dir, "server.key"),
		ClientCert: filepath.Join(dir, "client.pem"), ClientKey: filepath.Join(dir, "client.key"),
		serverBundle: filepath.Join(dir, "server-bundle.pem"), clientCN: "client",
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := template("penstock test CA")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("make the test CA: %w", err)
	}
	if err := writePEM(c.CAFile, 0o644, block("CERTIFICATE", caDER)); err != nil {
		return nil, err
	}
	for _, leaf := range []struct{ cn, cert, key, bundle string }{
		{"localhost", c.ServerCert, c.ServerKey, c.serverBundle},
		{c.clientCN, c.ClientCert, c.ClientKey, ""},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		t := template(leaf.cn)
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.DNSNames = []string{"localhost"}
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.CreateCertificate(rand.Reader, t, ca, &key.PublicKey, caKey)
		if err != nil {
			return nil, fmt.Errorf("make the certificate of %s: %w", leaf.cn, err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		cert, private := block("CERTIFICATE", der), block("PRIVATE KEY", keyDER)
		if err := writePEM(leaf.cert, 0o644, cert); err != nil {
			return nil, err
		}
		if err := writePEM(leaf.key, 0o600, private); err != nil {
			return nil, err
		}
		if leaf.bundle != "" { // Kafka's PEM key store is key and chain in one file
			if err := writePEM(leaf.bundle, 0o600, private, cert); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func template(cn string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail on the systems that Go supports
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
	}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writePEM(path string, mode os.FileMode, blocks ...[]byte) error {
	var all []byte
	for _, b := range blocks {
		all = append(all, b...)
	}
	return os.WriteFile(path, all, mode)
}
