package crash

import (
	"context"
	"encoding/binary"
	"flag"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

var brokerKills = flag.Int("broker-kills", 5, "how often one of three brokers is killed")

// TestOneOfThreeBrokersKilled kills the leader of some partitions again and
// again. It does so while the other two pause for a moment, as they do in a
// garbage collection: what only the leader has then dies with it. A producer
// that is content with the leader's word is the control: it must lose records.
func TestOneOfThreeBrokersKilled(t *testing.T) {
	t.Parallel()
	cluster := testservice.StartKafkaCluster(t, 3)
	r := rig.New(t, rig.NewTopic(t, cluster.DirectAddrs()), rig.Postgres(t))
	control := startCareless(t, cluster.DirectAddrs())
	stop := r.Topic.Flow(100, 100*time.Millisecond)
	defer stop()
	ps := []*rig.Process{r.Start(""), r.Start("")}
	for round := range *brokerKills {
		cluster.AwaitInSync()
		// Leaders go back to where they were, so that each node leads some.
		if _, err := r.Topic.Admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil); err != nil {
			t.Fatal(err)
		}
		r.WantProgress(200, time.Minute, ps...)
		part := int32(round % carelessPartitions)
		victim := control.leader(part)
		for i, b := range cluster.Brokers {
			if i != victim {
				b.Freeze()
			}
		}
		control.wantMore(part)
		cluster.Brokers[victim].Kill()
		for i, b := range cluster.Brokers {
			if i != victim {
				b.Thaw()
			}
		}
		r.WantProgress(200, time.Minute, ps...) // two are enough
		cluster.Brokers[victim].Start()
	}
	stop()
	r.Finish(ps...)
	acked, lost := control.stop()
	if lost == 0 {
		t.Fatalf("acks=1 lost none of %d records: this test proves nothing", acked)
	}
	t.Logf("the control was caught: it lost %d of %d acknowledged records", lost, acked)
}

const carelessPartitions = 3

// careless is a producer with acks=1.
type careless struct {
	t      *testing.T
	topic  string
	client *kgo.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup
	acked  [carelessPartitions]atomic.Int64
}

// startCareless creates a topic, and numbers records in each of its partitions
// until stop.
func startCareless(t *testing.T, brokers string) *careless {
	t.Helper()
	c := &careless{t: t, topic: testservice.Name(t)}
	var err error
	c.client, err = kgo.NewClient(
		kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	if _, err := kadm.NewClient(c.client).CreateTopic(t.Context(), carelessPartitions, -1, nil, c.topic); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	for part := range int32(carelessPartitions) {
		c.wg.Go(func() { c.produce(ctx, part) })
	}
	return c
}

func (c *careless) produce(ctx context.Context, part int32) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var records []*kgo.Record
		for i := range int64(20) {
			number := binary.BigEndian.AppendUint64(nil, uint64(c.acked[part].Load()+i))
			records = append(records, &kgo.Record{Topic: c.topic, Partition: part, Value: number})
		}
		// What may not have been acknowledged is written again, with the same numbers.
		if c.client.ProduceSync(ctx, records...).FirstErr() == nil {
			c.acked[part].Add(int64(len(records)))
		}
	}
}

// leader is the index of the node that leads the partition.
func (c *careless) leader(part int32) int {
	c.t.Helper()
	topics, err := kadm.NewClient(c.client).ListTopics(c.t.Context(), c.topic)
	if err != nil {
		c.t.Fatal(err)
	}
	return int(topics[c.topic].Partitions[part].Leader) - 1
}

// wantMore waits until more records of the partition are acknowledged.
func (c *careless) wantMore(part int32) {
	c.t.Helper()
	before := c.acked[part].Load()
	if !rig.Poll(c.t.Context(), 10*time.Second, func() bool { return c.acked[part].Load() >= before+40 }) {
		c.t.Fatal("acks=1 waits for nobody, and is not acknowledged")
	}
}

// stop reads the topic: what is acknowledged and not there is lost.
func (c *careless) stop() (acked, lost int64) {
	c.t.Helper()
	c.cancel()
	c.wg.Wait()
	ends, err := kadm.NewClient(c.client).ListEndOffsets(c.t.Context(), c.topic)
	if err != nil {
		c.t.Fatal(err)
	}
	var there [carelessPartitions]map[uint64]bool
	for part := range int32(carelessPartitions) {
		acked += c.acked[part].Load()
		there[part] = map[uint64]bool{}
		c.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: {part: kgo.NewOffset().AtStart()}})
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	left := map[int32]bool{0: true, 1: true, 2: true}
	for len(left) > 0 && ctx.Err() == nil {
		c.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			there[r.Partition][binary.BigEndian.Uint64(r.Value)] = true
			if end, _ := ends.Lookup(c.topic, r.Partition); r.Offset+1 >= end.Offset {
				delete(left, r.Partition)
			}
		})
	}
	if len(left) > 0 {
		c.t.Fatalf("topic %s cannot be read to its end", c.topic)
	}
	for part := range there {
		for number := range c.acked[part].Load() {
			if !there[part][uint64(number)] {
				lost++
			}
		}
	}
	return acked, lost
}
