package login

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/penstockdev/penstock/connect"
)

// SASL is a login. It must not be copied after its first use.
type SASL struct {
	Mechanism      string         `yaml:"mechanism" default:"SCRAM-SHA-512" enum:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER" doc:"How to log in. SCRAM proves that the password is known, PLAIN sends it, OAUTHBEARER sends a token: see oauth."`
	Username       string         `yaml:"username" doc:"User name. Not with OAUTHBEARER: the token names the user."`
	Password       connect.Secret `yaml:"password" doc:"Password; better as ${VARIABLE}."`
	PasswordFile   string         `yaml:"password_file" doc:"File that holds the password, in place of password. Read at every login, so it can be changed while the flow runs; for a minute after a change on one side alone, refused logins are retried. A line end at its end does not count."`
	OAuth          *OAuth         `yaml:"oauth" doc:"Where the token for OAUTHBEARER comes from."`
	AllowPlaintext bool           `yaml:"allow_plaintext" doc:"Allow PLAIN and OAUTHBEARER without tls, and a token_url without https. Whoever listens on the way can then log in as you: only where something else encrypts."`

	password kept[string]
	tokens   tokens
	logins   logins
}

func (s *SASL) check(encrypted bool) error {
	if s == nil {
		return nil
	}
	var errs []error
	switch s.Mechanism {
	case "OAUTHBEARER":
		errs = append(errs, s.checkOAuth())
	case "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		errs = append(errs, s.checkPassword())
	default:
		errs = append(errs, s.checkPassword(),
			connect.Errorf("sasl.mechanism", "%q is not supported; use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", s.Mechanism))
	}
	if s.sendsSecret() && !encrypted && !s.AllowPlaintext {
		errs = append(errs, connect.Errorf("sasl.mechanism", "%s without tls would send the %s where anybody can read it; "+
			"set tls (an empty mapping will do), use SCRAM-SHA-512, or set allow_plaintext if the network is encrypted otherwise",
			s.Mechanism, map[bool]string{true: "password", false: "token"}[s.Mechanism == "PLAIN"]))
	}
	return errors.Join(errs...)
}

func (s *SASL) sendsSecret() bool { return s.Mechanism == "PLAIN" || s.Mechanism == "OAUTHBEARER" }

func (s *SASL) checkPassword() error {
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
	if s.OAuth != nil {
		errs = append(errs, connect.Errorf("sasl.oauth", "only mechanism OAUTHBEARER takes a token; set it, or remove oauth"))
	}
	return errors.Join(errs...)
}

func (s *SASL) checkOAuth() error {
	for _, f := range []struct {
		name string
		set  bool
	}{{"username", s.Username != ""}, {"password", s.Password != ""}, {"password_file", s.PasswordFile != ""}} {
		if f.set {
			return connect.Errorf("sasl."+f.name, "OAUTHBEARER logs in with a token, which names the user; remove %s", f.name)
		}
	}
	if s.OAuth == nil {
		return connect.Errorf("sasl.oauth", "OAUTHBEARER needs a token; set oauth.token_file or oauth.token_url")
	}
	return s.OAuth.check(s.AllowPlaintext)
}

func (s *SASL) mechanism(log *slog.Logger) (sasl.Mechanism, error) {
	if s.Mechanism == "OAUTHBEARER" {
		m, err := s.bearer(log)
		if err != nil {
			return nil, err
		}
		return &noted{m, &s.logins}, nil
	}
	pass := func() (string, error) {
		if s.PasswordFile == "" {
			return s.Password.Reveal(), nil
		}
		return s.password.load(log, func() (string, error) { return readSecret("sasl.password_file", s.PasswordFile) })
	}
	if _, err := pass(); err != nil {
		return nil, err
	}
	var m sasl.Mechanism
	if s.Mechanism == "PLAIN" {
		m = plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := pass()
			return plain.Auth{User: s.Username, Pass: p}, err
		})
	} else {
		auth := func(context.Context) (scram.Auth, error) {
			p, err := pass()
			return scram.Auth{User: s.Username, Pass: p}, err
		}
		if m = scram.Sha512(auth); s.Mechanism == "SCRAM-SHA-256" {
			m = scram.Sha256(auth)
		}
	}
	return &noted{m, &s.logins}, nil
}

// user is who logs in; empty if the token does not say, or there was none yet.
func (s *SASL) user() string {
	if s.Mechanism == "OAUTHBEARER" {
		return s.tokens.user()
	}
	return s.Username
}

// changeTime is how long a password or a token may be changed on one side and
// not yet on the other.
const changeTime = time.Minute

// MayBeChanging is to be called when a broker has refused a login. It says that
// one may be accepted soon: it was accepted before, it has not been refused for
// long, and what it used can change while the process runs.
func (s *SASL) MayBeChanging() bool {
	return s != nil && (s.PasswordFile != "" || s.OAuth != nil) && s.logins.refused(time.Now(), changeTime)
}

// Accepted says that a broker has accepted a login.
func (s *SASL) Accepted() bool {
	if s == nil {
		return false
	}
	s.logins.mu.Lock()
	defer s.logins.mu.Unlock()
	return s.logins.accepted
}

// logins remembers how logins went.
type logins struct {
	mu       sync.Mutex
	accepted bool
	since    time.Time // of the first refusal after the last success; zero: none
}

func (l *logins) succeed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted, l.since = true, time.Time{}
}

// refused notes a refusal, and says whether logins were accepted until less than
// limit before the first one. An attempt that the network cut off is none.
func (l *logins) refused(now time.Time, limit time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		l.since = now
	}
	return l.accepted && now.Sub(l.since) < limit
}

// noted is a mechanism whose logins are noted.
type noted struct {
	sasl.Mechanism
	logins *logins
}

func (n *noted) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := n.Mechanism.Authenticate(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	return &notedSession{s, n.logins}, first, nil
}

type notedSession struct {
	sasl.Session
	logins *logins
}

// Challenge is called with an answer of the broker, not with its refusal.
func (s *notedSession) Challenge(answer []byte) (bool, []byte, error) {
	done, reply, err := s.Session.Challenge(answer)
	if done && err == nil {
		s.logins.succeed()
	}
	return done, reply, err
}
