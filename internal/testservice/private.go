package testservice

import (
	"context"
	"os"
	"testing"

	"github.com/penstockdev/penstock/internal/testservice/server"
)

// Server is a PostgreSQL of this test's own, which it may stop, kill and
// start again on the same port.
type Server struct {
	t  testing.TB
	pg *server.Postgres
}

// StartPostgres starts one. It is killed when the test ends.
func StartPostgres(t testing.TB) *Server {
	t.Helper()
	pg, err := server.NewPostgres(context.Background(), privateDir(t), nil)
	if err != nil {
		t.Fatalf("start a PostgreSQL: %v", err)
	}
	s := &Server{t: t, pg: pg}
	t.Cleanup(s.pg.StopImmediately)
	return s
}

// URL creates a database and returns its URL as superuser.
func (s *Server) URL() string {
	s.t.Helper()
	name := Name(s.t)
	exec(s.t, s.pg.URL("postgres"), "CREATE DATABASE "+name)
	return s.pg.URL(name)
}

// Addr is host:port.
func (s *Server) Addr() string { return s.pg.Addr() }

// Start starts a server that was stopped or killed, on the same port.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.pg.Start(context.Background()); err != nil {
		s.t.Fatalf("start PostgreSQL again: %v", err)
	}
}

// Stop ends it in order, rolling back what runs.
func (s *Server) Stop() { s.pg.Stop() }

// StopImmediately ends it as a crash would: it recovers at the next Start.
func (s *Server) StopImmediately() { s.pg.StopImmediately() }

// Kill kills the postmaster; its children end when they notice.
func (s *Server) Kill() { s.pg.Kill() }

// Broker is a Kafka node of this test's own, which it may stop, kill and start
// again on the same port.
type Broker struct {
	t testing.TB
	k *server.Kafka
}

// StartKafka starts one, which takes a few seconds. It is killed when the test
// ends.
func StartKafka(t testing.TB) *Broker {
	t.Helper()
	libs, err := server.CachedKafkaLibs()
	if err != nil {
		t.Fatalf("start a Kafka: %v. `make test` fetches what it needs", err)
	}
	k, err := server.NewKafka(context.Background(), privateDir(t), libs)
	if err != nil {
		t.Fatalf("start a Kafka: %v", err)
	}
	b := &Broker{t: t, k: k}
	t.Cleanup(b.k.Kill)
	return b
}

// Addr is host:port.
func (b *Broker) Addr() string { return b.k.Addr() }

// Start starts a node that was stopped or killed, on the same port.
func (b *Broker) Start() {
	b.t.Helper()
	if err := b.k.Start(context.Background()); err != nil {
		b.t.Fatalf("start Kafka again: %v", err)
	}
}

// Stop ends it in order.
func (b *Broker) Stop() { b.k.Stop() }

// Kill kills it.
func (b *Broker) Kill() { b.k.Kill() }

// privateDir is not t.TempDir: that one is closed to the user that PostgreSQL
// runs as.
func privateDir(t testing.TB) string {
	t.Helper()
	base := env(t, server.EnvDir, "directory for servers")
	dir, err := os.MkdirTemp(base, Name(t)+"-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
