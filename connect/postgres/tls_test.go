package postgres

import (
	"context"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/internal/testservice/logintest"
	"github.com/penstockdev/penstock/internal/testservice/server"
)

// certUser is a role that logs in with a certificate.
const certUser = "cert_user"

// tlsServer is a PostgreSQL whose certificate is for another name than where
// it is, and which lets certUser in with a certificate of ca alone.
type tlsServer struct {
	t   testing.TB
	pg  *server.Postgres
	ca  *logintest.CA
	dir string
}

func newTLSServer(t *testing.T) *tlsServer {
	t.Helper()
	testservice.PostgresTLS(t)                                 // says how to start services
	dir, err := os.MkdirTemp(os.Getenv(server.EnvDir), "tls-") //nolint:usetesting // that one is closed to the user that PostgreSQL runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &tlsServer{t: t, ca: logintest.NewCA(t, "ca"), dir: dir}
	certs := &server.Certs{CAFile: s.file("ca.pem", s.ca.PEM)}
	cert, key := s.ca.Issue("server", time.Now().Add(time.Hour), "db.example.com")
	certs.ServerCert, certs.ServerKey = s.file("server.pem", cert), s.file("server.key", key)
	if err := os.Chmod(certs.CAFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if s.pg, err = server.NewPostgres(t.Context(), filepath.Join(dir, "pg"), certs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pg.StopImmediately)
	hba := filepath.Join(dir, "pg", "data", "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, hba, "hostssl all "+certUser+" 127.0.0.1/32 cert\nhost all "+certUser+" 127.0.0.1/32 reject\n"+string(rules))
	conn, err := pgx.Connect(t.Context(), s.pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		"CREATE ROLE " + certUser + " LOGIN",
		"ALTER SYSTEM SET ssl_ca_file = '" + certs.CAFile + "'",
		"SELECT pg_reload_conf()",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *tlsServer) file(name string, content []byte) string {
	path := filepath.Join(s.dir, name)
	writeFile(s.t, path, string(content))
	return path
}

// url is one with these parameters, key and value in turn.
func (s *tlsServer) url(user string, params ...string) string {
	return withParams(s.t, (&url.URL{Scheme: "postgres", User: url.User(user), Host: s.pg.Addr(), Path: "/postgres"}).String(), params...)
}

func withParams(t testing.TB, raw string, params ...string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := url.Values{}
	for pair := range slices.Chunk(params, 2) {
		q.Set(pair[0], pair[1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// dialed connects as the sink does, and says whether the server sees TLS, and whose
// certificate.
func dialed(t testing.TB, raw string) (encrypted bool, subject string, err error) {
	t.Helper()
	s, err := NewSink(SinkConfig{URL: raw, TableConfig: TableConfig{Table: "t"}})
	if err != nil {
		return false, "", flow.Fatal(err)
	}
	defer s.Close(context.Background())
	c, err := s.dial(t.Context())
	if err != nil {
		return false, "", err
	}
	defer s.hangUp(t.Context(), c.pg)
	rows, err := query(t.Context(), c.pg, "SELECT ssl, coalesce(client_dn, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
	if err != nil || len(rows) != 1 {
		t.Fatalf("pg_stat_ssl: %v, %d rows", err, len(rows))
	}
	return string(rows[0][0]) == "t", string(rows[0][1]), nil
}

// What each sslmode does, with a server that wants TLS from one user and not from
// another, and one that has none.
func TestTLSModes(t *testing.T) {
	t.Parallel()
	shared := testservice.PostgresTLS(t)
	own := newTLSServer(t)
	without := testservice.StartPostgres(t).URL()
	ca := filepath.Join(own.dir, "ca.pem")
	otherCA := own.file("other.pem", logintest.NewCA(t, "other").PEM)

	const plain, encrypted = "plain", "encrypted"
	for name, c := range map[string]struct {
		url  string
		want string // plain, encrypted, or else what is in the fatal error
	}{
		"disable":                     {withParams(t, shared.PlainURL, "sslmode", "disable"), plain},
		"disable, TLS wanted":         {withParams(t, shared.URL, "sslmode", "disable"), "pg_hba.conf"},
		"allow":                       {withParams(t, shared.PlainURL, "sslmode", "allow"), plain},
		"allow, TLS wanted":           {withParams(t, shared.URL, "sslmode", "allow"), encrypted},
		"prefer":                      {withParams(t, shared.PlainURL, "sslmode", "prefer"), encrypted},
		"prefer, no TLS there":        {withParams(t, without, "sslmode", "prefer"), plain},
		"the default":                 {withParams(t, shared.PlainURL), encrypted},
		"require":                     {withParams(t, shared.URL, "sslmode", "require"), encrypted},
		"require, no TLS there":       {withParams(t, without, "sslmode", "require"), "sslmode"},
		"require checks a CA":         {own.url("postgres", "sslmode", "require", "sslrootcert", otherCA), "sslrootcert"},
		"verify-ca":                   {own.url("postgres", "sslmode", "verify-ca", "sslrootcert", ca), encrypted},
		"verify-ca, wrong CA":         {own.url("postgres", "sslmode", "verify-ca", "sslrootcert", otherCA), "sslrootcert"},
		"verify-ca, the system's CAs": {own.url("postgres", "sslmode", "verify-ca"), "sslrootcert"},
		"verify-full":                 {withParams(t, shared.URL, "sslmode", "verify-full", "sslrootcert", shared.CAFile), encrypted},
		"verify-full, wrong CA":       {withParams(t, shared.URL, "sslmode", "verify-full", "sslrootcert", otherCA), "sslrootcert"},
		"verify-full, wrong name":     {own.url("postgres", "sslmode", "verify-full", "sslrootcert", ca), "the server's name"},
		"verify-full, no TLS there":   {withParams(t, without, "sslmode", "verify-full", "sslrootcert", ca), "sslmode"},
		"no such mode":                {own.url("postgres", "sslmode", "always"), "sslmode must be"},
		"no such CA file":             {own.url("postgres", "sslmode", "verify-ca", "sslrootcert", "/nowhere"), "sslrootcert"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ssl, _, err := dialed(t, c.url)
			switch {
			case c.want != plain && c.want != encrypted:
				wantError(t, err, flow.ClassFatal, c.want)
			case err != nil:
				t.Fatal(err)
			case ssl != (c.want == encrypted):
				t.Errorf("encrypted: %t, want %s", ssl, c.want)
			}
		})
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	s := newTLSServer(t)
	issue := func(ca *logintest.CA, name string, until time.Duration) (string, string) {
		cert, key := ca.Issue(name, time.Now().Add(until))
		id := testservice.Name(t)
		return s.file(id+".pem", cert), s.file(id+".key", key)
	}
	with := func(cert, key string) string {
		return s.url(certUser, "sslmode", "verify-ca", "sslrootcert", filepath.Join(s.dir, "ca.pem"), "sslcert", cert, "sslkey", key)
	}
	cert, key := issue(s.ca, certUser, time.Hour)
	encrypted, subject, err := dialed(t, with(cert, key))
	if err != nil || !encrypted || subject != "/CN="+certUser {
		t.Fatalf("got %t, %q, %v", encrypted, subject, err)
	}
	_, foreignKey := issue(s.ca, certUser, time.Hour)
	wrong := map[string]struct{ url, say string }{
		"none":          {s.url(certUser, "sslmode", "require"), "valid client certificate"},
		"another's":     {with(issue(s.ca, "somebody", time.Hour)), "certificate authentication failed"},
		"of another CA": {with(issue(logintest.NewCA(t, "other"), certUser, time.Hour)), "valid client certificate"}, // it is not sent: the server names its CAs
		"expired":       {with(issue(s.ca, certUser, -time.Hour)), "sslcert"},
		"another's key": {with(cert, foreignKey), "sslcert"},
	}
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		_, _, err := dialed(t, wrong[name].url)
		wantError(t, err, flow.ClassFatal, wrong[name].say)
	}
}

// Every connection reads the files: new ones use what they hold now. One that
// is half-written when a connection is made is tried again.
func TestTLSFilesAreReadForEveryConnection(t *testing.T) {
	t.Parallel()
	s := newTLSServer(t)
	cert, key := s.ca.Issue(certUser, time.Now().Add(time.Hour))
	certFile, keyFile := s.file("client.pem", cert), s.file("client.key", key)
	sink, err := NewSink(SinkConfig{TableConfig: TableConfig{Table: "t"}, URL: s.url(certUser, "sslmode", "verify-ca", "sslrootcert", filepath.Join(s.dir, "ca.pem"), "sslcert", certFile, "sslkey", keyFile)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close(context.Background())
	old, err := sink.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sink.hangUp(t.Context(), old.pg)
	s.file("client.pem", cert[:len(cert)/2])
	_, err = sink.dial(t.Context())
	wantError(t, err, flow.ClassTransient, "sslcert")
	next, nextKey := s.ca.Issue(certUser, time.Now().Add(time.Hour))
	s.file("client.pem", next)
	s.file("client.key", nextKey)
	c, err := sink.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sink.hangUp(t.Context(), c.pg)
	if _, err := exec(t.Context(), old.pg, "SELECT 1"); err != nil {
		t.Errorf("the old connection: %v", err)
	}
}
