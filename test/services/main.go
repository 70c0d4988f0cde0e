// Command services starts the real servers that the tests need, and stops them.
//
//	go run ./test/services run -- go test ./...
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/internal/testservice/server"
)

const usage = `services starts the real servers that the tests need: Apache Kafka (plain, and one with TLS, SASL
and ACLs), PostgreSQL (with TLS) and PgBouncer, on free ports of 127.0.0.1. What is missing is
installed: with apt-get if this is root on Debian or Ubuntu, Kafka from Maven Central, and what checks
manifests from PyPI.

  services run -- COMMAND ...   start them, run the command, stop them; exit as the command did
  services up                   start them, write .services/env, wait for Ctrl-C, stop them
  services env                  how to use servers of your own

`

const ownServers = `A variable that is set is used, and its service is not started:

  PENSTOCK_TEST_KAFKA          host:port of a broker (4.x) on which topics may be created and deleted
  PENSTOCK_TEST_KAFKA_SECURE   JSON: SASLBroker, MTLSBroker, CAFile, CertFile, KeyFile, Username, Password,
                               AdminUsername, AdminPassword, Prefix (what the user and the certificate may use)
  PENSTOCK_TEST_POSTGRES       URL of a PostgreSQL (14 or newer), as superuser
  PENSTOCK_TEST_POSTGRES_TLS   file of the CA of its certificate; it needs the roles app and app_tls
  PENSTOCK_TEST_PGBOUNCER      host:port of a PgBouncer in transaction mode in front of it
  PENSTOCK_TEST_PROMTOOL, PENSTOCK_TEST_KUBERNETES_VALIDATE
                               paths of these programs, which check rules and manifests

Tests that kill servers start them themselves: they need the programs on this machine.
make test-fast runs the tests that need no service.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go whileParentLives(ctx, cancel)
	switch {
	case len(args) >= 3 && args[0] == "run" && args[1] == "--":
		return withServices(ctx, func(vars []string) int { return command(ctx, vars, args[2:]) })
	case len(args) == 1 && args[0] == "up":
		return withServices(ctx, func(vars []string) int { return wait(ctx, vars) })
	case len(args) == 1 && args[0] == "env":
		_, _ = os.Stdout.WriteString(ownServers)
		return 0
	default:
		_, _ = os.Stderr.WriteString(usage + ownServers)
		return 2
	}
}

// whileParentLives stops everything when the parent is gone: `go run` does not
// pass SIGTERM on, and the servers must not outlive their run.
func whileParentLives(ctx context.Context, cancel func()) {
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if os.Getppid() != parent {
				cancel()
			}
		}
	}
}

// withServices starts the services, calls fn with their environment and stops
// them, whatever happened.
func withServices(ctx context.Context, fn func(vars []string) int) int {
	dir, err := os.MkdirTemp("", "penstock-services-")
	if err != nil {
		logf("%v", err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover in a temporary folder
	// PostgreSQL runs as another user and must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		logf("%v", err)
		return 1
	}
	defer server.StopLeftovers(dir)
	s := &services{dir: dir}
	defer s.stop()
	began := time.Now()
	if err := s.start(ctx); err != nil {
		if ctx.Err() == nil {
			logf("%v", err)
		}
		return 1
	}
	logf("ready after %.1f s in %s", time.Since(began).Seconds(), dir)
	return fn(s.vars)
}

// services are the running servers and the environment that names them.
type services struct {
	dir   string
	certs *server.Certs

	mu sync.Mutex // guards what follows
	// stops end the servers, last first.
	stops []func()
	vars  []string
}

func (s *services) add(stop func(), vars ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stops = append(s.stops, stop)
	s.vars = append(s.vars, vars...)
}

func (s *services) stop() {
	var wg sync.WaitGroup
	for _, stop := range s.stops {
		wg.Go(stop)
	}
	wg.Wait()
}

func (s *services) start(ctx context.Context) error {
	var err error
	if s.certs, err = server.NewCerts(filepath.Join(s.dir, "tls")); err != nil {
		return err
	}
	s.vars = append(s.vars, server.EnvDir+"="+s.dir)
	in := &server.Installer{Out: os.Stderr}
	// Installing is one thing after the other; starting is all at once.
	var starts []func() error
	if missing(server.EnvPostgres) {
		if err := in.Postgres(ctx); err != nil {
			return err
		}
		pooled := missing(server.EnvPgBouncer)
		if pooled {
			if err := in.PgBouncer(ctx); err != nil {
				return err
			}
		}
		starts = append(starts, func() error { return s.postgres(ctx, pooled) })
	}
	// Also where brokers are given: some tests start one that they may kill.
	libs, err := in.KafkaLibs(ctx)
	switch {
	case err == nil:
	case missing(server.EnvKafka) || missing(server.EnvKafkaSecure):
		return err
	default: // own brokers are given
		logf("the tests that kill a broker of their own will fail: %v", err)
	}
	if missing(server.EnvKafka) {
		starts = append(starts, func() error { return s.kafka(ctx, libs) })
	}
	if missing(server.EnvKafkaSecure) {
		starts = append(starts, func() error { return s.secureKafka(ctx, libs) })
	}
	for _, p := range []struct {
		variable string
		install  func(context.Context) (string, error)
	}{{server.EnvPromtool, in.Promtool}, {server.EnvKubernetesValidate, in.KubernetesValidate}} {
		if !missing(p.variable) {
			continue
		}
		path, err := p.install(ctx)
		if err != nil {
			return err
		}
		s.vars = append(s.vars, p.variable+"="+path)
	}
	errs := make([]error, len(starts))
	var wg sync.WaitGroup
	for i, start := range starts {
		wg.Go(func() { errs[i] = start() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func missing(variable string) bool { return os.Getenv(variable) == "" }

func (s *services) postgres(ctx context.Context, pooled bool) error {
	pg, err := server.NewPostgres(ctx, filepath.Join(s.dir, "postgres"), s.certs)
	if err != nil {
		return err
	}
	s.add(pg.StopImmediately, server.EnvPostgres+"="+pg.URL("postgres"), server.EnvPostgresTLS+"="+s.certs.CAFile)
	if !pooled {
		return nil
	}
	b, err := server.NewPgBouncer(ctx, filepath.Join(s.dir, "pgbouncer"), pg)
	if err != nil {
		return err
	}
	s.add(b.Stop, server.EnvPgBouncer+"="+b.Addr())
	return nil
}

func (s *services) kafka(ctx context.Context, libs string) error {
	k, err := server.NewKafka(ctx, filepath.Join(s.dir, "kafka"), libs)
	if err != nil {
		return err
	}
	s.add(k.Kill, server.EnvKafka+"="+k.Addr())
	return nil
}

func (s *services) secureKafka(ctx context.Context, libs string) error {
	k, err := server.NewSecureKafka(ctx, filepath.Join(s.dir, "kafka-secure"), libs, s.certs)
	if err != nil {
		return err
	}
	v, err := json.Marshal(testservice.Secure{
		SASLBroker: k.Addr(), MTLSBroker: k.MTLSAddr(),
		CAFile: s.certs.CAFile, CertFile: s.certs.ClientCert, KeyFile: s.certs.ClientKey,
		Username: server.AppUser, Password: server.AppPassword,
		AdminUsername: server.AdminUser, AdminPassword: server.AdminPassword,
		Prefix: server.AllowedPrefix,
	})
	s.add(k.Kill, server.EnvKafkaSecure+"="+string(v))
	return err
}

// command runs args with the services' environment, in a process group of its
// own, so that a signal reaches all of it and the servers outlive it.
func command(ctx context.Context, vars, args []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the caller's own command
	cmd.Env = append(os.Environ(), vars...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	err := cmd.Run()
	if cmd.Process != nil && ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whoever did not listen
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	default:
		logf("%s: %v", args[0], err)
		return 1
	}
}

// wait writes the environment to a file that a shell can read, and waits.
func wait(ctx context.Context, vars []string) int {
	const dir = ".services"
	path := filepath.Join(dir, "env")
	var b strings.Builder
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		logf("%v", err)
		return 1
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		logf("%v", err)
		return 1
	}
	defer os.Remove(path) //nolint:errcheck // the next start overwrites it
	_, _ = os.Stdout.WriteString(b.String())
	logf("in another terminal: . %s && go test ./...   (Ctrl-C here stops the services)", path)
	<-ctx.Done()
	return 0
}

func logf(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, "services: "+format+"\n", args...)
}
