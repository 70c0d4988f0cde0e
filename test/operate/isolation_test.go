package operate

import (
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// The database of one flow accepts connections and answers nothing, the worst that it can do: the
// other flow is as fast as before, and nothing is lost when it answers again.
func TestADeadDatabaseDoesNotSlowTheOtherFlow(t *testing.T) {
	t.Parallel()
	fast, slow := rig.NewTopic(t, testservice.Kafka(t)), rig.NewTopic(t, testservice.Kafka(t))
	fastTarget, slowTarget := rig.Postgres(t), rig.Postgres(t)
	proxy := testservice.Proxy(t, address(t, slowTarget.URL))
	dir := t.TempDir()
	const batch = "batch: {records: 200, wait: 5ms, timeout: 1s}\nbuffer: 20MiB\n"
	write(t, filepath.Join(dir, "fast.yaml"), flowFile(fast, fastTarget.URL, "public.t", batch))
	write(t, filepath.Join(dir, "slow.yaml"), flowFile(slow, testservice.WithAddr(t, slowTarget.URL, proxy.Addr()), "public.t", batch))
	p := start(t, dir)

	// latency is how long bursts take to be rows of the fast flow, the median of 15.
	latency := func() time.Duration {
		t.Helper()
		took := make([]time.Duration, 15)
		for i := range took {
			slow.Produce(2000)
			began := time.Now()
			fast.Produce(500)
			rows, _ := fast.Expected()
			p.until("the burst is written", func() bool { return fastTarget.RowCount() >= rows })
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	p.until("both flows run", func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK })
	healthy := latency()
	proxy.HalfOpen()
	slow.Produce(2000)
	p.until("the slow flow notices", func() bool { return p.flow(slow.Name).Error != "" })
	dead := latency()
	t.Logf("a burst takes %s, and %s while the other flow's database is dead", healthy, dead)
	if dead > 2*healthy+250*time.Millisecond {
		t.Errorf("a burst takes %s while the other flow's database is dead, and %s otherwise", dead, healthy)
	}
	if v := p.flow(fast.Name); v.State != "running" || v.Restarts != 0 {
		t.Errorf("the fast flow: %+v", v)
	}
	if status, body := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %s; a restart would not help", body)
	}
	if status, body := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, slow.Name+": something failed") || !strings.Contains(body, fast.Name+": ok") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	proxy.Restore()
	p.settled(slow, slowTarget)
	p.settled(fast, fastTarget)
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A stop takes as long as its slowest flow, not as long as all of them together.
func TestFlowsDrainAtTheSameTime(t *testing.T) {
	t.Parallel()
	const flows, grace = 3, 2 * time.Second
	dir := t.TempDir()
	target := rig.Postgres(t)
	proxy := testservice.Proxy(t, address(t, target.URL))
	topics := make([]*rig.Topic, flows)
	for i := range topics {
		topics[i] = rig.NewTopic(t, testservice.Kafka(t))
		text := flowFile(topics[i], testservice.WithAddr(t, target.URL, proxy.Addr()), "public.t", "")
		// Nobody is killed here, and a member that is lost on a busy machine would have to claim its partitions from a database that is away.
		text = strings.NewReplacer("grace: 10s", "grace: "+grace.String(), "session_timeout: 1500ms", "session_timeout: 30s").Replace(text)
		write(t, filepath.Join(dir, topics[i].Name+".yaml"), text)
	}
	p := start(t, dir)
	p.until("all flows run", func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK })
	proxy.HalfOpen()
	for _, topic := range topics {
		topic.Produce(100)
	}
	p.until("all flows hold records that cannot be written", func() bool {
		return p.metric(`penstock_buffered_bytes{flow="`+topics[0].Name+`"}`) > 0 && p.metric(`penstock_buffered_bytes{flow="`+topics[1].Name+`"}`) > 0 &&
			p.metric(`penstock_buffered_bytes{flow="`+topics[2].Name+`"}`) > 0
	})
	began := time.Now()
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took < grace || took > (flows-1)*grace {
		t.Errorf("the stop took %s with a grace of %s for each of %d flows", took, grace, flows)
	}
}

func address(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
