package faults

import (
	"net/url"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// slowCommitTable is the rigs' table, whose commits take up to a fifth of a
// second: a connection that breaks does so during one.
const slowCommitTable = rig.PostgresTable + `;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.off % 2 = 0) EXECUTE FUNCTION slow()`

// TestDatabaseNetwork lets the network between the flow and the database fail
// in every way, one after the other, under load. A naive loop behind the same
// proxy is the control: a connection that closes during a commit doubles its rows.
func TestDatabaseNetwork(t *testing.T) {
	t.Parallel()
	var proxy *testservice.TCPProxy
	behind := func() *rig.Rig {
		d := rig.PostgresAt(t, testservice.Postgres(t), slowCommitTable)
		if proxy == nil {
			u, err := url.Parse(d.URL)
			if err != nil {
				t.Fatal(err)
			}
			proxy = testservice.Proxy(t, u.Host)
		}
		d.URL = testservice.WithAddr(t, d.URL, proxy.Addr())
		return rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), d)
	}
	r, control := behind(), behind().Control("group")
	defer control.Topic.Flow(25, 100*time.Millisecond)()
	stop := r.Topic.Flow(25, 100*time.Millisecond)
	defer stop()
	p, admin := r.StartWithAdmin("")
	control.WantProgress(100, time.Minute, control.Start(""))
	for _, fault := range []struct {
		name string
		act  func()
		// says is what the flow says of it; nothing where it goes on by itself.
		says string
	}{
		{"slow", func() { proxy.Slow(100*time.Millisecond, 50*time.Millisecond) }, ""},
		{"narrow", func() { proxy.Bandwidth(50) }, ""},
		{"closed", proxy.CloseConnections, ""},
		{"silent", proxy.Silence, ""},
		{"closed again", proxy.CloseConnections, ""},
		{"cut", proxy.Cut, "check that the server runs"},
		{"half-open", proxy.HalfOpen, "nobody answers within connect_timeout"},
	} {
		r.WantProgress(100, time.Minute, p)
		n, began := p.Log.Len(), time.Now()
		fault.act()
		if fault.says == "" {
			r.WantProgress(400, time.Minute, p) // more than can have been on its way
		} else {
			advised(t, p, admin, n, fault.says)
		}
		t.Logf("%s: %s", fault.name, time.Since(began).Round(time.Millisecond))
		proxy.Restore()
	}
	stop()
	r.Finish(p)
	// Not every closed connection meets a commit.
	caught := rig.Poll(t.Context(), time.Minute, func() bool {
		proxy.CloseConnections()
		return control.WantCaught(time.Second)
	})
	if !caught {
		t.Fatal("a network that fails doubled nothing: this test proves nothing")
	}
}
