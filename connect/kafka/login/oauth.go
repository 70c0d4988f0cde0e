package login

import (
	"context"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"

	"github.com/penstockdev/penstock/connect"
)

// OAuth says where the token comes from: a file, or an endpoint that hands one
// out for a client's id and secret (OAuth 2.0 client credentials, RFC 6749 4.4).
type OAuth struct {
	TokenFile        string            `yaml:"token_file" doc:"File that holds the token, and is kept up to date by something else. Read at every login. Either this or token_url."`
	TokenURL         string            `yaml:"token_url" doc:"Token endpoint of the identity provider, https, asked with the client credentials grant. A token is used for four fifths of its life, then the next login fetches a new one; while the endpoint does not answer, the old one is used to its end."`
	ClientID         string            `yaml:"client_id" doc:"Client id for token_url."`
	ClientSecret     connect.Secret    `yaml:"client_secret" doc:"Client secret for token_url; better as ${VARIABLE}."`
	ClientSecretFile string            `yaml:"client_secret_file" doc:"File that holds the client secret, in place of client_secret. Read for every token; a line end at its end does not count."`
	Scope            string            `yaml:"scope" doc:"Scopes to ask token_url for, separated by spaces."`
	CAFile           string            `yaml:"ca_file" doc:"PEM file with the CAs that may sign the certificate of token_url, in place of the system's. Read for every token."`
	Extensions       map[string]string `yaml:"extensions" doc:"SASL extensions to send with the token, where the service wants some (logicalCluster, identityPoolId)."`
}

// RFC 7628, 3.1, as Kafka reads it.
var (
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x21-\x7E \t\r\n]+$`)
)

func (o *OAuth) check(allowPlaintext bool) error {
	switch {
	case o.TokenFile == "" && o.TokenURL == "":
		return connect.Errorf("sasl.oauth.token_file", "nothing says where the token comes from; set token_file or token_url")
	case o.TokenFile != "" && o.TokenURL != "":
		return connect.Errorf("sasl.oauth.token_url", "token_file is set as well; remove one of the two")
	case o.TokenURL != "":
		if err := o.checkEndpoint(allowPlaintext); err != nil {
			return err
		}
	default:
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"client_id", o.ClientID != ""},
			{"client_secret", o.ClientSecret != ""},
			{"client_secret_file", o.ClientSecretFile != ""},
			{"scope", o.Scope != ""},
			{"ca_file", o.CAFile != ""},
		} {
			if f.set {
				return connect.Errorf("sasl.oauth."+f.name, "it is for token_url, and the token comes from token_file; remove one of the two")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Extensions)) {
		switch {
		case !extensionName.MatchString(name), name == "auth":
			return connect.Errorf("sasl.oauth.extensions", "%q cannot be an extension's name: want letters, and not auth", name)
		case !extensionValue.MatchString(o.Extensions[name]):
			return connect.Errorf("sasl.oauth.extensions", "the value of %s must be printable ASCII, and not empty", name)
		}
	}
	return nil
}

func (o *OAuth) checkEndpoint(allowPlaintext bool) error {
	u, err := url.Parse(o.TokenURL)
	switch {
	case err != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http", u.Fragment != "":
		return connect.Errorf("sasl.oauth.token_url", "want a URL like https://login.example.com/oauth2/token")
	case u.User != nil:
		return connect.Errorf("sasl.oauth.token_url", "it has a user name in it; use client_id and client_secret")
	case u.Scheme == "http" && !allowPlaintext:
		return connect.Errorf("sasl.oauth.token_url", "http would send the client secret where anybody can read it; use https, or set allow_plaintext if the network is encrypted otherwise")
	case o.ClientID == "":
		return connect.Errorf("sasl.oauth.client_id", "token_url needs a client id")
	case o.ClientSecret == "" && o.ClientSecretFile == "":
		return connect.Errorf("sasl.oauth.client_secret", "token_url needs a client secret; set client_secret or client_secret_file")
	case o.ClientSecret != "" && o.ClientSecretFile != "":
		return connect.Errorf("sasl.oauth.client_secret_file", "client_secret is set as well; remove one of the two")
	}
	return nil
}

// bearer is mechanism OAUTHBEARER. The endpoint is not asked yet: that it is
// away must not look like a mistake in the configuration.
func (s *SASL) bearer(log *slog.Logger) (sasl.Mechanism, error) {
	o := s.OAuth
	if o.TokenFile != "" {
		if _, err := readToken("sasl.oauth.token_file", o.TokenFile); err != nil {
			return nil, err
		}
	}
	if o.ClientSecretFile != "" {
		if _, err := readSecret("sasl.oauth.client_secret_file", o.ClientSecretFile); err != nil {
			return nil, err
		}
	}
	if o.CAFile != "" {
		if _, err := readCAs("sasl.oauth.ca_file", o.CAFile); err != nil {
			return nil, err
		}
	}
	return bearer{oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
		token, err := s.tokens.get(ctx, o, log)
		return oauth.Auth{Token: token, Extensions: o.Extensions}, err
	})}, nil
}

// bearer answers a refusal as RFC 7628 wants: the broker then says why.
type bearer struct{ sasl.Mechanism }

func (b bearer) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	_, first, err := b.Mechanism.Authenticate(ctx, host)
	return bearerSession{}, first, err
}

type bearerSession struct{}

func (bearerSession) Challenge(answer []byte) (done bool, reply []byte, err error) {
	if len(answer) > 0 {
		return false, []byte{1}, nil
	}
	return true, nil, nil
}
