package crash

import (
	"net/url"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// lossyTarget is a PostgreSQL behind a proxy that loses answers.
func lossyTarget(t *testing.T) (*rig.Target, *testservice.TCPProxy) {
	t.Helper()
	d := rig.Postgres(t)
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testservice.Proxy(t, u.Host)
	d.URL = testservice.WithAddr(t, d.URL, proxy.Addr())
	return d, proxy
}

// TestLostAnswerToCommit loses the answers to commits that took place: the
// writer must learn from the checkpoint row what became of them.
func TestLostAnswerToCommit(t *testing.T) {
	t.Parallel()
	d, proxy := lossyTarget(t)
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), d)
	proxy.LoseAnswers([]byte("COMMIT\x00"), 10)
	r.Topic.Produce(5000)
	p := r.Start("")
	r.Finish(p)
	if proxy.Lost() != 10 {
		t.Errorf("%d answers were lost, want 10: this test proves nothing", proxy.Lost())
	}
}

func TestLostAnswerToCommitControl(t *testing.T) {
	t.Parallel()
	d, proxy := lossyTarget(t)
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), d).Control("group")
	proxy.LoseAnswers([]byte("commit\x00"), 3)
	r.Topic.Produce(2000)
	r.Start("")
	if !r.WantCaught(30 * time.Second) {
		t.Fatalf("%d lost answers doubled nothing: this test proves nothing", proxy.Lost())
	}
}

// TestPostgresStops stops the server at once, in the middle of the load, and
// starts it again.
func TestPostgresStops(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.PostgresAt(t, server.URL(), rig.PostgresTable))
	stop := r.Topic.Flow(500, 100*time.Millisecond)
	defer stop()
	ps := []*rig.Process{r.Start(""), r.Start("")}
	for _, end := range []func(){server.StopImmediately, server.StopImmediately, server.Stop, server.Kill} {
		before := r.Target.RowCount()
		if !rig.Poll(t.Context(), 30*time.Second, func() bool { return r.Target.RowCount() > before+1000 }) {
			t.Fatalf("the flow does not go on after the server has: %d rows\n%s", r.Target.RowCount(), ps[0].Log.Tail())
		}
		end()
		rig.Pause(t.Context(), 500*time.Millisecond) // the flow meets a server that is not there
		server.Start()
	}
	stop()
	r.Finish(ps...)
}

// TestPostgresStopsControl stops the server between the commit of a naive loop
// and the moment it hears of it, which is what a crash does now and then.
func TestPostgresStopsControl(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	d := rig.PostgresAt(t, server.URL(), rig.PostgresTable)
	proxy := testservice.Proxy(t, server.Addr())
	d.URL = testservice.WithAddr(t, d.URL, proxy.Addr())
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), d).Control("group")
	proxy.LoseAnswers([]byte("commit\x00"), 1)
	r.Topic.Produce(2000)
	r.Start("")
	<-proxy.Changed()
	server.StopImmediately()
	server.Start()
	if !r.WantCaught(30 * time.Second) {
		t.Fatal("a crash after a commit doubled nothing: this test proves nothing")
	}
}
