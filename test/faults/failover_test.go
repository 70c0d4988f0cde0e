package faults

import (
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// movedBack is what the flow says when it finds its positions elsewhere than it
// has left them.
const movedBack = "the checkpoint was moved"

// TestFailover makes the database fail over twice under load, with a URL that
// names two hosts. The first standby is synchronous: nothing that was committed is gone,
// and the flow goes on where it was. The second one is behind: rows and
// positions are back in the past together, and the flow reads again what the
// new primary does not have. The naive loop keeps its positions in the group, which
// knows nothing of the failover: the second one loses its rows.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := testservice.StartPostgres(t)
	one, two := testservice.Proxy(t, primary.Addr()), testservice.Proxy(t, primary.Addr())
	database := func() *rig.Target {
		url := testservice.WithAddr(t, primary.URL(), one.Addr()+","+two.Addr())
		return rig.PostgresAt(t, url+"&target_session_attrs=read-write&connect_timeout=5", rig.PostgresTable)
	}
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), database())
	control := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), database()).Control("group")
	second := primary.StartStandby()
	primary.Set("synchronous_standby_names", "standby")
	two.Redirect(second.Addr())

	stop, stopControl := r.Topic.Flow(100, 50*time.Millisecond), control.Topic.Flow(20, 50*time.Millisecond)
	defer stop()
	defer stopControl()
	p, admin := r.StartWithAdmin("")
	naive := control.Start("")
	control.WantProgress(100, time.Minute, naive)
	r.WantProgress(500, time.Minute, p)

	n := p.Log.Len()
	primary.StopImmediately()
	advised(t, p, admin, n, "connect to PostgreSQL", "read only") // one host is gone, the other a standby
	second.Promote()
	r.WantProgress(500, time.Minute, p)
	if p.WaitLine(movedBack, 0) {
		t.Errorf("a synchronous standby had lost something:\n%s", p.Log.Tail())
	}

	third := second.StartStandby()
	third.Set("primary_conninfo", "") // it hears nothing any more
	if !rig.Poll(t.Context(), 20*time.Second, func() bool { return r.Target.Count("SELECT count(*) + 1 FROM pg_stat_replication") == 1 }) {
		t.Fatal("the second standby still receives")
	}
	r.WantProgress(500, time.Minute, p)
	control.WantProgress(100, time.Minute, naive)
	second.StopImmediately()
	one.Redirect(third.Addr())
	third.Promote()
	control.WantProgress(100, time.Minute, naive)
	r.WantProgress(500, time.Minute, p)
	if !p.WaitLine(movedBack, 10*time.Second) {
		t.Errorf("the standby was not behind: this test proves nothing\n%s", p.Log.Tail())
	}
	stop()
	r.Finish(p)

	stopControl()
	if !rig.Poll(t.Context(), 30*time.Second, func() bool { return lag(t, control.Topic) == 0 }) {
		t.Fatalf("the control does not go on:\n%s", naive.Log.Tail())
	}
	if v := control.Verify(); v.Lost == 0 {
		t.Fatalf("a failover to a standby that was behind lost nothing of the naive loop's: this test proves nothing: %s", v)
	} else {
		t.Logf("the control was caught: %d lost", v.Lost)
	}
}

// lag is how many records of the topic its group has not committed.
func lag(t *testing.T, topic *rig.Topic) int64 {
	t.Helper()
	lags, err := topic.Admin.Lag(t.Context(), topic.Name)
	if err == nil {
		err = lags.Error()
	}
	if err != nil {
		t.Fatalf("lag of group %s: %v", topic.Name, err)
	}
	return lags[topic.Name].Lag.Total()
}
