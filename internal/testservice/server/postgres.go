package server

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// The roles of the test PostgreSQL besides its superuser, who needs no
// password: one that must give a password, and one that must also use TLS.
// Both may create databases.
const (
	PasswordRole = "app"
	TLSRole      = "app_tls"
	RolePassword = "app secret/%" // needs escaping in a URL, which is the point
)

// Postgres is a PostgreSQL of its own on a loopback port, with trust for its
// superuser and TLS on.
type Postgres struct {
	dir  string
	bin  string
	port int
	cred *syscall.Credential
	proc *process
	// wal is the directory of the write-ahead log, where it is not in data.
	wal string
}

// NewPostgres makes a cluster in dir and starts it.
func NewPostgres(ctx context.Context, dir string, certs *Certs) (*Postgres, error) {
	s, err := preparePostgres(dir)
	if err != nil {
		return nil, err
	}
	if err := s.init(ctx, certs); err != nil {
		return nil, err
	}
	if err := s.startSomewhere(ctx); err != nil {
		return nil, err
	}
	return s, s.createRoles(ctx)
}

// preparePostgres makes the directory.
func preparePostgres(dir string) (*Postgres, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	s := &Postgres{dir: dir, bin: bin}
	if s.cred, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return s, s.chown(dir)
}

// startSomewhere starts it on a port that is free.
func (s *Postgres) startSomewhere(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		var err error
		if s.port, err = FreePort(ctx); err != nil {
			return err
		}
		if err = s.Start(ctx); err == nil || attempt == startAttempts {
			return err
		}
	}
}

// unprivileged is the user that servers run as which refuse to be root; nil
// where this process is not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL and PgBouncer do not run as root, and there is no user postgres to run them as: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *Postgres) chown(path string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(path, int(s.cred.Uid), int(s.cred.Gid))
}

// findPostgres returns the directory of the newest PostgreSQL's programs.
// Debian does not put them on the PATH.
func findPostgres() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	version := func(p string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		return n
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) > version(found[j]) })
	if len(found) > 0 {
		return filepath.Dir(found[0]), nil
	}
	p, err := exec.LookPath("postgres")
	if err != nil {
		return "", fmt.Errorf("the program postgres is missing: %w", err)
	}
	return filepath.Dir(p), nil
}

func (s *Postgres) data() string { return filepath.Join(s.dir, "data") }

func (s *Postgres) init(ctx context.Context, certs *Certs) error {
	args := []string{"-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	if s.wal != "" {
		args = append(args, "--waldir="+s.wal)
	}
	if err := s.program(ctx, "initdb", args...); err != nil {
		return err
	}
	hba := strings.Join([]string{
		"hostnossl all " + TLSRole + " 127.0.0.1/32 reject",
		"hostssl all " + TLSRole + " 127.0.0.1/32 scram-sha-256",
		"host all " + PasswordRole + " 127.0.0.1/32 scram-sha-256",
		"host all all 127.0.0.1/32 trust",
		"host replication postgres 127.0.0.1/32 trust", "",
	}, "\n")
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	if certs == nil {
		return nil
	}
	for from, to := range map[string]string{certs.ServerCert: "server.crt", certs.ServerKey: "server.key"} {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		dst := filepath.Join(s.data(), to)
		if err := os.WriteFile(dst, b, 0o600); err != nil {
			return err
		}
		if err := s.chown(dst); err != nil {
			return err
		}
	}
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("ssl = on\n")
	if e := conf.Close(); err == nil {
		err = e
	}
	return err
}

// program runs one of PostgreSQL's programs as the server's user.
func (s *Postgres) program(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...) //nolint:gosec // a program that findPostgres found
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Start starts a stopped or killed server on its port.
func (s *Postgres) Start(ctx context.Context) error {
	args := []string{filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port)}
	for _, o := range []string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "max_prepared_transactions=50",
		"shared_buffers=256MB", "max_wal_size=4GB", "wal_level=logical",
		// A killed server loses nothing by these: what it wrote is in the
		// operating system's cache. Only a power failure would tell.
		"fsync=off", "full_page_writes=off",
		// Fault tests wait for a killed client's backend to notice.
		"client_connection_check_interval=500ms",
	} {
		args = append(args, "-c", o)
	}
	proc, err := startProcess("PostgreSQL", s.dir, s.cred, nil, args...)
	if err != nil {
		return err
	}
	s.proc = proc
	err = proc.ready(ctx, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		s.Kill()
	}
	return err
}

func (s *Postgres) createRoles(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is lost with it
	for _, role := range []string{PasswordRole, TLSRole} {
		if _, err := conn.Exec(ctx, "CREATE ROLE "+role+" LOGIN CREATEDB PASSWORD '"+RolePassword+"'"); err != nil {
			return fmt.Errorf("create role %s: %w", role, err)
		}
	}
	return nil
}

// Addr is host:port.
func (s *Postgres) Addr() string { return addr(s.port) }

// URL is that of a database, as superuser, without TLS: proxies look into it,
// and benchmarks compare with programs that do not encrypt on loopback.
func (s *Postgres) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Host: s.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}).String()
}

// Stop ends the server in order: running transactions are rolled back.
func (s *Postgres) Stop() { s.signal(syscall.SIGINT) }

// StopImmediately ends the server at once, as a crash would, but leaves no
// process behind; it recovers from its log at the next start.
func (s *Postgres) StopImmediately() { s.signal(syscall.SIGQUIT) }

// Kill kills the postmaster. Its children end when they notice.
func (s *Postgres) Kill() { s.signal(syscall.SIGKILL) }

func (s *Postgres) signal(sig syscall.Signal) {
	if s.proc == nil {
		return
	}
	s.proc.stop(sig, 20*time.Second)
	s.proc = nil
}
