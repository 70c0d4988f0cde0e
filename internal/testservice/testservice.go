package testservice

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockdev/penstock/internal/testservice/server"
)

func env(t testing.TB, name, service string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("no %s for this test: %s is not set. `make test` starts everything; or run `make services` in another "+
			"terminal, and here `. .services/env`; `make test-fast` runs the tests that need no service", service, name)
	}
	return v
}

// Kafka returns host:port of a real Apache Kafka broker. Topics are not created
// by themselves.
func Kafka(t testing.TB) string {
	t.Helper()
	return env(t, server.EnvKafka, "Kafka")
}

// Promtool returns the path of promtool, which checks and tests Prometheus' rules.
func Promtool(t testing.TB) string {
	t.Helper()
	return env(t, server.EnvPromtool, "promtool")
}

// Secure is a Kafka with TLS, authentication and ACLs that deny by default.
// The app user and the client certificate may do everything with topics,
// groups and transactional ids that begin with Prefix; the admin, everything.
type Secure struct {
	// SASLBroker takes SCRAM-SHA-512, SCRAM-SHA-256 and PLAIN over TLS.
	SASLBroker string
	// MTLSBroker asks for a client certificate.
	MTLSBroker                   string
	CAFile, CertFile, KeyFile    string
	Username, Password           string
	AdminUsername, AdminPassword string
	Prefix                       string
}

// KafkaSecure returns the Kafka that asks who you are.
func KafkaSecure(t testing.TB) Secure {
	t.Helper()
	var s Secure
	if err := json.Unmarshal([]byte(env(t, server.EnvKafkaSecure, "secure Kafka")), &s); err != nil {
		t.Fatalf("%s: %v", server.EnvKafkaSecure, err)
	}
	return s
}

// Postgres creates a database for this test alone, and returns its URL as
// superuser, without TLS. The database is dropped when the test ends.
func Postgres(t testing.TB) string {
	t.Helper()
	return newDatabase(t, env(t, server.EnvPostgres, "PostgreSQL"), "postgres")
}

// TLS is a database that is reached with a password, and over TLS.
type TLS struct {
	// URL carries user and password, and no sslmode. Its server refuses this
	// user without TLS.
	URL string
	// PlainURL is the same database for a user who gives a password, and may
	// come without TLS.
	PlainURL string
	// CAFile signed the server's certificate for localhost and 127.0.0.1.
	CAFile   string
	Password string
}

// PostgresTLS creates a database for this test alone whose owner must use TLS.
func PostgresTLS(t testing.TB) TLS {
	t.Helper()
	ca := env(t, server.EnvPostgresTLS, "PostgreSQL with TLS")
	admin := newDatabase(t, env(t, server.EnvPostgres, "PostgreSQL"), server.TLSRole)
	exec(t, admin, "GRANT ALL ON SCHEMA public TO "+server.PasswordRole)
	as := func(user string) string {
		u, err := url.Parse(admin)
		if err != nil {
			t.Fatal(err)
		}
		u.User, u.RawQuery = url.UserPassword(user, server.RolePassword), ""
		return u.String()
	}
	return TLS{URL: as(server.TLSRole), PlainURL: as(server.PasswordRole), CAFile: ca, Password: server.RolePassword}
}

// PgBouncer returns dbURL through a PgBouncer in transaction mode. dbURL is
// what Postgres returned.
func PgBouncer(t testing.TB, dbURL string) string {
	t.Helper()
	return WithAddr(t, dbURL, env(t, server.EnvPgBouncer, "PgBouncer"))
}

// WithAddr returns the URL with another host:port, that of a Proxy for example.
func WithAddr(t testing.TB, dbURL, addr string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatalf("database URL: %v", err)
	}
	u.Host = addr
	return u.String()
}

// Name returns a name that no other test and no other run uses, made from the
// test's: for topics, groups, flows and tables. Lower case letters, digits and
// underscores, at most 50.
func Name(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, r := range strings.ToLower(t.Name()) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	name := b.String()
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	return name[:min(len(name), 40)] + "_" + hex.EncodeToString(id[:])
}

func newDatabase(t testing.TB, serverURL, owner string) string {
	t.Helper()
	name := Name(t)
	exec(t, serverURL, "CREATE DATABASE "+name+" OWNER "+owner)
	t.Cleanup(func() { exec(t, serverURL, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatalf("database URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

func exec(t testing.TB, dbURL, sql string) {
	t.Helper()
	// Cleanups run after t.Context() has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement has its own error
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Port returns a port on 127.0.0.1 that nobody listens on, below the ephemeral
// range, for a server that the test starts.
func Port(t testing.TB) int {
	t.Helper()
	p, err := server.FreePort(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}
