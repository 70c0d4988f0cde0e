package crash

import (
	"flag"
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

var storm = flag.Duration("storm", 15*time.Second, "how long members join and leave")

// TestPartitionsAdded adds partitions to the topic of a running flow: what is
// in them is read from their beginning. The control begins where it finds their
// end, and must miss what was there by then.
func TestPartitionsAdded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	r.Source = "    metadata_max_age: 2s\n"
	control := rig.New(t, r.Topic, rig.Postgres(t)).Control("group", "-start=latest")
	control.Group += "_naive"
	ps := []*rig.Process{r.Start(""), r.Start("")}
	naive := control.Start("")
	stop := r.Topic.Flow(100, 100*time.Millisecond)
	defer func() { stop() }()
	r.WantProgress(200, time.Minute, ps...)
	control.WantProgress(200, time.Minute, naive)
	for _, n := range []int{rig.Partitions + 4, rig.Partitions + 8} {
		stop()
		// The control learns of the partitions when they hold records.
		naive.Signal(syscall.SIGSTOP)
		if _, err := r.Topic.Admin.UpdatePartitions(t.Context(), n, r.Topic.Name); err != nil {
			t.Fatal(err)
		}
		r.Topic.Connect() // a client that knows them
		stop = r.Topic.Flow(100, 100*time.Millisecond)
		if !rig.Poll(t.Context(), time.Minute, func() bool { return checkpoints(r) == n }) {
			t.Fatalf("%d of %d partitions have a position:\n%s", checkpoints(r), n, ps[0].Log.Tail())
		}
		r.WantProgress(500, time.Minute, ps...)
		naive.Signal(syscall.SIGCONT)
		const parts = "SELECT count(DISTINCT part) FROM t"
		if !rig.Poll(t.Context(), time.Minute, func() bool { return control.Target.Count(parts) == r.Target.Count(parts) }) {
			t.Fatalf("the control reads %d of %d partitions: this test proves nothing\n%s", control.Target.Count(parts), r.Target.Count(parts), naive.Log.Tail())
		}
	}
	stop()
	r.Finish(ps...)
	ends := func(r *rig.Rig) int {
		return r.Target.Count("SELECT sum(last)::bigint FROM (SELECT max(off) AS last FROM t WHERE part >= 8 GROUP BY part) AS p")
	}
	if !rig.Poll(t.Context(), 20*time.Second, func() bool { return ends(control) == ends(r) }) {
		t.Fatalf("the control does not read the new partitions to their end: this test proves nothing\n%s", naive.Log.Tail())
	}
	const inNew = "SELECT count(*) FROM t WHERE part >= 8"
	all, some := r.Target.Count(inNew), control.Target.Count(inNew)
	if some >= all {
		t.Fatalf("a loop that begins at the end read %d of %d records of the new partitions: this test proves nothing", some, all)
	}
	t.Logf("the control was caught: it lost %d of %d records of the new partitions", all-some, all)
}

// checkpoints is how many partitions have a position.
func checkpoints(r *rig.Rig) int { return r.Target.Count("SELECT count(*) FROM penstock_checkpoint") }

// TestMemberStorm lets members join and leave every 300 ms, while one stays.
// The naive loop is in a storm of its own, and must double rows.
func TestMemberStorm(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	control := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("group")
	stop := r.Topic.Flow(100, 100*time.Millisecond)
	defer stop()
	defer control.Topic.Flow(100, 100*time.Millisecond)()
	stays := r.Start("")
	r.WantProgress(100, time.Minute, stays)
	before := r.Target.RowCount()
	var came []*rig.Process
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < *storm; <-tick.C {
		came = append(came, r.Start(""), control.Start(""))
		for _, p := range came[max(0, len(came)-6):max(0, len(came)-4)] {
			p.Signal(syscall.SIGTERM)
		}
	}
	for _, p := range came[max(0, len(came)-4):] {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range came {
		if !p.Wait(20 * time.Second) {
			t.Fatalf("%s does not leave:\n%s", p.Label, p.Log.Tail())
		}
		// One that has not got as far as to listen for signals just dies.
		if p.Err != nil && p.WaitLine("metrics and health", 0) {
			t.Errorf("%s ended with %v:\n%s", p.Label, p.Err, p.Log.Tail())
		}
	}
	t.Logf("%d members came and left; %d rows in between", len(came)/2, r.Target.RowCount()-before)
	if r.Target.RowCount() == before {
		t.Errorf("nothing was written during the storm:\n%s", stays.Log.Tail())
	}
	stop()
	r.Finish(stays)
	if !control.WantCaught(10 * time.Second) {
		t.Fatal("a storm doubled nothing: this test proves nothing")
	}
}
