package crash

import (
	"net/url"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
)

// lossyTarget is a PostgreSQL behind a proxy that loses answers.
func lossyTarget(t *testing.T) (*target, *testservice.TCPProxy) {
	t.Helper()
	d := postgresTarget(t)
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testservice.Proxy(t, u.Host)
	d.url = testservice.WithAddr(t, d.url, proxy.Addr())
	return d, proxy
}

// TestLostAnswerToCommit loses the answers to commits that took place: the
// writer must learn from the checkpoint row what became of them.
func TestLostAnswerToCommit(t *testing.T) {
	t.Parallel()
	d, proxy := lossyTarget(t)
	r := newRig(t, newTopic(t, testservice.Kafka(t)), d)
	proxy.LoseAnswers([]byte("COMMIT\x00"), 10)
	r.topic.produce(5000)
	p := r.start("")
	r.finish(p)
	if proxy.Lost() != 10 {
		t.Errorf("%d answers were lost, want 10: this test proves nothing", proxy.Lost())
	}
}

func TestLostAnswerToCommitControl(t *testing.T) {
	t.Parallel()
	d, proxy := lossyTarget(t)
	r := newRig(t, newTopic(t, testservice.Kafka(t)), d).control("group")
	proxy.LoseAnswers([]byte("commit\x00"), 3)
	r.topic.produce(2000)
	r.start("")
	if !r.wantCaught(30 * time.Second) {
		t.Fatalf("%d lost answers doubled nothing: this test proves nothing", proxy.Lost())
	}
}

// TestPostgresStops stops the server at once, in the middle of the load, and
// starts it again.
func TestPostgresStops(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	r := newRig(t, newTopic(t, testservice.Kafka(t)), newPostgresTarget(t, server.URL()))
	stop := r.topic.flow(500, 100*time.Millisecond)
	defer stop()
	ps := []*process{r.start(""), r.start("")}
	for _, end := range []func(){server.StopImmediately, server.StopImmediately, server.Stop, server.Kill} {
		before := r.target.rowCount()
		if !poll(t.Context(), 30*time.Second, func() bool { return r.target.rowCount() > before+1000 }) {
			t.Fatalf("the flow does not go on after the server has: %d rows\n%s", r.target.rowCount(), ps[0].log.tail())
		}
		end()
		pause(t.Context(), 500*time.Millisecond) // the flow meets a server that is not there
		server.Start()
	}
	stop()
	r.finish(ps...)
}

// TestPostgresStopsControl stops the server between the commit of a naive loop
// and the moment it hears of it, which is what a crash does now and then.
func TestPostgresStopsControl(t *testing.T) {
	t.Parallel()
	server := testservice.StartPostgres(t)
	d := newPostgresTarget(t, server.URL())
	proxy := testservice.Proxy(t, server.Addr())
	d.url = testservice.WithAddr(t, d.url, proxy.Addr())
	r := newRig(t, newTopic(t, testservice.Kafka(t)), d).control("group")
	proxy.LoseAnswers([]byte("commit\x00"), 1)
	r.topic.produce(2000)
	r.start("")
	<-proxy.Changed()
	server.StopImmediately()
	server.Start()
	if !r.wantCaught(30 * time.Second) {
		t.Fatal("a crash after a commit doubled nothing: this test proves nothing")
	}
}
