package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestSinkConformance(t *testing.T) {
	t.Parallel()
	t.Run(deliverAtLeastOnce, func(t *testing.T) {
		t.Parallel()
		together(t, flowtest.SinkCases(flowtest.SinkHarness{
			Features: flowtest.SinkFeatures{StoresDeadLetters: true, LocatesBadRows: true, Partial: true},
			New:      func(t testing.TB) *flowtest.Target { return newSinkTarget(t, deliverAtLeastOnce) },
		}))
	})
	t.Run(deliverExactlyOnce, func(t *testing.T) {
		t.Parallel()
		together(t, flowtest.SinkCases(flowtest.SinkHarness{
			Features: flowtest.SinkFeatures{ExactlyOnce: true, StoresDeadLetters: true, LocatesBadRows: true},
			New:      func(t testing.TB) *flowtest.Target { return newSinkTarget(t, deliverExactlyOnce) },
		}))
	})
}

// maxSinkRecord is the size limit of the topic that the suite writes to.
const maxSinkRecord = 6 << 20

// newSinkTarget is a topic of one partition, so that its order is that of
// insertion. The positions that the suite gives are of a topic that has no
// records; it must exist for its offsets to be committed.
func newSinkTarget(t testing.TB, delivery string) *flowtest.Target {
	b := newBroker(t)
	b.ensure("flowtest.topic", 16)
	b.ensure("later", 1)
	topic := b.topic(1, "retention.ms=-1", "max.message.bytes="+strconv.Itoa(maxSinkRecord))
	dead := b.topic(1, "retention.ms=-1", "max.message.bytes="+strconv.Itoa(2*maxSinkRecord))
	proxy := testservice.Proxy(t, b.addr)
	through := proxied(proxy.Addr())
	group := &fakeGroup{name: topic, owner: map[string]map[flow.Partition]int{}}
	return &flowtest.Target{
		Sink: func(t testing.TB) flow.Sink {
			made, err := NewSink(SinkConfig{
				Connection: Connection{Brokers: []string{b.addr}}, Topic: topic, Partition: partitionSticky, Delivery: delivery,
				DeadLetterTopic: dead, Compression: "none",
			})
			if err != nil {
				t.Fatal(err)
			}
			switch s := made.(type) {
			case *Sink:
				s.extra = []kgo.Opt{through}
				return s
			case *TransactionalSink:
				s.extra = []kgo.Opt{through}
				return group.join(t, s, b)
			}
			t.Fatalf("NewSink made a %T", made)
			return nil
		},
		Rows: func(t testing.TB) []flowtest.Item {
			var items []flowtest.Item
			for _, r := range b.committed(topic) {
				it := flowtest.Item{Key: string(r.Key)}
				if r.Value != nil {
					if err := json.Unmarshal(r.Value, &it); err != nil {
						t.Fatalf("%s: %v", r.Value, err)
					}
				}
				items = append(items, it)
			}
			return items
		},
		Dead: func(testing.TB) []flowtest.DeadRow {
			var rows []flowtest.DeadRow
			for _, r := range b.committed(dead) {
				rows = append(rows, deadRow(t, r))
			}
			return rows
		},
		Poison: func(it flowtest.Item) flowtest.Item {
			it.Payload = strings.Repeat("x", maxSinkRecord)
			return it
		},
		Break: func(testing.TB) { proxy.Cut() },
		Mend:  func(testing.TB) { proxy.Restore() },
	}
}

// proxied is the way to every broker through a proxy.
func proxied(addr string) kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
	})
}

// fakeGroup stands for the membership of the sources, which the suite has not:
// whoever claims a partition owns it. The offsets are those of a real group.
type fakeGroup struct {
	name string

	mu    sync.Mutex
	owner map[string]map[flow.Partition]int // by flow
	sinks int
}

// grouped is a sink in the group. The suite's cluster stands for the real one.
type grouped struct {
	*TransactionalSink
	group *fakeGroup
	b     *broker
	n     int
	flow  string
	other error // why another cluster was refused
}

func (g *fakeGroup) join(_ testing.TB, s *TransactionalSink, b *broker) *grouped {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sinks++
	return &grouped{TransactionalSink: s, group: g, b: b, n: g.sinks}
}

func (s *grouped) Open(ctx context.Context, setup flow.Setup) error {
	s.flow = setup.Flow
	setup.Member = s.member
	refuse := setup.ClusterID == "another"
	if !refuse {
		md, err := s.b.adm.BrokerMetadata(ctx)
		if err != nil {
			return err
		}
		setup.ClusterID = md.Cluster
	}
	err := s.TransactionalSink.Open(ctx, setup)
	if refuse { // which the suite expects of Init
		s.other, err = err, nil
	}
	return err
}

func (s *grouped) Init(ctx context.Context, starts func(context.Context) ([]flow.Position, error)) error {
	if s.other != nil {
		return s.other
	}
	return s.TransactionalSink.Init(ctx, starts)
}

func (s *grouped) Claim(ctx context.Context, lane int, ps []flow.Partition) ([]flow.Checkpoint, error) {
	s.group.mu.Lock()
	owners := s.group.owner[s.flow]
	if owners == nil {
		owners = map[flow.Partition]int{}
		s.group.owner[s.flow] = owners
	}
	for _, p := range ps {
		owners[p] = s.n
	}
	s.group.mu.Unlock()
	return s.TransactionalSink.Claim(ctx, lane, ps)
}

func (s *grouped) member(ps []flow.Partition) (flow.Member, error) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	fenced := &flow.FencedError{}
	for _, p := range ps {
		if s.group.owner[s.flow][p] != s.n {
			fenced.Partitions = append(fenced.Partitions, p)
		}
	}
	if len(fenced.Partitions) > 0 {
		return flow.Member{}, fenced
	}
	return flow.Member{Group: s.group.name + "." + s.flow, Generation: -1}, nil
}

// ensure makes a topic that tests share and that is never deleted.
func (b *broker) ensure(name string, partitions int32) {
	b.t.Helper()
	_, err := b.adm.CreateTopic(b.t.Context(), partitions, 1, nil, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		b.t.Fatalf("create topic %s: %v", name, err)
	}
	testservice.AwaitTopic(b.t, b.adm, name, int(partitions))
}

// committed returns what a reader of committed records finds in the topic now,
// in order per partition.
func (b *broker) committed(topic string) []*kgo.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // it is called in cleanups, too
	defer cancel()
	eventually(b.t, "the markers of ended transactions", func() bool { return b.settled(ctx, topic) })
	ends, err := b.adm.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		b.t.Fatalf("the ends of %s: %v", topic, err)
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p, end := range ends[topic] {
		if end.Offset > 0 {
			from[p], left[p] = kgo.NewOffset().At(0), end.Offset
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl := brokerAt(b.t, b.addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxPartitionBytes(40<<20)).cl
	defer cl.Close()
	var out []*kgo.Record
	for len(left) > 0 {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			b.t.Fatalf("reading %s, %v left: %v", topic, left, err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if end, ok := left[r.Partition]; ok && r.Offset >= end-1 {
				delete(left, r.Partition)
			} else if !ok {
				return
			}
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
	}
	return out
}

// settled says that no transaction on the topic is ended whose markers are still
// to be written: a commit is answered before that.
func (b *broker) settled(ctx context.Context, topic string) bool {
	b.t.Helper()
	var set kadm.TopicsSet
	details, err := b.adm.ListTopics(ctx, topic)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range details[topic].Partitions.Numbers() {
		set.Add(topic, p)
	}
	producers, err := b.adm.DescribeProducers(ctx, set)
	if err != nil {
		b.t.Fatal(err)
	}
	var ids []int64
	producers.EachProducer(func(p kadm.DescribedProducer) { ids = append(ids, p.ProducerID) })
	if len(ids) == 0 {
		return true
	}
	ending, err := b.adm.ListTransactions(ctx, ids, []string{"PrepareCommit", "PrepareAbort", "PrepareEpochFence"})
	if err != nil {
		b.t.Fatal(err)
	}
	return len(ending) == 0
}

// deadRow reads a dead letter back.
func deadRow(t testing.TB, r *kgo.Record) flowtest.DeadRow {
	t.Helper()
	row := flowtest.DeadRow{DeadLetter: flow.DeadLetter{Record: &flow.Record{Key: r.Key, Value: r.Value}}}
	number := func(b []byte) int64 {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			t.Fatalf("dead letter: %v", err)
		}
		return n
	}
	for _, h := range r.Headers {
		switch h.Key {
		case HeaderTopic:
			row.Topic = string(h.Value)
		case HeaderPartition:
			row.ID = int32(number(h.Value))
		case HeaderOffset:
			row.Record.Offset = number(h.Value)
		case HeaderConnector:
			row.Flow = string(h.Value)
		case HeaderStage:
			for stage, name := range connectStages {
				if name == string(h.Value) {
					row.Stage = stage
				}
			}
		case HeaderMessage:
			row.Message = string(h.Value)
		case HeaderID:
			id := strings.Split(string(h.Value), "/")
			row.ClusterID, row.TopicID = id[0], id[1]
		case HeaderClass:
			row.Class = string(h.Value)
		case HeaderColumn:
			row.Column = string(h.Value)
		case HeaderTimestamp:
			at, err := time.Parse(time.RFC3339Nano, string(h.Value))
			if err != nil {
				t.Fatal(err)
			}
			row.Record.Timestamp = at.UnixMicro()
		case HeaderVersion, HeaderException:
		default:
			row.Record.Headers = append(row.Record.Headers, flow.Header(h))
		}
	}
	return row
}
