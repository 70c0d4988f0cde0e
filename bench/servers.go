package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/penstockdev/penstock/internal/testservice/server" //nolint:depguard // to install servers as the tests do
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Servers are the broker and the database that is measured on.
type Servers struct {
	Brokers  []string
	Postgres string // URL, superuser
	own      []*process
}

// The servers of the tests are no servers to measure on: they are set up to
// start fast, with fsync off and Java's first compiler only. These are as a
// person would run them who cares for data.
var (
	postgresSettings = []string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=",
		"shared_buffers=512MB", "max_wal_size=4GB", "autovacuum=off",
	}
	kafkaJVM = []string{"-Xms1g", "-Xmx1g", "-XX:+UseG1GC"}
)

// findServers takes those that the environment names, both or neither, and
// else starts its own below dir.
func findServers(ctx context.Context, out io.Writer, ports *ports, dir string, quick bool) (*Servers, error) {
	prefix := "PENSTOCK_BENCH_"
	if quick {
		prefix = "PENSTOCK_TEST_"
	}
	kafka, postgres := os.Getenv(prefix+"KAFKA"), os.Getenv(prefix+"POSTGRES")
	switch {
	case kafka != "" && postgres != "":
		return &Servers{Brokers: strings.Split(kafka, ","), Postgres: postgres}, nil
	case kafka != "" || postgres != "":
		return nil, fmt.Errorf("set both %[1]sKAFKA (host:port) and %[1]sPOSTGRES (URL, superuser), or neither: then servers are started", prefix)
	}
	in := &server.Installer{Out: out}
	if err := in.Postgres(ctx); err != nil {
		return nil, err
	}
	libs, err := in.KafkaLibs(ctx)
	if err != nil {
		return nil, err
	}
	s := &Servers{}
	pg, err := s.startPostgres(ctx, ports, filepath.Join(dir, "postgres"))
	if err == nil {
		s.Postgres = pg.URL
		err = s.startKafka(ctx, ports, libs, filepath.Join(dir, "kafka"))
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Stop stops what was started.
func (s *Servers) Stop() {
	for _, p := range slices.Backward(s.own) {
		_, _ = p.Stop(os.Interrupt) // their data goes with the directory: how they end says nothing
	}
	s.own = nil
}

// start starts a server, which ends with Stop and not with a context: what it
// serves must be closed first.
func (s *Servers) start(ctx context.Context, cred *syscall.Credential, dir string, args []string, ready func(context.Context) error) error {
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // see above
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	p, err := start(cmd)
	if err != nil {
		return err
	}
	s.own = append(s.own, p)
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = ready(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("%s ended at its start: %w\n%s", args[0], p.err, p.out)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", args[0], err)
		}
	}
}

// postgresServer is a PostgreSQL of the benchmark's own, which may be started
// more than once.
type postgresServer struct {
	URL  string
	cred *syscall.Credential
	dir  string
	args []string
}

func (s *Servers) startPostgres(ctx context.Context, ports *ports, dir string) (*postgresServer, error) {
	bin, err := postgresBin("postgres")
	if err != nil {
		return nil, err
	}
	initdb := filepath.Join(filepath.Dir(bin), "initdb")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	pg := &postgresServer{dir: dir}
	if os.Geteuid() == 0 { // PostgreSQL does not run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
		}
		uid, errU := strconv.ParseUint(u.Uid, 10, 32)
		gid, errG := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errU, errG, os.Chown(dir, int(uid), int(gid))); err != nil {
			return nil, err
		}
		pg.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	addr, err := ports.free()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	pg.args = []string{bin, "-D", data, "-p", port}
	for _, o := range postgresSettings {
		pg.args = append(pg.args, "-c", o)
	}
	pg.URL = "postgres://postgres@" + addr + "/postgres"
	return pg, s.runPostgres(ctx, pg)
}

// runPostgres starts it, again if it was stopped, and returns when it answers.
func (s *Servers) runPostgres(ctx context.Context, pg *postgresServer) error {
	return s.start(ctx, pg.cred, pg.dir, pg.args, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, pg.URL)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

func (s *Servers) startKafka(ctx context.Context, ports *ports, libs, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	client, err := ports.free()
	if err != nil {
		return err
	}
	controller, err := ports.free()
	if err != nil {
		return err
	}
	properties := filepath.Join(dir, "server.properties")
	settings := []string{
		"process.roles=broker,controller", "node.id=1", "controller.quorum.voters=1@" + controller,
		"listeners=PLAINTEXT://" + client + ",CONTROLLER://" + controller, "advertised.listeners=PLAINTEXT://" + client,
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", "controller.listener.names=CONTROLLER",
		"log.dirs=" + filepath.Join(dir, "data"),
		"offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1", "share.coordinator.state.topic.min.isr=1",
		// The time to the first row is Penstock's, not that of a broker that
		// waits for more members.
		"group.initial.rebalance.delay.ms=0",
	}
	if err := os.WriteFile(properties, []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	java := append([]string{"java"}, kafkaJVM...)
	java = append(java, "-cp", filepath.Join(libs, "*"))
	format := append(slices.Clone(java), "kafka.tools.StorageTool", "format", "-t", "cGVuc3RvY2stYmVuY2gtMQ", "-c", properties)
	cmd := exec.CommandContext(ctx, format[0], format[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting Kafka's log: %w\n%s", err, out)
	}
	s.Brokers = []string{client}
	return s.start(ctx, nil, dir, append(java, "kafka.Kafka", properties), func(ctx context.Context) error {
		c, err := kgo.NewClient(kgo.SeedBrokers(client))
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		// A broker makes its topics for groups and transactions when the first
		// of them asks: not in somebody's measurement.
		admin := kadm.NewClient(c)
		return errors.Join(c.Ping(ctx), admin.FindGroupCoordinators(ctx, "bench").Error(), admin.FindTxnCoordinators(ctx, "bench").Error())
	})
}

// postgresBin finds a program of PostgreSQL. Debian keeps the programs off the
// PATH, and the psql that is on it is a script that costs as much as loading
// thousands of rows.
func postgresBin(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return majorOf(a) - majorOf(b) }), nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed (Debian: apt-get install postgresql): %w", name, err)
	}
	return path, nil
}

// majorOf is the version in /usr/lib/postgresql/15/bin/psql.
func majorOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // another folder: oldest
	return n
}

// ports hands out loopback ports, each once, below the ephemeral range, where
// nothing takes them between here and the server that will listen.
type ports struct{ last int }

func (p *ports) free() (string, error) {
	if p.last == 0 {
		p.last = 20_000 + os.Getpid()%8_000
	}
	for p.last++; p.last < 32_000; p.last++ {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.last))
		l, err := net.Listen("tcp", addr) //nolint:noctx // bound and released at once: there is nothing to cancel
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port between 20000 and 32000 on 127.0.0.1")
}
