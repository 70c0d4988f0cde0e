package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka is one real Apache Kafka node (KRaft) on loopback ports.
type Kafka struct {
	dir   string
	libs  string
	opts  kafkaOptions
	ports struct{ client, controller, mtls, broker int }
	// advertised is host:port that clients are told to connect to.
	advertised string
	proc       *process
}

type kafkaOptions struct {
	secure *Certs
	heap   string
	// cluster is what the node belongs to; nil if it is alone.
	cluster *KafkaCluster
	// clientOpts reach the node, for the readiness check.
	clientOpts func(k *Kafka) ([]kgo.Opt, error)
}

// NewKafka formats a node in dir and starts it. libs is what KafkaLibs returned.
func NewKafka(ctx context.Context, dir, libs string) (*Kafka, error) {
	return newKafka(ctx, dir, libs, kafkaOptions{heap: "768m"})
}

func newKafka(ctx context.Context, dir, libs string, opts kafkaOptions) (*Kafka, error) {
	k := &Kafka{dir: dir, libs: libs, opts: opts}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		err := k.choosePorts(ctx)
		if err == nil {
			err = k.format(ctx, newClusterID())
		}
		if err == nil {
			err = k.Start(ctx)
		}
		if err == nil {
			return k, nil
		}
		if attempt == startAttempts || ctx.Err() != nil {
			return nil, err
		}
		if err := os.RemoveAll(k.data()); err != nil {
			return nil, err
		}
	}
}

func (k *Kafka) choosePorts(ctx context.Context) error {
	for _, p := range []*int{&k.ports.client, &k.ports.controller, &k.ports.mtls, &k.ports.broker} {
		n, err := FreePort(ctx)
		if err != nil {
			return err
		}
		*p = n
	}
	k.advertised = k.Addr()
	return nil
}

func (k *Kafka) data() string       { return filepath.Join(k.dir, "data") }
func (k *Kafka) properties() string { return filepath.Join(k.dir, "server.properties") }

func (k *Kafka) settings() []string {
	s := []string{
		"process.roles=broker,controller",
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + k.data(),
		"num.partitions=8",
		"auto.create.topics.enable=false",
		// Few partitions start faster.
		"offsets.topic.num.partitions=4",
		"transaction.state.log.num.partitions=4",
		// Fault tests: a killed member must be noticed in a second or two.
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=500",
		"group.consumer.min.session.timeout.ms=1500",
		"group.consumer.session.timeout.ms=1500",
		"group.consumer.min.heartbeat.interval.ms=300",
		"group.consumer.heartbeat.interval.ms=300",
		// Records of 20 MB are among the faults.
		"message.max.bytes=33554432",
		// A topic that was deleted must be gone soon, and one node needs no grace at its end.
		"log.segment.delete.delay.ms=1000",
		"controlled.shutdown.enable=false",
		// A killed node may come back only when the session of its former life has ended.
		"broker.session.timeout.ms=3000",
		"broker.heartbeat.interval.ms=500",
		"log.cleaner.dedupe.buffer.size=8388608",
		// A test that waits for compaction does not wait long.
		"log.cleaner.backoff.ms=500",
	}
	if k.opts.cluster != nil {
		return append(s, k.opts.cluster.settings(k)...)
	}
	// One node: everything internal has one copy.
	s = append(s, copies(1, 1)...)
	s = append(s, "node.id=1", "controller.quorum.voters=1@"+addr(k.ports.controller))
	if k.opts.secure != nil {
		return append(s, k.secureSettings()...)
	}
	return append(s,
		"listeners=PLAINTEXT://"+addr(k.ports.client)+",CONTROLLER://"+addr(k.ports.controller),
		"advertised.listeners=PLAINTEXT://"+addr(k.ports.client),
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
	)
}

// copies is how many copies there are of what Kafka keeps for itself, and how
// many must be there for a write.
func copies(n, in int) []string {
	return []string{
		fmt.Sprintf("offsets.topic.replication.factor=%d", n),
		fmt.Sprintf("transaction.state.log.replication.factor=%d", n),
		fmt.Sprintf("transaction.state.log.min.isr=%d", in),
		fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", n),
		fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", in),
	}
}

// format makes the node's data directory, for the cluster with that id.
func (k *Kafka) format(ctx context.Context, clusterID string) error {
	if err := os.WriteFile(k.properties(), []byte(strings.Join(k.settings(), "\n")+"\n"), 0o600); err != nil {
		return err
	}
	args := append(k.java("-Xmx128m"), "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", k.properties())
	if k.opts.secure != nil {
		args = append(args, scramArgs()...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // java, with our own arguments
	cmd.Dir = k.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the Kafka node in %s: %w\n%s", k.dir, err, out)
	}
	return nil
}

// java is how every program of Kafka is started. The options favour a quick
// start over peak speed; the broker of the benchmarks is another one.
func (k *Kafka) java(heap ...string) []string {
	args := append([]string{"java"}, heap...)
	return append(args, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dlog4j2.configurationFile="+filepath.Join(k.libs, logConfigName), "-cp", filepath.Join(k.libs, "*"))
}

// newClusterID is a random id in Kafka's form. One that begins with a dash would
// be taken for an option.
func newClusterID() string {
	for {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		if s := base64.RawURLEncoding.EncodeToString(b[:]); s[0] != '-' {
			return s
		}
	}
}

// Start starts a stopped or killed node on its ports.
func (k *Kafka) Start(ctx context.Context) error {
	args := append(k.java("-Xms"+k.opts.heap, "-Xmx"+k.opts.heap), "kafka.Kafka", k.properties())
	proc, err := startProcess("Kafka", k.dir, nil, nil, args...)
	if err != nil {
		return err
	}
	k.proc = proc
	opts := []kgo.Opt{kgo.SeedBrokers(k.Addr())}
	if k.opts.clientOpts != nil {
		if opts, err = k.opts.clientOpts(k); err != nil {
			return err
		}
	}
	err = proc.ready(ctx, 90*time.Second, func() error { return ping(ctx, opts) })
	if err != nil {
		k.Kill()
	}
	return err
}

func ping(ctx context.Context, opts []kgo.Opt) error {
	cl, err := kgo.NewClient(append(opts, kgo.RetryTimeout(time.Second))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return cl.Ping(ctx)
}

// Addr is host:port of the client listener: PLAINTEXT, or SASL_SSL of a secure node.
func (k *Kafka) Addr() string { return addr(k.ports.client) }

// Stop ends the node in order.
func (k *Kafka) Stop() { k.signal(syscall.SIGTERM) }

// Kill kills the node.
func (k *Kafka) Kill() { k.signal(syscall.SIGKILL) }

// Freeze stops a running node from doing anything, until Thaw.
func (k *Kafka) Freeze() { _ = k.proc.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (k *Kafka) Thaw() { _ = k.proc.cmd.Process.Signal(syscall.SIGCONT) }

func (k *Kafka) signal(sig syscall.Signal) {
	if k.proc == nil {
		return
	}
	k.proc.stop(sig, 20*time.Second)
	k.proc = nil
}
