package login

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/internal/testservice/logintest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	password := func(change func(*SASL)) *SASL {
		s := &SASL{Username: "u", Password: "p"}
		change(s)
		return s
	}
	token := func(change func(*SASL)) *SASL {
		s := &SASL{Mechanism: "OAUTHBEARER", OAuth: &OAuth{TokenURL: "https://h/token", ClientID: "c", ClientSecret: "s"}}
		change(s)
		return s
	}
	for _, c := range []struct {
		name, path string // path: of the field at fault; empty: none is
		tls        *TLS
		sasl       *SASL
	}{
		{"nothing", "", nil, nil},
		{"SCRAM without TLS", "", nil, password(func(*SASL) {})},
		{"PLAIN without TLS", "sasl.mechanism", nil, password(func(s *SASL) { s.Mechanism = "PLAIN" })},
		{"PLAIN without TLS, allowed", "", nil, password(func(s *SASL) { s.Mechanism, s.AllowPlaintext = "PLAIN", true })},
		{"PLAIN with TLS", "", &TLS{}, password(func(s *SASL) { s.Mechanism = "PLAIN" })},
		{"token without TLS", "sasl.mechanism", nil, token(func(*SASL) {})},
		{"token with TLS", "", &TLS{}, token(func(*SASL) {})},
		{"no user", "sasl.username", &TLS{}, password(func(s *SASL) { s.Username = "" })},
		{"no password", "sasl.password", &TLS{}, password(func(s *SASL) { s.Password = "" })},
		{"two passwords", "sasl.password_file", &TLS{}, password(func(s *SASL) { s.PasswordFile = "f" })},
		{"other mechanism", "sasl.mechanism", &TLS{}, password(func(s *SASL) { s.Mechanism = "GSSAPI" })},
		{"oauth for SCRAM", "sasl.oauth", &TLS{}, password(func(s *SASL) { s.OAuth = &OAuth{} })},
		{"user with token", "sasl.username", &TLS{}, token(func(s *SASL) { s.Username = "u" })},
		{"password with token", "sasl.password", &TLS{}, token(func(s *SASL) { s.Password = "u" })},
		{"no oauth", "sasl.oauth", &TLS{}, token(func(s *SASL) { s.OAuth = nil })},
		{"no token", "sasl.oauth.token_file", &TLS{}, token(func(s *SASL) { s.OAuth = &OAuth{} })},
		{"two tokens", "sasl.oauth.token_url", &TLS{}, token(func(s *SASL) { s.OAuth.TokenFile = "f" })},
		{"scope of a file", "sasl.oauth.scope", &TLS{}, token(func(s *SASL) { s.OAuth = &OAuth{TokenFile: "f", Scope: "s"} })},
		{"http", "sasl.oauth.token_url", &TLS{}, token(func(s *SASL) { s.OAuth.TokenURL = "http://h/token" })},
		{"http, allowed", "", &TLS{}, token(func(s *SASL) { s.OAuth.TokenURL, s.AllowPlaintext = "http://h/token", true })},
		{"no URL", "sasl.oauth.token_url", &TLS{}, token(func(s *SASL) { s.OAuth.TokenURL = "h/token" })},
		{"password in URL", "sasl.oauth.token_url", &TLS{}, token(func(s *SASL) { s.OAuth.TokenURL = "https://u:p@h/token" })},
		{"no client", "sasl.oauth.client_id", &TLS{}, token(func(s *SASL) { s.OAuth.ClientID = "" })},
		{"no secret", "sasl.oauth.client_secret", &TLS{}, token(func(s *SASL) { s.OAuth.ClientSecret = "" })},
		{"two secrets", "sasl.oauth.client_secret_file", &TLS{}, token(func(s *SASL) { s.OAuth.ClientSecretFile = "f" })},
		{"extension auth", "sasl.oauth.extensions", &TLS{}, token(func(s *SASL) { s.OAuth.Extensions = map[string]string{"auth": "x"} })},
		{"extension with a digit", "sasl.oauth.extensions", &TLS{}, token(func(s *SASL) { s.OAuth.Extensions = map[string]string{"a1": "x"} })},
		{"extension that smuggles", "sasl.oauth.extensions", &TLS{}, token(func(s *SASL) { s.OAuth.Extensions = map[string]string{"a": "x\x01auth=y"} })},
		{"extension", "", &TLS{}, token(func(s *SASL) { s.OAuth.Extensions = map[string]string{"logicalCluster": "lkc-1"} })},
	} {
		err := Check(c.tls, c.sasl)
		switch field, _ := errors.AsType[*connect.FieldError](err); {
		case c.path == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.path != "" && (field == nil || field.Path != c.path):
			t.Errorf("%s: got %v, want an error about %s", c.name, err, c.path)
		}
	}
}

// first returns what the client would send first.
func first(t testing.TB, m sasl.Mechanism) (string, error) {
	t.Helper()
	_, b, err := m.Authenticate(t.Context(), "broker:1")
	return string(b), err
}

func wantFirst(t testing.TB, m sasl.Mechanism, part string) {
	t.Helper()
	if got, err := first(t, m); err != nil || !strings.Contains(got, part) {
		t.Fatalf("sends %q (%v), want %q in it", got, err, part)
	}
}

func TestPasswordFileIsReadForEveryLogin(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	s := &SASL{Mechanism: "PLAIN", Username: "u", PasswordFile: file}
	var log journal
	if _, err := s.mechanism(log.logger()); err == nil || !strings.HasPrefix(err.Error(), "sasl.password_file: ") {
		t.Fatalf("without the file: %v", err)
	}
	logintest.Write(t, file, "first\r\n")
	m, err := s.mechanism(log.logger())
	if err != nil {
		t.Fatal(err)
	}
	wantFirst(t, m, "\x00first")
	logintest.Write(t, file, "second")
	wantFirst(t, m, "\x00second")
	logintest.Write(t, file, "")
	wantFirst(t, m, "\x00second")
	wantFirst(t, m, "\x00second")
	if log.count("level=WARN") != 1 || log.count("is empty") != 1 || log.count("second") != 0 {
		t.Errorf("the log is\n%s", log.buf.String())
	}
}

func TestRefusedLoginMayBeChanging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "password")
		logintest.Write(t, file, "p")
		s := &SASL{Mechanism: "PLAIN", Username: "u", PasswordFile: file}
		m, err := s.mechanism(new(journal).logger())
		if err != nil {
			t.Fatal(err)
		}
		try := func(accept bool) {
			session, _, err := m.Authenticate(t.Context(), "b:1")
			if err == nil && accept {
				_, _, err = session.Challenge(nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want := func(want bool, when string) {
			t.Helper()
			if s.MayBeChanging() != want {
				t.Errorf("%s: got %t", when, !want)
			}
		}
		try(false)
		want(false, "never accepted")
		try(true)
		try(false) // the network cuts it off
		wait(t, time.Hour)
		try(false)
		want(true, "refused just now")
		wait(t, changeTime-time.Second)
		try(false)
		want(true, "refused for less than the time")
		wait(t, time.Second)
		want(false, "refused for long")
		try(true)
		want(true, "accepted again")
		s.PasswordFile = ""
		want(false, "a password that cannot change")
	})
}

// wait lets the clock of a synctest bubble go on.
func wait(t testing.TB, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	s := &SASL{Mechanism: "OAUTHBEARER", OAuth: &OAuth{TokenFile: file, Extensions: map[string]string{"logicalCluster": "lkc-1"}}}
	var log journal
	logintest.Write(t, file, "two tokens")
	if _, err := s.mechanism(log.logger()); err == nil || !strings.Contains(err.Error(), "something else than one token") {
		t.Fatalf("rubbish gave %v", err)
	}
	logintest.Write(t, file, "opaque-token\n")
	m, err := s.mechanism(log.logger())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := first(t, m); err != nil || got != "n,,\x01auth=Bearer opaque-token\x01logicalCluster=lkc-1\x01\x01" {
		t.Errorf("sends %q, %v", got, err)
	}
	if _, ok := Principal(nil, s); ok {
		t.Error("the user of an opaque token is known")
	}
	next := logintest.Token("somebody", time.Now().Add(time.Hour))
	logintest.Write(t, file, next)
	wantFirst(t, m, next)
	if name, _ := Principal(nil, s); name != "User:somebody" {
		t.Errorf("the principal is %s", name)
	}
	logintest.Write(t, file, "")
	wantFirst(t, m, next)
	logintest.Write(t, file, logintest.Token("somebody", time.Now().Add(-time.Minute)))
	_, err = first(t, m)
	wantTokenError(t, err, true, file, "is good until", "what renews the file")
}

func wantTokenError(t testing.TB, err error, temporary bool, words ...string) {
	t.Helper()
	e, ok := errors.AsType[*TokenError](err)
	if !ok || e.Temporary != temporary {
		t.Fatalf("got %v, want a TokenError, temporary %t", err, temporary)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q:\n%v", w, err)
		}
	}
}

func client(t testing.TB, e *logintest.Endpoint, log *journal) (*SASL, sasl.Mechanism) {
	t.Helper()
	s := &SASL{Mechanism: "OAUTHBEARER", OAuth: &OAuth{
		TokenURL: e.URL, CAFile: e.CAFile, ClientID: e.ID, ClientSecret: connect.Secret(e.Secret), Scope: "kafka other",
	}}
	if err := Check(&TLS{}, s); err != nil {
		t.Fatal(err)
	}
	m, err := s.mechanism(log.logger())
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

func wantAsked(t testing.TB, e *logintest.Endpoint, want int) {
	t.Helper()
	if got, _ := e.Asked(); got != want {
		t.Fatalf("the endpoint was asked %d times, want %d", got, want)
	}
}

func TestTokenIsSharedAndRenewed(t *testing.T) {
	t.Parallel()
	e := logintest.NewEndpoint(t, "app", time.Hour)
	s, m := client(t, e, new(journal))
	var logins sync.WaitGroup
	for range 20 {
		logins.Go(func() {
			if got, err := first(t, m); err != nil || !strings.Contains(got, "Bearer ey") {
				t.Errorf("sends %q, %v", got, err)
			}
		})
	}
	logins.Wait()
	second, err := s.mechanism(new(journal).logger()) // another client of the same connection
	if err != nil {
		t.Fatal(err)
	}
	wantFirst(t, second, "Bearer ey")
	wantAsked(t, e, 1)
	if _, scope := e.Asked(); scope != "kafka other" {
		t.Errorf("asked for scope %q", scope)
	}
	if name, _ := Principal(nil, s); name != "User:app" {
		t.Errorf("the principal is %s", name)
	}

	brief := logintest.NewEndpoint(t, "app", 3*time.Second)
	_, m = client(t, brief, new(journal))
	seen := map[string]bool{}
	eventually(t, func() bool {
		began := time.Now()
		text, err := first(t, m)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := claimsOf(strings.TrimPrefix(text, "n,,\x01auth=Bearer "))
		if c.expiry().Before(began) {
			t.Fatalf("sent a token that expired at %s, at %s", c.expiry(), began)
		}
		seen[text] = true
		return len(seen) == 3
	})
}

func TestTokenIsUsedToItsEndWhileTheEndpointIsAway(t *testing.T) {
	t.Parallel()
	var log journal
	e := logintest.NewEndpoint(t, "app", time.Hour)
	s, m := client(t, e, &log)
	old, err := first(t, m)
	if err != nil {
		t.Fatal(err)
	}
	e.Break(logintest.Refuse(http.StatusServiceUnavailable, "{}"))
	wantFirst(t, m, old)
	wantAsked(t, e, 1)
	s.tokens.cache.renew = time.Now() // four fifths of its life are over
	for range 3 {
		wantFirst(t, m, old)
	}
	wantAsked(t, e, 4)
	if log.count("level=WARN") != 1 || log.count("503") != 1 {
		t.Errorf("the log is\n%s", log.buf.String())
	}
	s.tokens.cache.expires = time.Now().Add(minLife / 2)
	_, err = first(t, m)
	wantTokenError(t, err, true, e.URL, "503")
	e.Break(nil)
	wantFirst(t, m, "Bearer ey")
}

func TestTokenErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		change    func(*OAuth)
		temporary bool
		say       []string
	}{
		"wrong secret":   {nil, func(o *OAuth) { o.ClientSecret = "wrong" }, false, []string{"401", "invalid_client (no such client)", "sasl.oauth.client_id"}},
		"unknown CA":     {nil, func(o *OAuth) { o.CAFile = "" }, false, []string{"unknown authority", "set sasl.oauth.ca_file"}},
		"nobody there":   {nil, func(o *OAuth) { o.TokenURL = "https://127.0.0.1:1/token" }, true, []string{"https://127.0.0.1:1/token", "refused", "can be reached"}},
		"wrong scope":    {logintest.Refuse(400, `{"error":"invalid_scope"}`), nil, false, []string{"400", "check sasl.oauth.scope"}},
		"another error":  {logintest.Refuse(400, `{"error":"what\u001b[2J?"}`), nil, false, []string{"what[2J?; ask who runs"}},
		"a proxy's page": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, nil, false, []string{"403", "is a token endpoint"}},
		"overloaded":     {logintest.Refuse(http.StatusTooManyRequests, "{}"), nil, true, []string{"429"}},
		"redirect": {
			func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			},
			nil, false,
			[]string{"307", "is a token endpoint"},
		},
		"too large":    {logintest.Refuse(200, `{"access_token":"`+strings.Repeat("x", maxAnswer)+`"}`), nil, false, []string{"larger than"}},
		"no JSON":      {logintest.Refuse(200, "hello"), nil, false, []string{"not the JSON"}},
		"no token":     {logintest.Refuse(200, "{}"), nil, false, []string{"no access_token"}},
		"other type":   {logintest.Refuse(200, `{"access_token":"x","token_type":"mac"}`), nil, false, []string{`"mac"`}},
		"smuggled":     {logintest.Refuse(200, `{"access_token":"x\u0001auth=y"}`), nil, false, []string{"characters"}},
		"secret away":  {nil, func(o *OAuth) { o.ClientSecret, o.ClientSecretFile = "", "/nowhere" }, true, []string{"client_secret_file", "no such file"}},
		"CA file away": {nil, func(o *OAuth) { o.CAFile = "/nowhere" }, true, []string{"ca_file", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := logintest.NewEndpoint(t, "app", time.Hour)
			s, m := client(t, e, new(journal))
			e.Break(c.answer)
			if c.change != nil {
				c.change(s.OAuth)
			}
			_, err := first(t, m)
			wantTokenError(t, err, c.temporary, append(c.say, s.OAuth.TokenURL)...)
			if strings.Contains(err.Error(), s.OAuth.ClientSecret.Reveal()) && s.OAuth.ClientSecret != "" {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

// One answer does for all logins that wait, and who is closed does not wait.
func TestLoginsThatWaitForAToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &SASL{Mechanism: "OAUTHBEARER", OAuth: &OAuth{TokenURL: "https://127.0.0.1:1/token", ClientID: "c", ClientSecret: "s"}}
		get := func(ctx context.Context) error {
			_, err := s.tokens.get(ctx, s.OAuth, slog.New(slog.DiscardHandler))
			return err
		}
		s.tokens.turn = make(chan struct{}, 1)
		s.tokens.once.Do(func() {})
		s.tokens.turn <- struct{}{} // somebody asks
		noToken := &TokenError{From: "test", Err: errors.New("none")}
		var logins sync.WaitGroup
		for range 5 {
			logins.Go(func() {
				if err := get(t.Context()); !errors.Is(err, noToken) {
					t.Errorf("got %v", err)
				}
			})
		}
		closed, cancel := context.WithCancel(t.Context())
		logins.Go(func() {
			if err := get(closed); !errors.Is(err, context.Canceled) {
				t.Errorf("a closed client got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		wait(t, time.Second)
		s.tokens.failed, s.tokens.failedAt = noToken, time.Now()
		<-s.tokens.turn
		logins.Wait()
	})
}

func TestLifeOfATokenByTheAnswer(t *testing.T) {
	t.Parallel()
	now := time.Now()
	jwt := logintest.Token("x", now.Add(50*time.Second))
	for body, want := range map[string]time.Duration{ // 0: not known
		`{"access_token":"` + jwt + `","expires_in":100}`:   100 * time.Second,
		`{"access_token":"` + jwt + `","expires_in":"100"}`: 100 * time.Second,
		`{"access_token":"` + jwt + `"}`:                    50 * time.Second,
		`{"access_token":"` + jwt + `","expires_in":0}`:     50 * time.Second,
		`{"access_token":"opaque"}`:                         0,
		`{"access_token":"a.b.c"}`:                          0,
	} {
		got, err := parseAnswer([]byte(body), now)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if want == 0 {
			if !got.expires.IsZero() || got.renew.After(now) || !got.valid(now.Add(time.Hour)) {
				t.Errorf("%s: %+v", body, got)
			}
			continue
		}
		if d := got.expires.Sub(now).Round(10 * time.Millisecond); d != want {
			t.Errorf("%s: expires in %s", body, d)
		}
		if d := got.renew.Sub(now).Round(10 * time.Millisecond); d != want/5*4 {
			t.Errorf("%s: renewed after %s", body, d)
		}
	}
}

// A broker that refuses a token says why only after the client has answered.
func TestRefusedTokenAsksWhy(t *testing.T) {
	t.Parallel()
	var session bearerSession
	if done, reply, err := session.Challenge([]byte(`{"status":"invalid_token"}`)); done || string(reply) != "\x01" || err != nil {
		t.Errorf("got %t %q %v", done, reply, err)
	}
	if done, _, err := session.Challenge(nil); !done || err != nil {
		t.Errorf("an empty answer is the end: %t %v", done, err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, a := range []answer{{AccessToken: "x", ExpiresIn: "3"}, {AccessToken: logintest.Token("a", time.Now())}, {Error: "x"}} {
		b, err := json.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseAnswer(body, now)
		if err == nil && (!isToken(got.text) || got.renew.After(got.expires) && !got.expires.IsZero() && got.expires.After(now)) {
			t.Errorf("%q: %+v", body, got)
		}
	})
}
