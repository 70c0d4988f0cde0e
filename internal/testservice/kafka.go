package testservice

import (
	"context"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice/server"
)

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
	k, err := server.NewKafka(context.Background(), privateDir(t), kafkaLibs(t))
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

// Freeze stops it from doing anything until Thaw, as a long pause of its
// garbage collector would.
func (b *Broker) Freeze() { b.k.Freeze() }

// Thaw ends Freeze.
func (b *Broker) Thaw() { b.k.Thaw() }

// Cluster is a Kafka of several nodes, for this test alone. Everything has as
// many copies as there are nodes; a write with acks=all needs all but one.
type Cluster struct {
	t testing.TB
	c *server.KafkaCluster
	// Brokers are the nodes, of which the i-th has the id i+1.
	Brokers []*Broker
	// Proxies stand in front of them, in the same order.
	Proxies []*TCPProxy
}

// StartKafkaCluster starts one of so many nodes, each behind a proxy, which
// takes some seconds and about 400 MB of memory a node. It is killed when the test ends.
func StartKafkaCluster(t testing.TB, nodes int) *Cluster {
	t.Helper()
	var proxies []*TCPProxy
	advertise := func(addr string) string {
		p := Proxy(t, addr)
		proxies = append(proxies, p)
		return p.Addr()
	}
	c, err := server.NewKafkaCluster(context.Background(), privateDir(t), kafkaLibs(t), nodes, advertise)
	if err != nil {
		t.Fatalf("start a Kafka cluster: %v", err)
	}
	t.Cleanup(c.Kill)
	cluster := &Cluster{t: t, c: c, Proxies: proxies[len(proxies)-nodes:]} // the last: ports may have been tried
	for _, k := range c.Nodes {
		cluster.Brokers = append(cluster.Brokers, &Broker{t: t, k: k})
	}
	return cluster
}

// Addrs are the addresses of all nodes, separated by commas, through the proxies.
func (c *Cluster) Addrs() string { return c.c.Addrs() }

// DirectAddrs lead past the proxies.
func (c *Cluster) DirectAddrs() string { return c.c.DirectAddrs() }

// AwaitInSync waits until all nodes are alive, and all copies of all partitions
// in sync: the moment at which one node may be killed.
func (c *Cluster) AwaitInSync() {
	c.t.Helper()
	if err := c.c.AwaitInSync(context.Background(), time.Minute); err != nil {
		c.t.Fatalf("the cluster is not in sync: %v", err)
	}
}

func kafkaLibs(t testing.TB) string {
	t.Helper()
	libs, err := server.CachedKafkaLibs()
	if err != nil {
		t.Fatalf("start a Kafka: %v. `make test` fetches what it needs", err)
	}
	return libs
}
