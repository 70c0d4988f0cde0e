package crash

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/penstockdev/penstock/internal/testservice"
)

// TestBrokerKilled kills the broker under load and starts it again.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	broker := testservice.StartKafka(t)
	r := newRig(t, newTopic(t, broker.Addr()), postgresTarget(t))
	stop := r.topic.flow(500, 100*time.Millisecond)
	defer stop()
	ps := []*process{r.start(""), r.start("")}
	for range 2 {
		before := r.target.rowCount()
		if !poll(t.Context(), 60*time.Second, func() bool { return r.target.rowCount() > before+1000 }) {
			t.Fatalf("the flow does not go on after the broker has: %d rows\n%s", r.target.rowCount(), ps[0].log.tail())
		}
		broker.Kill()
		broker.Start()
	}
	stop()
	r.finish(ps...)
}

// TestBrokerKilledControl kills the broker while a naive loop has committed its
// rows and not its offsets.
func TestBrokerKilledControl(t *testing.T) {
	t.Parallel()
	broker := testservice.StartKafka(t)
	r := newRig(t, newTopic(t, broker.Addr()), postgresTarget(t)).control("group")
	for range 3 {
		r.topic.produce(3000) // a round that caught nothing may have read everything
		p := r.start("sink.after_commit=stop@3")
		if !p.waitLine("failpoint sink.after_commit", 30*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", p.log.tail())
		}
		broker.Kill()
		broker.Start()
		other := r.start("") // the group has forgotten the frozen member, or will
		caught := r.wantCaught(20 * time.Second)
		p.kill()
		other.kill()
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
	for name, newTarget := range map[string]func(*testing.T) *target{"postgres": postgresTarget, "sqlite": sqliteTarget} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newTopic(t, testservice.Kafka(t)), newTarget(t))
			r.topic.produce(20_000)
			stop := r.topic.flow(1000, 50*time.Millisecond)
			defer stop()
			for range 3 {
				before := r.target.rowCount()
				p := r.start("")
				if !poll(t.Context(), 30*time.Second, func() bool { return r.target.rowCount() > before+500 }) {
					t.Fatalf("no progress:\n%s", p.log.tail())
				}
				began := time.Now()
				p.stop(11 * time.Second)
				t.Logf("exit 0 after %s, with %d rows", time.Since(began).Round(time.Millisecond), r.target.rowCount())
			}
			stop()
			r.finish()
		})
	}
}

// TestSIGTERMControl: the naive loop gives up between its commits.
func TestSIGTERMControl(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t)).control("group")
	for range 5 {
		r.topic.produce(2000)
		p := r.start("sink.after_commit=sleep:500ms@2")
		if !p.waitLine("failpoint sink.after_commit", 20*time.Second) {
			t.Fatalf("the control never reached its failpoint:\n%s", p.log.tail())
		}
		p.signal(syscall.SIGTERM)
		p.wait(10 * time.Second)
		other := r.start("")
		caught := r.wantCaught(5 * time.Second)
		p.kill()
		other.kill()
		if caught {
			return
		}
	}
	t.Fatal("SIGTERM between the two commits doubled nothing: this test proves nothing")
}

// TestGroupOffsetsDeleted removes the group: the position is in the database.
func TestGroupOffsetsDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t))
	r.topic.produce(3000)
	p := r.start("")
	r.settle(30*time.Second, p)
	p.stop(15 * time.Second)
	r.deleteGroup()
	r.topic.produce(1000)
	r.finish()
}

func TestGroupOffsetsDeletedControl(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t)).control("group")
	r.topic.produce(3000)
	p := r.start("")
	r.settle(30*time.Second, p)
	p.kill()
	if !poll(t.Context(), 15*time.Second, func() bool {
		_, err := r.topic.admin.DeleteGroup(t.Context(), r.topic.name)
		return err == nil
	}) {
		t.Fatal("the group cannot be deleted")
	}
	r.start("")
	if !r.wantCaught(20 * time.Second) {
		t.Fatal("a deleted group doubled nothing: this test proves nothing")
	}
}

func (r *rig) deleteGroup() {
	r.t.Helper()
	if _, err := r.topic.admin.DeleteGroup(r.t.Context(), r.topic.name); err != nil {
		r.t.Fatalf("delete group %s: %v", r.topic.name, err)
	}
}

// remake deletes the topic and makes it anew, with the same name and other
// records: device numbers go on where they were.
func (l *topicLog) remake(n int) {
	l.t.Helper()
	old := l.topicID()
	if _, err := l.admin.DeleteTopic(l.t.Context(), l.name); err != nil {
		l.t.Fatalf("delete topic %s: %v", l.name, err)
	}
	if !poll(l.t.Context(), 20*time.Second, func() bool {
		_, err := l.admin.CreateTopic(l.t.Context(), partitions, 1, nil, l.name)
		return err == nil
	}) {
		l.t.Fatalf("topic %s cannot be made anew", l.name)
	}
	l.connect() // the old client's metadata has the old topic's id
	if !poll(l.t.Context(), 20*time.Second, func() bool { id := l.topicID(); return id != old && id != kadm.TopicID{} }) {
		l.t.Fatalf("the broker does not tell of the new topic %s", l.name)
	}
	l.produce(n)
}

// topicID is the topic's id as the broker tells it now; zero if it has none.
func (l *topicLog) topicID() kadm.TopicID {
	topics, err := l.admin.ListTopics(l.t.Context(), l.name)
	if err != nil {
		return kadm.TopicID{}
	}
	return topics[l.name].ID
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
			r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t))
			r.topic.produce(2000)
			p := r.start("")
			r.settle(30*time.Second, p)
			before := r.target.rowCount()
			if running {
				r.topic.remake(4000)
			} else {
				p.stop(15 * time.Second)
				r.topic.remake(4000)
				p = r.start("")
			}
			if !p.wait(60 * time.Second) {
				t.Fatalf("the flow goes on as if nothing had happened:\n%s", p.log.tail())
			}
			if p.err == nil {
				t.Errorf("exit code 0, want another")
			}
			if out := p.log.String(); !strings.Contains(out, r.topic.name) || !strings.Contains(out, "made anew") {
				t.Errorf("the log does not say that the topic was made anew:\n%s", p.log.tail())
			}
			if n := r.target.rowCount(); n != before {
				t.Errorf("%d rows of the new topic were written as if it were the old one", n-before)
			}
		})
	}
}

// TestTopicRemadeControl: the naive loop's offsets mean something else in the
// new topic, and it says nothing.
func TestTopicRemadeControl(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTopic(t, testservice.Kafka(t)), postgresTarget(t)).control("database")
	r.topic.produce(2000)
	p := r.start("")
	r.settle(30*time.Second, p)
	p.kill()
	before := r.target.rowCount()
	r.topic.remake(4000)
	p = r.start("")
	if !poll(t.Context(), 30*time.Second, func() bool { return r.target.rowCount() > before }) {
		t.Fatalf("the control wrote nothing of the new topic: this test proves nothing\n%s", p.log.tail())
	}
	pause(t.Context(), 2*time.Second)
	if !p.alive() {
		t.Fatalf("the control noticed: this test proves nothing\n%s", p.log.tail())
	}
	rows, _ := r.topic.expected()
	if n := r.target.rowCount(); n >= rows {
		t.Fatalf("the control skipped nothing (%d of %d rows): this test proves nothing", n, rows)
	}
	t.Logf("the control was caught: it skipped %d records in silence", rows-r.target.rowCount())
}
