// Package login says how a Kafka client proves who it is and checks whom it
// talks to: TLS and SASL, as configuration (the tags are the reference), and the
// client's options that are made from it.
//
// What belongs here: certificates, keys, passwords and tokens, the files they
// are read from, and the endpoint that hands out tokens. What does not: addresses,
// and what the cluster's refusals mean (package kafka).
//
// # Rotation
//
// Nothing is read at the start alone. Files of TLS are read for every new
// connection; passwords and tokens for every login, also those that a broker asks
// for on a connection that lives (KIP-368). Connections that exist go on with what
// they have. A file that is half-written, empty or away changes nothing: the last
// content that could be used stays in use, with one warning. What was read is kept
// in the TLS or SASL value itself, so that all clients of a connection share it.
package login

import (
	"errors"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Check refuses impossible or dangerous combinations with a *connect.FieldError
// for each of them, with paths that begin with tls and sasl. Either may be nil.
func Check(t *TLS, s *SASL) error {
	return errors.Join(t.check(), s.check(t != nil))
}

// Options are those with which a client dials, encrypts and logs in. Either may be
// nil. All files are read, so that a fault shows at the start; the error is a
// *connect.FieldError. log receives what is wrong with them later.
func Options(t *TLS, s *SASL, log *slog.Logger) ([]kgo.Opt, error) {
	dial, err := t.dialer(log)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{kgo.Dialer(dial)}
	if s != nil {
		m, err := s.mechanism(log)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

// Principal is who the cluster takes the client for, in the form of its ACLs
// (User:app), where brokers do not map names. ok is false where that is not
// known here.
func Principal(t *TLS, s *SASL) (name string, ok bool) {
	switch {
	case s != nil:
		name = s.user()
	case t != nil && t.CertFile != "":
		name = t.subject()
	default:
		name = "ANONYMOUS"
	}
	return "User:" + name, name != ""
}
