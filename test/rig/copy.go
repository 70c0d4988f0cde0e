package rig

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/internal/testservice"
)

// copyTopics are two topics that a flow writes to, as a reader of committed
// records sees them.
type copyTopics struct {
	brokers, delivery string
	rows, dead        string

	mu      sync.Mutex // guards what follows
	copied  []Row
	letters []Place
	err     error
}

// Copy is two topics in the cluster of those brokers, for rows and dead letters.
// Delivery is what it is to the flow's sink. Rows have the places of the copies.
func Copy(t *testing.T, brokers, delivery string) *Target {
	t.Helper()
	name := testservice.Name(t)
	c := &copyTopics{brokers: brokers, delivery: delivery, rows: name, dead: name + "_dead"}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeTopics(c.rows, c.dead))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(cl).CreateTopics(t.Context(), Partitions, -1, nil, c.rows, c.dead); err != nil {
		t.Fatalf("create topics %s, %s: %v", c.rows, c.dead, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fetches := cl.PollFetches(t.Context())
			if t.Context().Err() != nil || fetches.IsClientClosed() {
				return
			}
			fetches.EachRecord(c.add)
		}
	}()
	t.Cleanup(func() {
		cl.Close()
		<-done
	})
	return &Target{T: t, Driver: "kafka", copy: c}
}

func (c *copyTopics) add(r *kgo.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Topic == c.rows {
		var v struct {
			Device string `json:"device_id"`
			Seq    int64  `json:"seq"`
		}
		if err := json.Unmarshal(r.Value, &v); err != nil {
			c.err = fmt.Errorf("the copy at partition %d offset %d: %w", r.Partition, r.Offset, err)
		}
		c.copied = append(c.copied, Row{Place: Place{r.Partition, r.Offset}, Device: v.Device, Seq: v.Seq})
		return
	}
	header := func(key string) int64 {
		for _, h := range slices.Backward(r.Headers) {
			if h.Key == key {
				n, err := strconv.ParseInt(string(h.Value), 10, 64)
				if err == nil {
					return n
				}
			}
		}
		c.err = fmt.Errorf("the dead letter at partition %d offset %d has no number in %s", r.Partition, r.Offset, key)
		return -1
	}
	c.letters = append(c.letters, Place{int32(header(kafka.HeaderPartition)), header(kafka.HeaderOffset)})
}

func (c *copyTopics) sink() string {
	return fmt.Sprintf("  kafka:\n    topic: %s\n    dead_letter_topic: %s\n    delivery: %s\n    transaction_timeout: 5s\n", c.rows, c.dead, c.delivery)
}

// seen is what was read so far.
func (c *copyTopics) seen() (rows []Row, dead []Place, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.copied), slices.Clone(c.letters), c.err
}

func (c *copyTopics) count() (rows, dead int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.copied), len(c.letters)
}

// doubled says whether a number of a device was seen twice.
func (c *copyTopics) doubled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	type number struct {
		device string
		seq    int64
	}
	seen := map[number]bool{}
	for _, r := range c.copied {
		n := number{r.Device, r.Seq}
		if seen[n] {
			return true
		}
		seen[n] = true
	}
	return false
}
