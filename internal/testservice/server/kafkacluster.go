package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// KafkaCluster is several real Apache Kafka nodes, each broker and controller,
// that hold a copy of everything: a write with acks=all needs all copies but
// one, so that one node may be down at a time.
type KafkaCluster struct {
	// Nodes, of which the i-th has the id i+1.
	Nodes []*Kafka
}

// NewKafkaCluster formats n nodes below dir and starts them. advertise is given
// the address of a node for clients, and returns the one that clients are to
// be told: that of a proxy in front of it.
func NewKafkaCluster(ctx context.Context, dir, libs string, n int, advertise func(addr string) string) (*KafkaCluster, error) {
	c := &KafkaCluster{}
	for i := range n {
		c.Nodes = append(c.Nodes, &Kafka{
			dir: filepath.Join(dir, "node-"+strconv.Itoa(i+1)), libs: libs,
			opts: kafkaOptions{cluster: c, heap: "256m"},
		})
	}
	for attempt := 1; ; attempt++ {
		err := c.format(ctx, advertise)
		if err == nil {
			err = c.each(func(k *Kafka) error { return k.Start(ctx) })
		}
		if err == nil {
			err = c.AwaitInSync(ctx, time.Minute)
		}
		if err == nil {
			return c, nil
		}
		c.Kill()
		if attempt == startAttempts || ctx.Err() != nil {
			return nil, err
		}
	}
}

func (c *KafkaCluster) format(ctx context.Context, advertise func(string) string) error {
	for _, k := range c.Nodes {
		if err := os.RemoveAll(k.dir); err != nil {
			return err
		}
		if err := os.MkdirAll(k.dir, 0o755); err != nil {
			return err
		}
		if err := k.choosePorts(ctx); err != nil {
			return err
		}
		k.advertised = advertise(k.Addr())
	}
	id := newClusterID()
	return c.each(func(k *Kafka) error { return k.format(ctx, id) })
}

// each calls do for all nodes at once.
func (c *KafkaCluster) each(do func(*Kafka) error) error {
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, k := range c.Nodes {
		wg.Go(func() { errs[i] = do(k) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// settings are what distinguishes the node of a cluster from one that is alone.
func (c *KafkaCluster) settings(k *Kafka) []string {
	var id int
	voters := make([]string, len(c.Nodes))
	for i, other := range c.Nodes {
		voters[i] = fmt.Sprintf("%d@%s", i+1, addr(other.ports.controller))
		if other == k {
			id = i + 1
		}
	}
	n := len(c.Nodes)
	required := max(1, n-1)
	return append(copies(n, required),
		"node.id="+strconv.Itoa(id),
		"controller.quorum.voters="+strings.Join(voters, ","),
		"default.replication.factor="+strconv.Itoa(n),
		"min.insync.replicas="+strconv.Itoa(required),
		// Brokers talk to each other past the proxies.
		"listeners=CLIENT://"+k.Addr()+",BROKER://"+addr(k.ports.broker)+",CONTROLLER://"+addr(k.ports.controller),
		"advertised.listeners=CLIENT://"+k.advertised+",BROKER://"+addr(k.ports.broker),
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,CLIENT:PLAINTEXT,BROKER:PLAINTEXT",
		"inter.broker.listener.name=BROKER",
		// Several of them share a small machine.
		"num.network.threads=2", "num.io.threads=4",
	)
}

// Addrs are the addresses that clients are told, separated by commas.
func (c *KafkaCluster) Addrs() string {
	return c.join(func(k *Kafka) string { return k.advertised })
}

// DirectAddrs lead past what is advertised, here and ever after.
func (c *KafkaCluster) DirectAddrs() string {
	return c.join(func(k *Kafka) string { return addr(k.ports.broker) })
}

func (c *KafkaCluster) join(address func(*Kafka) string) string {
	all := make([]string, len(c.Nodes))
	for i, k := range c.Nodes {
		all[i] = address(k)
	}
	return strings.Join(all, ",")
}

// AwaitInSync waits until all nodes are alive and every partition has all its
// copies in sync, and every node knows it.
func (c *KafkaCluster) AwaitInSync(ctx context.Context, limit time.Duration) error {
	for _, k := range c.Nodes {
		if k.proc == nil {
			return fmt.Errorf("node at %s is not running", k.Addr())
		}
		if err := k.proc.ready(ctx, limit, func() error { return k.inSync(ctx, len(c.Nodes)) }); err != nil {
			return err
		}
	}
	return nil
}

// inSync asks the node itself: what the others say of a node that was started
// again may still be about its former life.
func (k *Kafka) inSync(ctx context.Context, nodes int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr(k.ports.broker)), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest() // of all topics
	resp, err := req.RequestWith(ctx, cl.SeedBrokers()[0])
	if err != nil {
		return err
	}
	if len(resp.Brokers) != nodes {
		return fmt.Errorf("%d of %d nodes are alive", len(resp.Brokers), nodes)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return fmt.Errorf("topic %s partition %d has leader %d and %d of %d copies in sync", *t.Topic, p.Partition, p.Leader, len(p.ISR), len(p.Replicas))
			}
		}
	}
	return nil
}

// Kill kills all nodes.
func (c *KafkaCluster) Kill() {
	_ = c.each(func(k *Kafka) error { k.Kill(); return nil })
}
