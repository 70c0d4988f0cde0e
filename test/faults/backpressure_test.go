package faults

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

const mib = 1 << 20

// countedKafka is a Kafka of the test's own behind a proxy that counts.
type countedKafka struct {
	t *testing.T
	// brokers lead through the proxy, direct past it.
	brokers, direct string
	counter         *counter
}

func startCountedKafka(t *testing.T) *countedKafka {
	t.Helper()
	cluster := testservice.StartKafkaCluster(t, 1)
	c := startCounter(t, cluster.Brokers[0].Addr())
	cluster.Proxies[0].Redirect(c.addr())
	return &countedKafka{t: t, brokers: cluster.Addrs(), direct: cluster.DirectAddrs(), counter: c}
}

// answers are the bytes that it has answered so far.
func (k *countedKafka) answers() int64 { return k.counter.answers.Load() }

// size is how many bytes the log holds, which is how they are sent.
func (k *countedKafka) size(topic *rig.Topic) (n int64) {
	k.t.Helper()
	all, err := topic.Admin.DescribeAllLogDirs(k.t.Context(), nil)
	if err != nil {
		k.t.Fatal(err)
	}
	all.Each(func(d kadm.DescribedLogDir) {
		for _, p := range d.Topics[topic.Name] {
			n += p.Size
		}
	})
	return n
}

// TestBackpressure holds the flow up in two ways: the database is away, and one
// lane is slower than the other.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	k := startCountedKafka(t)
	t.Run("one slow lane", func(t *testing.T) { pausesCostOneFetch(t, k) })
	t.Run("database away", func(t *testing.T) { databaseAway(t, k) })
}

// The database is away under full load, once frozen (it answers nothing) and
// once stopped (it is not there). Meanwhile the flow holds what its buffer may
// hold, reads no more, and stays in the group; then it is back at speed at once.
//
// No control: the check of rows is the one that the others' controls are caught
// by; and the log offers more than the buffer holds (the test looks that it is
// so), which a reader without backpressure would take in.
func databaseAway(t *testing.T, k *countedKafka) {
	const buffer = 16 * mib
	server := testservice.StartPostgres(t)
	r := rig.New(t, rig.NewTopic(t, k.direct), rig.PostgresAt(t, server.URL(), rig.PostgresTable))
	r.Brokers = k.brokers
	r.Source = "    fetch: {max_bytes: 256KiB, partition_bytes: 64KiB}\n"
	r.Columns += "buffer: 16MiB\n"
	produce := func(n int) {
		for range n / 2000 {
			r.Topic.Produce(2000)
		}
	}
	produce(60_000)
	p, admin := r.StartWithAdmin("")
	r.WantProgress(5000, time.Minute, p)
	w := startWatch(t, admin)
	full := speed(t, admin, time.Second)
	away := func(name string, end func() (begin func()), words ...string) {
		produce(30_000) // it is at work when that happens
		n, rebalances := p.Log.Len(), scrape(t.Context(), admin).sum("penstock_rebalances_total")
		begin := end()
		half, whole := time.After(*outage/2), time.After(*outage)
		w.reset()
		produce(120_000) // several times what the buffer holds
		<-half
		read := k.answers()
		advised(t, p, admin, n, words...)
		<-whole
		if read = k.answers() - read; read > 64<<10 { // heartbeats, and answers without records
			t.Errorf("%s: %d KiB were read with the buffer full", name, read>>10)
		}
		rows, dead := r.Topic.Expected()
		if behind := float64(rows+dead) - scrape(t.Context(), admin).sum("penstock_records_total"); behind < 110_000 {
			t.Errorf("%s: only %.0f records are left to be written: this proves nothing", name, behind)
		}
		buffered, rss := w.highest("penstock_buffered_bytes"), w.highest("process_resident_memory_bytes")
		begin()
		returned := time.Now()
		if !rig.Poll(t.Context(), 20*time.Second, func() bool { return speed(t, admin, 300*time.Millisecond) >= full/2 }) {
			t.Errorf("%s: the flow does not come back to half of its speed, %.0f records/s:\n%s", name, full, p.Log.Tail())
		}
		back := time.Since(returned)
		t.Logf("%s: most buffered %.1f MiB, resident %.0f MiB; back at half of %.0f records/s after %s", name, buffered/mib, rss/mib, full, back.Round(time.Millisecond))
		if buffered > buffer || buffered < buffer/2 {
			t.Errorf("%s: %.1f MiB were buffered, want the buffer full, and no more", name, buffered/mib)
		}
		if rss > 200*mib {
			t.Errorf("%s: %.0f MiB of memory for a buffer of %d MiB", name, rss/mib, buffer/mib)
		}
		if now := scrape(t.Context(), admin).sum("penstock_rebalances_total"); now != rebalances {
			t.Errorf("%s: %v rebalances", name, now-rebalances)
		}
		if limit := 2 * time.Second; back > limit {
			t.Errorf("%s: back at speed %s after the database, want at most %s", name, back, limit)
		}
	}
	away("frozen", func() func() { return freeze(t, r.Target) }) // what it says when nobody answers: TestDatabaseNetwork
	away("stopped", func() func() { server.StopImmediately(); return server.Start }, "check that the server runs")
	r.Finish(p)
}

// speed is how many records a second a process makes durable.
func speed(t *testing.T, admin string, over time.Duration) float64 {
	t.Helper()
	before, began := scrape(t.Context(), admin).sum("penstock_records_total"), time.Now()
	rig.Pause(t.Context(), over)
	return (scrape(t.Context(), admin).sum("penstock_records_total") - before) / time.Since(began).Seconds()
}
