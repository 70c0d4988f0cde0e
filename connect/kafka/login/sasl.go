package login

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/connect"
)

// SASL is a login.
type SASL struct {
	Mechanism    string         `yaml:"mechanism" default:"SCRAM-SHA-512" enum:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" doc:"How to log in. PLAIN sends the password: use it with tls only."`
	Username     string         `yaml:"username" required:"true" doc:"User name."`
	Password     connect.Secret `yaml:"password" doc:"Password; better as ${VARIABLE}."`
	PasswordFile string         `yaml:"password_file" doc:"File that holds the password, in place of password. Read at every login; a line end at its end does not count."`
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
