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
	return own(t, pg)
}

// StartPostgresOnDisk starts one whose data lies on a disk of so many MB, of
// which about 40 are used to begin with. It needs the right to mount.
func StartPostgresOnDisk(t testing.TB, size int) *Server {
	t.Helper()
	pg, err := server.NewPostgresOnDisk(context.Background(), privateDir(t), size)
	if err != nil {
		t.Fatalf("start a PostgreSQL on a small disk: %v", err)
	}
	t.Cleanup(pg.RemoveDisk)
	return own(t, pg)
}

func own(t testing.TB, pg *server.Postgres) *Server {
	t.Cleanup(pg.StopImmediately)
	return &Server{t: t, pg: pg}
}

// StartStandby starts a streaming standby of the server, and returns once it
// receives. Commits do not wait for it unless they are told to:
// Set("synchronous_standby_names", "standby").
func (s *Server) StartStandby() *Server {
	s.t.Helper()
	standby, err := s.pg.NewStandby(context.Background(), privateDir(s.t))
	if err != nil {
		s.t.Fatalf("start a standby: %v", err)
	}
	return own(s.t, standby)
}

// Promote makes a standby the primary; it returns once it takes writes. Its
// databases are those of the former primary: see WithAddr.
func (s *Server) Promote() {
	s.t.Helper()
	if err := s.pg.Promote(context.Background()); err != nil {
		s.t.Fatalf("promote: %v", err)
	}
}

// Set changes a setting of the server, at once and for good.
func (s *Server) Set(setting, value string) {
	s.t.Helper()
	admin := s.pg.URL("postgres")
	exec(s.t, admin, "ALTER SYSTEM SET "+setting+" = '"+value+"'")
	exec(s.t, admin, "SELECT pg_reload_conf()")
}

// FillDisk leaves no free byte on the disk of StartPostgresOnDisk.
func (s *Server) FillDisk() {
	s.t.Helper()
	if err := s.pg.FillDisk(); err != nil {
		s.t.Fatal(err)
	}
}

// FreeDisk gives back what FillDisk took.
func (s *Server) FreeDisk() {
	s.t.Helper()
	if err := s.pg.FreeDisk(); err != nil {
		s.t.Fatal(err)
	}
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
