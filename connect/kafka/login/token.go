package login

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/penstockdev/penstock/connect"
)

// TokenError says why there is no token to log in with.
type TokenError struct {
	// From is the file or the endpoint.
	From string
	// Temporary says that it may pass by itself.
	Temporary bool
	Err       error
}

func (e *TokenError) Error() string { return "no token from " + e.From + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TokenError) Unwrap() error { return e.Err }

const (
	tokenTimeout = 10 * time.Second
	// maxAnswer bounds the endpoint's answer.
	maxAnswer = 256 << 10
)

// token is one, and until when it holds. A zero expires is not known.
type token struct {
	text    string
	renew   time.Time // from then on a new one is wanted
	expires time.Time
}

// minLife is what a token must have left to be sent. kgo logs in again one second
// before a session ends, and brokers refuse a second login within a second.
const minLife = 2 * time.Second

func (t token) valid(now time.Time) bool {
	return t.text != "" && (t.expires.IsZero() || t.expires.Sub(now) >= minLife)
}

// tokens gets tokens, one at a time.
type tokens struct {
	file kept[string]

	once sync.Once
	turn chan struct{} // whoever has put something in may use what follows
	// Of the endpoint: the last token, and the last failure.
	cache    token
	failed   error
	failedAt time.Time
	logged   string

	mu      sync.Mutex
	subject string // guarded by mu; of the last token
}

func (t *tokens) user() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.subject
}

// get returns the token for a login now.
func (t *tokens) get(ctx context.Context, o *OAuth, log *slog.Logger) (text string, err error) {
	if o.TokenFile != "" {
		text, err = t.fromFile(o, log)
	} else {
		text, err = t.fromEndpoint(ctx, o, log)
	}
	if err == nil {
		c, _ := claimsOf(text)
		t.mu.Lock()
		t.subject = c.Subject
		t.mu.Unlock()
	}
	return text, err
}

func readToken(field, file string) (string, error) {
	text, err := readSecret(field, file)
	if err == nil && !isToken(text) {
		return "", connect.Errorf(field, "%s holds something else than one token", file)
	}
	return text, err
}

func (t *tokens) fromFile(o *OAuth, log *slog.Logger) (string, error) {
	text, err := t.file.load(log, func() (string, error) {
		return readToken("sasl.oauth.token_file", o.TokenFile)
	})
	if err != nil {
		return "", &TokenError{From: o.TokenFile, Err: err}
	}
	if c, _ := claimsOf(text); !(token{text: text, expires: c.expiry()}).valid(time.Now()) {
		return "", &TokenError{From: o.TokenFile, Temporary: true, Err: fmt.Errorf("the token in it is good until %s only: "+
			"check what renews the file, and this machine's clock", c.expiry().Format(time.RFC3339))}
	}
	return text, nil
}

// fromEndpoint returns the token that it has as long as that is young enough.
// Where there is no other, it is used to its end.
func (t *tokens) fromEndpoint(ctx context.Context, o *OAuth, log *slog.Logger) (string, error) {
	t.once.Do(func() { t.turn = make(chan struct{}, 1) })
	began := time.Now()
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	switch now := time.Now(); {
	case t.cache.valid(now) && now.Before(t.cache.renew):
		return t.cache.text, nil
	case began.Before(t.failedAt):
		// Asked while this login waited for its turn: one answer does for all
		// who wait, or the last would wait for many that do not come.
		return t.old(t.failed, log)
	}
	fetching, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	fetched, err := o.fetch(fetching)
	switch {
	case err == nil:
		t.cache, t.logged = fetched, ""
		return fetched.text, nil
	case ctx.Err() != nil: // this client is being closed; others are not
		return "", ctx.Err()
	}
	t.failed, t.failedAt = err, time.Now()
	return t.old(err, log)
}

// old returns the token that could not be renewed, as long as it holds.
func (t *tokens) old(err error, log *slog.Logger) (string, error) {
	if !t.cache.valid(time.Now()) {
		return "", err
	}
	if t.logged != err.Error() {
		t.logged = err.Error()
		log.Warn("cannot renew the token for Kafka; the old one is used until it expires",
			slog.Any("error", err), slog.Time("expires", t.cache.expires))
	}
	return t.cache.text, nil
}

// answer is the endpoint's (RFC 6749, 5.1 and 5.2).
type answer struct {
	AccessToken string      `json:"access_token"`
	TokenType   string      `json:"token_type"`
	ExpiresIn   json.Number `json:"expires_in"` // seconds; some send it as text
	Error       string      `json:"error"`
	Description string      `json:"error_description"`
}

// fetch asks the endpoint. Every error is a *TokenError.
func (o *OAuth) fetch(ctx context.Context) (token, error) {
	fail := func(temporary bool, err error) (token, error) {
		return token{}, &TokenError{From: o.TokenURL, Temporary: temporary, Err: err}
	}
	secret := o.ClientSecret.Reveal()
	if o.ClientSecretFile != "" {
		var err error
		if secret, err = readSecret("sasl.oauth.client_secret_file", o.ClientSecretFile); err != nil {
			return fail(true, err)
		}
	}
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DisableKeepAlives: true, // the next token is minutes away
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	if o.CAFile != "" {
		pool, err := readCAs("sasl.oauth.ca_file", o.CAFile)
		if err != nil {
			return fail(true, err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if o.Scope != "" {
		form.Set("scope", o.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return fail(false, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(o.ClientID), url.QueryEscape(secret)) // escaped: RFC 6749, 2.3.1
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the secret is for this endpoint alone
	}}
	asked := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return fail(false, fmt.Errorf("%w; check the host in token_url, and set sasl.oauth.ca_file if a CA of your own has signed its certificate", cause(err)))
		}
		return fail(true, fmt.Errorf("%w; check that token_url can be reached from here", cause(err)))
	}
	defer resp.Body.Close() //nolint:errcheck // read, or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fail(true, err)
	case len(body) > maxAnswer:
		return fail(false, fmt.Errorf("its answer is larger than %d bytes: check that token_url is a token endpoint", maxAnswer))
	case resp.StatusCode != http.StatusOK:
		temporary := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
		return fail(temporary, refusal(resp, body))
	}
	t, err := parseAnswer(body, asked)
	if err != nil {
		return fail(false, err)
	}
	return t, nil
}

// cause is without the method and the URL, which the TokenError has.
func cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// refusal says in the endpoint's words why there is no token.
func refusal(resp *http.Response, body []byte) error {
	var a answer
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/json" || json.Unmarshal(body, &a) != nil || a.Error == "" {
		return fmt.Errorf("it answers %s; check that token_url is a token endpoint", resp.Status)
	}
	said := printable(a.Error)
	if a.Description != "" {
		said += " (" + printable(a.Description) + ")"
	}
	hint := "ask who runs the endpoint"
	switch a.Error {
	case "invalid_client", "unauthorized_client":
		hint = "check sasl.oauth.client_id and the client secret, and that the client may use client credentials"
	case "invalid_scope":
		hint = "check sasl.oauth.scope"
	}
	return fmt.Errorf("it answers %s: %s; %s", resp.Status, said, hint)
}

// printable is what of a stranger's text goes into a message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// parseAnswer reads a good answer to a question of that time.
func parseAnswer(body []byte, asked time.Time) (token, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return token{}, errors.New("its answer is not the JSON of a token endpoint: check token_url")
	}
	switch {
	case a.AccessToken == "":
		return token{}, errors.New("its answer has no access_token: check token_url")
	case a.TokenType != "" && !strings.EqualFold(a.TokenType, "bearer"):
		return token{}, fmt.Errorf("its token is of type %q, and Kafka takes bearer tokens only", printable(a.TokenType))
	case !isToken(a.AccessToken):
		return token{}, errors.New("its access_token has characters that a token cannot have")
	}
	t := token{text: a.AccessToken}
	if seconds, err := a.ExpiresIn.Float64(); err == nil && seconds > 0 && seconds < 1e9 {
		t.expires = asked.Add(time.Duration(seconds * float64(time.Second)))
	} else if c, ok := claimsOf(t.text); ok {
		t.expires = c.expiry()
	}
	t.renew = asked // of a token whose end is not known every login fetches another
	if life := t.expires.Sub(asked); life > 0 {
		t.renew = asked.Add(life / 5 * 4)
	}
	return t, nil
}

// isToken says that text is what an HTTP header and SASL can carry (RFC 6750, b64token,
// and what is seen beside it).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// claims are what a token that is a JWT says, unchecked: the broker checks it.
type claims struct {
	Subject string  `json:"sub"`
	Expires float64 `json:"exp"`
}

func (c claims) expiry() time.Time {
	if c.Expires <= 0 || c.Expires > 1e11 {
		return time.Time{}
	}
	return time.UnixMilli(int64(c.Expires * 1000))
}

// claimsOf reads them; a token may just as well be of another form.
func claimsOf(text string) (c claims, ok bool) {
	_, rest, _ := strings.Cut(text, ".")
	payload, _, ok := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if !ok || cmp.Or(err, json.Unmarshal(raw, &c)) != nil {
		return claims{}, false
	}
	return c, true
}
