package faults

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// TestLargeRecordsInLittleMemory sends a burst of large records among small
// ones through a process with a limit of 200 MiB.
//
// No control: what is to be caught is a process that holds more than it must,
// and the burst alone is more than what is allowed.
func TestLargeRecordsInLittleMemory(t *testing.T) {
	const (
		count   = 60
		allowed = 300 * mib
	)
	t.Setenv("GOMEMLIMIT", "200MiB")
	topic := rig.NewTopic(t, testservice.Kafka(t), "max.message.bytes=16777216")
	t.Cleanup(func() { _, _ = topic.Admin.DeleteTopics(context.Background(), topic.Name) }) // hundreds of MB
	r := rig.New(t, topic, rig.PostgresAt(t, testservice.Postgres(t), paddedTable))
	r.Columns = paddedColumns
	stop := topic.Flow(50, 50*time.Millisecond)
	defer stop()
	p, admin := r.StartWithAdmin("")
	r.WantProgress(200, time.Minute, p)

	// A client of its own, whose batches have one large record each.
	producer, err := kgo.NewClient(kgo.SeedBrokers(topic.Brokers), kgo.ProducerBatchMaxBytes(10*mib), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	sizes, total := make([]int, count), 0
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // sizes
	for i := range sizes {
		sizes[i] = 5*mib + random.IntN(4*mib)
		total += sizes[i]
		value := fmt.Appendf(nil, `{"device_id":"large","seq":%d,"pad":"%s"}`, i, bytes.Repeat([]byte{'x'}, sizes[i]))
		record := &kgo.Record{Topic: topic.Name, Key: fmt.Appendf(nil, "large %d", i), Value: value}
		producer.Produce(t.Context(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if total <= allowed {
		t.Fatalf("%d MiB of records prove nothing", total/mib)
	}
	var most float64
	if !rig.Poll(t.Context(), time.Minute, func() bool {
		most = max(most, scrape(t.Context(), admin).sum("process_resident_memory_bytes"))
		return !p.Alive() || r.Target.Count("SELECT count(*) FROM t WHERE device_id = 'large'") >= count
	}) || !p.Alive() {
		t.Fatalf("the flow does not go on:\n%s", p.Log.Tail())
	}
	t.Logf("%d MiB in %d records; at most %.0f MiB resident", total/mib, count, most/mib)
	if most > allowed {
		t.Errorf("%.0f MiB resident, want at most %d", most/mib, allowed/mib)
	}
	if n := r.Target.Count("SELECT count(*) FROM (SELECT off, lag(off) OVER (PARTITION BY part ORDER BY row_id) AS before FROM t) AS x WHERE off <= before"); n != 0 {
		t.Errorf("%d rows are not in the order of their partition", n)
	}
	var next int
	r.Target.Query("DELETE FROM t WHERE device_id = 'large' RETURNING seq, length(pad)", func(scan func(...any) error) error {
		var seq, size int
		err := scan(&seq, &size)
		next++
		if err == nil && size != sizes[seq] {
			t.Errorf("record %d has %d bytes, want %d", seq, size, sizes[seq])
		}
		sizes[seq] = -1 // it is not to come again
		return err
	})
	if next != count {
		t.Errorf("%d large records became %d rows", count, next)
	}
	stop()
	r.Finish(p)
}
