// Package login says how a Kafka client proves who it is and checks whom it
// talks to: TLS and SASL, as configuration (the tags are the reference), and the
// client's options that are made from it.
//
// What belongs here: certificates, keys, passwords and tokens, the files they
// are read from, and the endpoint that hands out tokens. What does not: addresses,
// and what the cluster's refusals mean (package kafka).
package login

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Check refuses impossible combinations with a *connect.FieldError for each of
// them, with paths that begin with tls and sasl. Either may be nil.
func Check(t *TLS, s *SASL) error {
	return errors.Join(t.check(), s.check())
}

// Options are those with which a client encrypts and logs in. Either may be
// nil. An error is a *connect.FieldError.
func Options(t *TLS, s *SASL) ([]kgo.Opt, error) {
	var opts []kgo.Opt
	if t != nil {
		cfg, err := t.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(cfg))
	}
	if s != nil {
		m, err := s.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}
