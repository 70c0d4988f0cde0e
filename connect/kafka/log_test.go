package kafka

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// Compaction leaves gaps: the position passes over them, and the next record
// is the next one that is left.
func TestCompactedLog(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1, "cleanup.policy=compact", "segment.ms=50", "min.cleanable.dirty.ratio=0.001", "delete.retention.ms=0")
	write := func(n int) {
		for i := range n {
			b.produce(&kgo.Record{Topic: topic, Key: fmt.Append(nil, i%7), Value: fmt.Append(nil, i)})
		}
	}
	// offsets are those that are left, as another client reads them.
	offsets := func() (left []int64) {
		ends, err := b.adm.ListEndOffsets(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		end, _ := ends.Lookup(topic, 0)
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ConsumeTopics(topic))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for len(left) == 0 || left[len(left)-1] < end.Offset-1 {
			f := cl.PollFetches(t.Context())
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			for _, r := range f.Records() {
				left = append(left, r.Offset)
			}
		}
		return left
	}
	write(70)
	eventually(t, "compaction", func() bool {
		write(1) // a segment is closed by the next record
		return len(offsets()) < 60
	})
	want := offsets()
	in := newIntake(t)
	in.start = func(context.Context, flow.PartitionInfo) int64 { return 1 } // in a gap, as a rule
	r := run(t, b.config(topic), in)
	p := flow.Partition{Topic: topic}
	eventually(t, "the end", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.next[p] == want[len(want)-1]+1
	})
	r.stop()
	if want[0] == 0 {
		want = want[1:]
	}
	var have []int64
	for _, rec := range in.records[p] {
		have = append(have, rec.offset)
	}
	if have[len(have)-1] != want[len(want)-1] || len(have) < 7 || len(have) > len(want) { // compaction may have gone on
		t.Errorf("read %v, want %v", have, want)
	}
}

// A broker that is killed and comes back costs time, nothing else.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	own := testservice.StartKafka(t)
	b := brokerAt(t, own.Addr())
	topic := b.topic(2)
	b.fill(topic, 2, 0, 50)
	in := newIntake(t)
	in.ledger, in.member = newLedger(), "a" // a lost session begins where it was
	r := run(t, b.config(topic), in)
	eventually(t, "the first records", func() bool { return in.count() == 100 })
	own.Kill()
	down, err := NewSource(b.config(topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSource(t, down) })
	_, err = down.Open(t.Context())
	wantError(t, "broker down", err, flow.ClassTransient, own.Addr())
	own.Start()
	b.fill(topic, 2, 50, 50)
	eventually(t, "the other records", func() bool { return in.count() == 200 })
	if err := r.fatal(); err != nil {
		t.Error(err)
	}
	r.stop()
	wantValues(t, in.values(topic, 0), numbers(0, 100))
	wantValues(t, in.values(topic, 1), numbers(0, 100))
}
