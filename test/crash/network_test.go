package crash

import (
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// TestKafkaNetwork lets the network between Kafka and the flow fail in every
// way, one after the other, under load. A naive loop behind the same proxy is
// the control.
func TestKafkaNetwork(t *testing.T) {
	t.Parallel()
	cluster := testservice.StartKafkaCluster(t, 1)
	proxy := cluster.Proxies[0]
	behind := func(r *rig.Rig) *rig.Rig {
		r.Brokers = cluster.Addrs()
		return r
	}
	r := behind(rig.New(t, rig.NewTopic(t, cluster.DirectAddrs()), rig.Postgres(t)))
	control := behind(rig.New(t, rig.NewTopic(t, cluster.DirectAddrs()), rig.Postgres(t)).Control("group"))
	defer control.Topic.Flow(100, 100*time.Millisecond)()
	stop := r.Topic.Flow(100, 100*time.Millisecond)
	defer stop()
	ps := []*rig.Process{r.Start(""), r.Start("")}
	// Slower than its topic, the control is nearly always between its two commits.
	control.WantProgress(100, time.Minute, control.Start("sink.after_commit=sleep:300ms"))
	for _, fault := range []struct {
		name string
		act  func()
		// says is what the flow says of it; nothing where records go on arriving.
		says string
	}{
		{"slow", func() { proxy.Slow(100*time.Millisecond, 50*time.Millisecond) }, ""},
		{"narrow", func() { proxy.Bandwidth(300) }, ""},
		{"closed", proxy.CloseConnections, ""},
		{"silent", proxy.Silence, ""},
		{"cut", proxy.Cut, "check that the brokers run"},
		{"half-open", proxy.HalfOpen, "check that the brokers run"},
	} {
		r.WantProgress(200, time.Minute, ps...)
		before := []int{ps[0].Log.Len(), ps[1].Log.Len()}
		began := time.Now()
		fault.act()
		if fault.says == "" {
			r.WantProgress(1500, time.Minute, ps...) // more than can have been on its way
		} else {
			for i, p := range ps {
				if !p.WaitLineAfter(before[i], fault.says, 30*time.Second) {
					t.Errorf("%s: the flow does not say what to do:\n%s", fault.name, p.Log.Tail())
				}
			}
		}
		t.Logf("%s: %s", fault.name, time.Since(began).Round(time.Millisecond))
		proxy.Restore()
	}
	stop()
	r.Finish(ps...)
	if !control.WantCaught(30 * time.Second) {
		t.Fatal("a network that fails doubled nothing: this test proves nothing")
	}
}
