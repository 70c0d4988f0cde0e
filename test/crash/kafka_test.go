package crash

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// TestBrokerKilled kills the broker under load and starts it again.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	broker := testservice.StartKafka(t)
	r := rig.New(t, rig.NewTopic(t, broker.Addr()), rig.Postgres(t))
	stop := r.Topic.Flow(500, 100*time.Millisecond)
	defer stop()
	ps := []*rig.Process{r.Start(""), r.Start("")}
	for range 2 {
		before := r.Target.RowCount()
		if !rig.Poll(t.Context(), 60*time.Second, func() bool { return r.Target.RowCount() > before+1000 }) {
			t.Fatalf("the flow does not go on after the broker has: %d rows\n%s", r.Target.RowCount(), ps[0].Log.Tail())
		}
		broker.Kill()
		broker.Start()
	}
	stop()
	r.Finish(ps...)
}

// TestBrokerKilledControl kills the broker while a naive loop has committed its
// rows and not its offsets.
func TestBrokerKilledControl(t *testing.T) {
	t.Parallel()
	broker := testservice.StartKafka(t)
	r := rig.New(t, rig.NewTopic(t, broker.Addr()), rig.Postgres(t)).Control("group")
	for range 3 {
		r.Topic.Produce(3000) // a round that caught nothing may have read everything
		p := r.Start("sink.after_commit=stop@3")
		if !p.WaitLine("failpoint sink.after_commit", 30*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", p.Log.Tail())
		}
		broker.Kill()
		broker.Start()
		other := r.Start("") // the group has forgotten the frozen member, or will
		caught := r.WantCaught(20 * time.Second)
		p.Kill()
		other.Kill()
		if caught {
			return
		}
	}
	t.Fatal("a broker killed between the two commits doubled nothing: this test proves nothing")
}

// TestSIGTERM ends a process under load: it writes what it holds, leaves, and
// exits with 0 within its grace.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	for name, newTarget := range map[string]func(*testing.T) *rig.Target{"postgres": rig.Postgres, "sqlite": rig.SQLite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), newTarget(t))
			r.Topic.Produce(20_000)
			stop := r.Topic.Flow(1000, 50*time.Millisecond)
			defer stop()
			for range 3 {
				before := r.Target.RowCount()
				p := r.Start("")
				if !rig.Poll(t.Context(), 30*time.Second, func() bool { return r.Target.RowCount() > before+500 }) {
					t.Fatalf("no progress:\n%s", p.Log.Tail())
				}
				began := time.Now()
				p.Stop(11 * time.Second)
				t.Logf("exit 0 after %s, with %d rows", time.Since(began).Round(time.Millisecond), r.Target.RowCount())
			}
			stop()
			r.Finish()
		})
	}
}

// TestSIGTERMControl: the naive loop gives up between its commits.
func TestSIGTERMControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("group")
	for range 5 {
		r.Topic.Produce(2000)
		p := r.Start("sink.after_commit=sleep:500ms@2")
		if !p.WaitLine("failpoint sink.after_commit", 20*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", p.Log.Tail())
		}
		p.Signal(syscall.SIGTERM)
		p.Wait(10 * time.Second)
		other := r.Start("")
		caught := r.WantCaught(5 * time.Second)
		p.Kill()
		other.Kill()
		if caught {
			return
		}
	}
	t.Fatal("SIGTERM between the two commits doubled nothing: this test proves nothing")
}

// TestGroupOffsetsDeleted removes the group: the position is in the database.
func TestGroupOffsetsDeleted(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	r.Topic.Produce(3000)
	p := r.Start("")
	r.Settle(30*time.Second, p)
	p.Stop(15 * time.Second)
	deleteGroup(r)
	r.Topic.Produce(1000)
	r.Finish()
}

func TestGroupOffsetsDeletedControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("group")
	r.Topic.Produce(3000)
	p := r.Start("")
	r.Settle(30*time.Second, p)
	p.Kill()
	if !rig.Poll(t.Context(), 15*time.Second, func() bool {
		_, err := r.Topic.Admin.DeleteGroup(t.Context(), r.Topic.Name)
		return err == nil
	}) {
		t.Fatal("the group cannot be deleted")
	}
	r.Start("")
	if !r.WantCaught(20 * time.Second) {
		t.Fatal("a deleted group doubled nothing: this test proves nothing")
	}
}

func deleteGroup(r *rig.Rig) {
	r.T.Helper()
	if _, err := r.Topic.Admin.DeleteGroup(r.T.Context(), r.Topic.Name); err != nil {
		r.T.Fatalf("delete group %s: %v", r.Topic.Name, err)
	}
}

// remake deletes the topic and makes it anew, with the same name and other
// records: device numbers go on where they were.
func remake(l *rig.Topic, n int) {
	l.T.Helper()
	old := topicID(l)
	if _, err := l.Admin.DeleteTopic(l.T.Context(), l.Name); err != nil {
		l.T.Fatalf("delete topic %s: %v", l.Name, err)
	}
	if !rig.Poll(l.T.Context(), 20*time.Second, func() bool {
		_, err := l.Admin.CreateTopic(l.T.Context(), rig.Partitions, 1, nil, l.Name)
		return err == nil
	}) {
		l.T.Fatalf("topic %s cannot be made anew", l.Name)
	}
	l.Connect() // the old client's metadata has the old topic's id
	if !rig.Poll(l.T.Context(), 20*time.Second, func() bool { id := topicID(l); return id != old && id != kadm.TopicID{} }) {
		l.T.Fatalf("the broker does not tell of the new topic %s", l.Name)
	}
	l.Produce(n)
}

// topicID is the topic's id as the broker tells it now; zero if it has none.
func topicID(l *rig.Topic) kadm.TopicID {
	topics, err := l.Admin.ListTopics(l.T.Context(), l.Name)
	if err != nil {
		return kadm.TopicID{}
	}
	return topics[l.Name].ID
}

// TestTopicRemade deletes the topic and makes it anew, before a start and under
// a running flow: the flow must stop, say what happened, and write nothing of
// the new topic as if it were the old one.
func TestTopicRemade(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		name := map[bool]string{false: "stopped", true: "running"}[running]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
			r.Topic.Produce(2000)
			p := r.Start("")
			r.Settle(30*time.Second, p)
			before := r.Target.RowCount()
			if running {
				remake(r.Topic, 4000)
			} else {
				p.Stop(15 * time.Second)
				remake(r.Topic, 4000)
				p = r.Start("")
			}
			if !p.Wait(60 * time.Second) {
				t.Fatalf("the flow goes on as if nothing had happened:\n%s", p.Log.Tail())
			}
			if p.Err == nil {
				t.Errorf("exit code 0, want another")
			}
			if out := p.Log.String(); !strings.Contains(out, r.Topic.Name) || !strings.Contains(out, "made anew") {
				t.Errorf("the log does not say that the topic was made anew:\n%s", p.Log.Tail())
			}
			if n := r.Target.RowCount(); n != before {
				t.Errorf("%d rows of the new topic were written as if it were the old one", n-before)
			}
		})
	}
}

// TestTopicRemadeControl: the naive loop's offsets mean something else in the
// new topic, and it says nothing.
func TestTopicRemadeControl(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)).Control("database")
	r.Topic.Produce(2000)
	p := r.Start("")
	r.Settle(30*time.Second, p)
	p.Kill()
	before := r.Target.RowCount()
	remake(r.Topic, 4000)
	p = r.Start("")
	if !rig.Poll(t.Context(), 30*time.Second, func() bool { return r.Target.RowCount() > before }) {
		t.Fatalf("the control wrote nothing of the new topic: this test proves nothing\n%s", p.Log.Tail())
	}
	rig.Pause(t.Context(), 2*time.Second)
	if !p.Alive() {
		t.Fatalf("the control noticed: this test proves nothing\n%s", p.Log.Tail())
	}
	rows, _ := r.Topic.Expected()
	if n := r.Target.RowCount(); n >= rows {
		t.Fatalf("the control skipped nothing (%d of %d rows): this test proves nothing", n, rows)
	}
	t.Logf("the control was caught: it skipped %d records in silence", rows-r.Target.RowCount())
}
