package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	together(t, flowtest.SourceCases(flowtest.SourceHarness{
		Features: flowtest.SourceFeatures{
			Group: true, Commit: true, Pause: true, Seek: true, Latest: true,
			Keys: true, Headers: true, Timestamps: true, Tombstones: true,
			MaxRecord: 20 << 20,
		},
		New: newTopic,
	}))
}

// together runs the cases of a suite in parallel: each has topics and groups of its own.
func together(t *testing.T, cases []flowtest.Case) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.Run(t)
		})
	}
}

func newTopic(t testing.TB, partitions int) *flowtest.Topic {
	b := newBroker(t)
	name := b.topic(int32(partitions), "retention.ms=-1", "max.message.bytes=31457280")
	txn := brokerAt(t, b.addr, kgo.TransactionalID(testservice.Name(t)))
	return &flowtest.Topic{
		Name: name,
		Source: func(t testing.TB, s flowtest.SourceStart) flow.Source {
			cfg := b.config(name)
			if s.Group != "" {
				cfg.Group = name + s.Group
			}
			if s.Latest {
				cfg.Start = startLatest
			}
			src, err := NewSource(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return src
		},
		Produce: func(t testing.TB, partition int32, records ...flow.Record) {
			t.Helper()
			var rs []*kgo.Record
			for _, r := range records {
				k := &kgo.Record{Topic: name, Partition: partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMicro(r.Timestamp)}
				for _, h := range r.Headers {
					k.Headers = append(k.Headers, kgo.RecordHeader(h))
				}
				rs = append(rs, k)
			}
			b.produce(rs...)
		},
		Gap: func(t testing.TB, partition int32) {
			t.Helper()
			if err := txn.cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			txn.produce(&kgo.Record{Topic: name, Partition: partition, Value: []byte("aborted")})
			if err := txn.cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
				t.Fatal(err)
			}
		},
	}
}
