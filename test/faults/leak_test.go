package faults

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

var soak = flag.Duration("soak", 15*time.Second, "how long TestNothingLeaks runs a flow at full speed; an hour says more")

// TestNothingLeaks runs a flow at full speed, dead letters included, and compares the second
// quarter of the time with the last. What grows with batches shows: they are small and many.
//
// No control: a process that grows is what test/sim and the metrics of a user would show.
func TestNothingLeaks(t *testing.T) {
	// A small buffer, so that it is full early, whether the flow keeps up or not.
	t.Setenv("PENSTOCK_BUFFER", "2MiB")
	t.Setenv("PENSTOCK_BATCH_BYTES", "1MiB")
	t.Setenv("PENSTOCK_SOURCE_KAFKA_FETCH_MAX_BYTES", "1MiB")
	topic := rig.NewTopic(t, testservice.Kafka(t), "retention.bytes=268435456", "segment.bytes=67108864")
	r := rig.New(t, topic, rig.Postgres(t))
	p, admin := r.StartWithAdmin("")
	stop := topic.Flow(1000, 50*time.Millisecond)
	defer stop()
	r.WantProgress(2000, time.Minute, p)

	type sample struct{ goroutines, files, heap, resident float64 }
	var quarters [4][]sample
	began, before := time.Now(), scrape(t.Context(), admin)
	rig.Poll(t.Context(), *soak, func() bool {
		m := scrape(t.Context(), admin)
		q := min(3, int(4*time.Since(began) / *soak))
		quarters[q] = append(quarters[q], sample{
			m.sum("go_goroutines"), m.sum("process_open_fds"), m.sum("go_memstats_heap_alloc_bytes"), m.sum("process_resident_memory_bytes"),
		})
		return !p.Alive()
	})
	if !p.Alive() {
		t.Fatalf("the flow has ended:\n%s", p.Log.Tail())
	}
	after := scrape(t.Context(), admin)
	batches := after.sum("penstock_batches_total") - before.sum("penstock_batches_total")
	t.Logf("%.0f batches, %.0f records, %.0f dead letters in %s", batches,
		after.sum("penstock_records_total")-before.sum("penstock_records_total"),
		after.sum("penstock_dead_letters_total")-before.sum("penstock_dead_letters_total"), *soak)
	if batches < 100 {
		t.Fatalf("%.0f batches show nothing", batches)
	}
	// least of a quarter: the heap goes up and down with every collection.
	least := func(q int, of func(sample) float64) float64 {
		values := make([]float64, len(quarters[q]))
		for i, s := range quarters[q] {
			values[i] = of(s)
		}
		return slices.Min(values)
	}
	for _, c := range []struct {
		what    string
		of      func(sample) float64
		allowed float64
	}{
		{"goroutines", func(s sample) float64 { return s.goroutines }, 2},
		{"open files", func(s sample) float64 { return s.files }, 2},
		{"bytes of live heap", func(s sample) float64 { return s.heap }, 6 * mib},
		{"bytes resident", func(s sample) float64 { return s.resident }, 16 * mib},
	} {
		first, last := least(1, c.of), least(3, c.of)
		t.Logf("%-20s %12.0f in the second quarter, %12.0f in the last: %+.0f an hour", c.what, first, last, (last-first)*float64(2*time.Hour / *soak))
		if last-first > c.allowed {
			t.Errorf("%s grow from %.0f to %.0f", c.what, first, last)
		}
	}
	stop()
	r.Finish(p)
}
