// Package embedded runs the services of "penstock demo" and "penstock dev" in
// this process: a Kafka on a real port of the loopback interface, kept on disk.
// (The database of both, SQLite, is a file that needs no service.)
//
// The Kafka is franz-go's kfake: it speaks the protocol to any client,
// transactions and consumer groups included, and what it has acknowledged
// survives a kill of the process. It is not a production broker: one node, one
// goroutine for all requests, no replication, no fsync per write (the loss of power
// may lose the last records), no security, and a disk format that is promised for one version
// back. It is for looking, developing and fast tests.
//
// What belongs here: starting and stopping those services. What does not: what
// the demo does with them (package demo).
package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/penstockdev/penstock/internal/filelock"
)

// DefaultPort is where the embedded Kafka listens if nothing else does.
const DefaultPort = 19092

// portTries is how many ports from the first on are tried.
const portTries = 20

// KafkaConfig configures the embedded Kafka.
type KafkaConfig struct {
	// Dir holds its files; it is created if it does not exist. Required. One process at a
	// time uses a directory.
	Dir string
	// Port is the port to listen on at 127.0.0.1; if it is taken, one of the
	// next is used. 0: DefaultPort.
	Port int
	// Partitions is how many a topic gets that a client creates by using it;
	// default 8.
	Partitions int
}

// Kafka is a running embedded Kafka.
type Kafka struct {
	cluster *kfake.Cluster
	lock    *filelock.Lock
	address string
	closed  sync.Once
}

// StartKafka starts a Kafka. Close it.
func StartKafka(ctx context.Context, cfg KafkaConfig) (*Kafka, error) {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = 8
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("the embedded Kafka's directory: %w", err)
	}
	lock, err := filelock.Take(filepath.Join(cfg.Dir, "penstock.lock"))
	if err != nil {
		if held, ok := errors.AsType[*filelock.HeldError](err); ok {
			return nil, fmt.Errorf("the embedded Kafka in %s is running already (%s): stop it first (Ctrl-C where it runs)", cfg.Dir, held.Holder)
		}
		return nil, fmt.Errorf("the embedded Kafka's directory: %w", err)
	}
	listener, err := listen(ctx, cfg.Port)
	if err != nil {
		lock.Release()
		return nil, err
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
		kfake.ClusterID("penstock-"+strings.ToLower(rand.Text()[:12])), // of a new directory; it is kept there
		kfake.DataDir(filepath.Join(cfg.Dir, "data")),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(cfg.Partitions),
		kfake.GroupMinSessionTimeout(500*time.Millisecond),
	)
	if err != nil {
		_ = listener.Close()
		lock.Release()
		return nil, fmt.Errorf("starting the embedded Kafka in %s: %w; if another version of Penstock wrote the directory, remove it", cfg.Dir, err)
	}
	return &Kafka{cluster: cluster, lock: lock, address: listener.Addr().String()}, nil
}

// listen takes the first free port from first on.
func listen(ctx context.Context, first int) (net.Listener, error) {
	var lc net.ListenConfig
	var failed error
	last := min(first+portTries-1, 65535)
	for port := first; port <= last; port++ {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return l, nil
		}
		failed = err
	}
	return nil, fmt.Errorf("no port from %d to %d is free for the embedded Kafka: %w", first, last, failed)
}

// Address is where it listens, host:port.
func (k *Kafka) Address() string { return k.address }

// The retention of topics: kfake keeps what has none for good.
const (
	retentionMillis         = 7 * 24 * 60 * 60 * 1000
	retentionPartitionBytes = 256 << 20
)

// CreateTopic makes a topic that keeps records for a week, and at most 256 MiB a
// partition. It reports whether the topic is new.
func (k *Kafka) CreateTopic(name string, partitions int32) (created bool, err error) {
	err = k.cluster.CreateTopic(name, partitions, map[string]string{
		"retention.ms": strconv.Itoa(retentionMillis), "retention.bytes": strconv.Itoa(retentionPartitionBytes),
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, kerr.TopicAlreadyExists):
		return false, nil
	default:
		return false, fmt.Errorf("creating topic %s: %w", name, err)
	}
}

// DeleteTopic removes a topic and its records, if it exists.
func (k *Kafka) DeleteTopic(name string) error {
	if err := k.cluster.DeleteTopic(name); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("deleting topic %s: %w", name, err)
	}
	return nil
}

// Close stops it and writes to disk what is not there yet. It may be called
// more than once.
func (k *Kafka) Close() {
	k.closed.Do(func() {
		k.cluster.Close()
		k.lock.Release()
	})
}
