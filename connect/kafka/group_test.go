package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// ledger is the checkpoint of a group in memory: who owns which partition, and
// where it goes on.
type ledger struct {
	mu    sync.Mutex
	owner map[flow.Partition]string
	next  map[flow.Partition]int64
	// crashed members lose their partitions to whoever claims them.
	crashed map[string]bool
}

func newLedger() *ledger {
	return &ledger{owner: map[flow.Partition]string{}, next: map[flow.Partition]int64{}, crashed: map[string]bool{}}
}

func (l *ledger) claim(t testing.TB, p flow.Partition, member string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.owner[p]; o != "" && o != member && !l.crashed[o] {
		t.Errorf("%s assigned to %s while %s has it", p, member, o)
	}
	l.owner[p] = member
	return l.next[p]
}

func (l *ledger) release(p flow.Partition, member string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owner[p] == member {
		delete(l.owner, p)
	}
}

func (l *ledger) advance(t testing.TB, f flow.Fetch, member string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owner[f.Partition] != member {
		t.Errorf("%s delivered to %s, but %q owns it", f.Partition, member, l.owner[f.Partition])
	}
	if len(f.Records) > 0 && f.Records[0].Offset != l.next[f.Partition] {
		t.Errorf("%s: offset %d delivered to %s, want %d", f.Partition, f.Records[0].Offset, member, l.next[f.Partition])
	}
	l.next[f.Partition] = f.Next
}

func (l *ledger) total() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, o := range l.next {
		n += o
	}
	return n
}

// What a member keeps is read on while the engine takes long to let others go,
// or to take others over.
func TestOthersAreReadDuringARebalance(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			topic := b.topic(2)
			cfg := b.config(topic)
			cfg.Protocol = protocol
			l := newLedger()
			inA, inB := newIntake(t), newIntake(t)
			inA.ledger, inA.member = l, "a"
			inB.ledger, inB.member = l, "b"
			revoking, goOn := make(chan flow.Partition, 1), newGate()
			inA.revoking = func(ctx context.Context, ps []flow.Partition) {
				select {
				case revoking <- ps[0]:
				default: // a busy machine: the group has lost somebody
				}
				select {
				case <-goOn.opened:
				case <-ctx.Done():
				}
			}
			a := run(t, cfg, inA)
			t.Cleanup(goOn.open)
			b.fill(topic, 2, 0, 10)
			eventually(t, "the first records", func() bool { return inA.count() == 20 })
			if m, err := a.Member([]flow.Partition{{Topic: topic}, {Topic: topic, ID: 1}}); err != nil || m.ID == "" || m.Group != cfg.Group {
				t.Errorf("member of both: %+v, %v", m, err)
			}
			assigning, goOnToo := make(chan struct{}, 1), newGate()
			inB.start = func(ctx context.Context, p flow.PartitionInfo) int64 {
				select {
				case assigning <- struct{}{}:
				default:
				}
				select {
				case <-goOnToo.opened:
				case <-ctx.Done():
				}
				return p.Start
			}
			run(t, cfg, inB)
			t.Cleanup(goOnToo.open)
			moving := receive(t, "a revocation", revoking)
			stays := 1 - moving.ID
			if _, err := a.Member([]flow.Partition{moving}); err != nil {
				t.Errorf("while it is revoked, its last transaction may still commit: %v", err)
			}
			read := func(n int) {
				t.Helper()
				for i := range 10 {
					b.produce(&kgo.Record{Topic: topic, Partition: stays, Value: fmt.Append(nil, n+i)})
				}
				eventually(t, "records of the partition that stays", func() bool { return len(inA.values(topic, stays)) == n+10 })
			}
			read(10)
			goOn.open()
			receive(t, "an assignment", assigning)
			read(20)
			var fenced *flow.FencedError
			if _, err := a.Member([]flow.Partition{moving}); !errors.As(err, &fenced) {
				t.Errorf("member of what was revoked: %v", err)
			}
			goOnToo.open()
			b.produce(&kgo.Record{Topic: topic, Partition: moving.ID, Value: []byte("x")})
			eventually(t, "a record of the partition that moved", func() bool { return inB.count() == 1 })
		})
	}
}

// Members join and leave while records arrive: every partition has one owner
// at any time, and every record is delivered once, in order.
func TestMembersJoinAndLeave(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ protocol, assignor string }{
		{"classic", "cooperative-sticky"}, {"classic", "range"}, {"consumer", "cooperative-sticky"}, {"consumer", "range"},
	} {
		t.Run(c.protocol+" "+c.assignor, func(t *testing.T) {
			t.Parallel()
			const partitions = 6
			b := newBroker(t)
			topic := b.topic(partitions)
			cfg := b.config(topic)
			cfg.Protocol, cfg.Assignor = c.protocol, c.assignor
			l := newLedger()
			produced := 0
			more := func() {
				t.Helper()
				b.fill(topic, partitions, produced, 200)
				produced += 200
				eventually(t, "all records", func() bool { return l.total() == int64(partitions*produced) })
			}
			join := func(name string) (*running, *intake) {
				in := newIntake(t)
				in.ledger, in.member = l, name
				return run(t, cfg, in), in
			}
			a, inA := join("a")
			more()
			_, inB := join("b")
			eventually(t, "both to own half", func() bool { return inA.owns() == 3 && inB.owns() == 3 })
			more()
			c, inC := join("c")
			eventually(t, "all three to own a third", func() bool { return inA.owns() == 2 && inB.owns() == 2 && inC.owns() == 2 })
			more()
			a.stop()
			closeSource(t, a.Source)
			if n := inA.owns(); n != 0 {
				t.Errorf("owns %d partitions after Close", n)
			}
			eventually(t, "the others to share its partitions", func() bool { return inB.owns() == 3 && inC.owns() == 3 })
			more()
			c.stop()
			closeSource(t, c.Source)
			eventually(t, "one to own all", func() bool { return inB.owns() == partitions })
			more()
		})
	}
}

// A member of the consumer protocol commits under an epoch that has passed, and
// cannot know it: the answers to its heartbeats are lost. The commit is repeated.
func TestCommitUnderAnEpochThatHasPassed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(1)
	cfg := b.config(topic)
	cfg.Protocol = protocolConsumer
	b.setSessionTimeout(cfg.Group, 5*time.Second)
	proxy := testservice.Proxy(t, b.addr)
	src, err := NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	src.extra = []kgo.Opt{proxied(proxy.Addr())}
	t.Cleanup(func() { closeSource(t, src) })
	if _, err := src.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := newIntake(t)
	read(t, src, in)
	eventually(t, "the partition", func() bool { return in.owns() == 1 })
	p := flow.Partition{Topic: topic}
	commit := func(offset int64) error {
		return src.Commit(t.Context(), []flow.Position{{Partition: p, Offset: offset, LeaderEpoch: -1}})
	}
	if err := commit(1); err != nil {
		t.Fatal(err)
	}
	heartbeat := []byte{0, 68, 0, 1, 0, 0} // key, version, the correlation id's first bytes
	proxy.LoseAnswers(heartbeat, 1<<20)
	another := cfg // a member that reads another topic: the epoch moves, the partition does not
	another.Topics = []string{b.topic(1)}
	run(t, another, newIntake(t))
	eventually(t, "a refusal", func() bool { // the proxy may cut off a commit, too
		err = commit(2)
		return err != nil && strings.Contains(err.Error(), "a rebalance got in the way")
	})
	wantError(t, "refused", err, flow.ClassTransient)
	proxy.LoseAnswers(heartbeat, 0)
	eventually(t, "the commit", func() bool {
		if err := commit(3); err != nil { // nil, too, while the member joins anew and owns nothing
			return false
		}
		os, err := b.adm.FetchOffsets(t.Context(), cfg.Group)
		o, _ := os.Lookup(topic, 0)
		return err == nil && o.At == 3
	})
}

const memberEnv = "PENSTOCK_KAFKA_TEST_MEMBER"

// runMember is the process that TestMemberCrashes kills.
func runMember() {
	f := strings.Fields(os.Getenv(memberEnv))
	src, err := NewSource(SourceConfig{
		Connection: Connection{Brokers: f[:1]}, Topics: f[1:2], Group: f[2],
		SessionTimeout: 3 * time.Second, HeartbeatInterval: 300 * time.Millisecond, RebalanceTimeout: 10 * time.Second,
	})
	if err == nil {
		_, err = src.Open(context.Background())
	}
	if err == nil {
		err = src.Subscribe(context.Background(), newIntake(nil))
	}
	for err == nil {
		err = src.Read(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// The partitions of a killed process come back within the session timeout.
func TestMemberCrashes(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(4)
	b.fill(topic, 4, 0, 10)
	cfg := b.config(topic)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), memberEnv+"="+strings.Join([]string{b.addr, topic, cfg.Group}, " "))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	eventually(t, "the other process to join", func() bool {
		groups, err := b.adm.DescribeGroups(t.Context(), cfg.Group)
		return err == nil && len(groups[cfg.Group].Members) == 1 && groups[cfg.Group].State == "Stable"
	})
	in := newIntake(t)
	run(t, cfg, in)
	eventually(t, "half of the partitions", func() bool { return in.owns() == 2 })
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all partitions", func() bool { return in.owns() == 4 && in.count() == 40 })
}

// While the engine answers an assignment nothing is delivered, and Read ends
// with its context all the same. An assignment that ends before the answer is
// asked again.
func TestAssignmentThatTakesLong(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(4)
	b.fill(topic, 4, 0, 10)
	cfg := b.config(topic)
	in := newIntake(t)
	hold := make(chan struct{})
	entered := make(chan struct{}, 100)
	in.start = func(ctx context.Context, p flow.PartitionInfo) int64 {
		entered <- struct{}{}
		select {
		case <-hold:
			return p.Start
		case <-ctx.Done(): // a rebalance
			return -1
		}
	}
	src, _ := open(t, cfg)
	if err := src.Subscribe(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	if err := src.Read(ctx); err != nil || in.count() > 0 {
		t.Errorf("Read during Assigned: %v, %d records", err, in.count())
	}
	cancel()
	other := newIntake(t)
	run(t, cfg, other)
	eventually(t, "the other to own half", func() bool { return other.owns() == 2 })
	close(hold)
	go func() {
		for range entered { // drained until the test ends
		}
	}()
	t.Cleanup(func() { close(entered) })
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	for in.count() < 20 && ctx.Err() == nil {
		if err := src.Read(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if in.count() != 20 || in.owns() != 2 {
		t.Errorf("%d records of %d partitions", in.count(), in.owns())
	}
}

// Static members come back to their partitions without a rebalance.
func TestStaticMembership(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := b.topic(2)
	b.fill(topic, 2, 0, 5)
	cfg := b.config(topic)
	cfg.SessionTimeout = 20 * time.Second
	one, two := cfg, cfg
	one.InstanceID, two.InstanceID = "one", "two"
	in := newIntake(t)
	run(t, one, in)
	r := run(t, two, newIntake(t))
	eventually(t, "half of the partitions", func() bool { return in.owns() == 1 })
	r.stop()
	closeSource(t, r.Source)
	again := newIntake(t)
	run(t, two, again)
	eventually(t, "the other half again", func() bool { return again.owns() == 1 })
	if in.owns() != 1 {
		t.Errorf("the other member owns %d partitions", in.owns())
	}
}

func TestGroupErrors(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	in := newIntake(t)
	run(t, cfg, in)
	eventually(t, "the partition", func() bool { return in.owns() == 1 })
	other := cfg
	other.Assignor = "roundrobin"
	r := run(t, other, newIntake(t))
	eventually(t, "an error", func() bool { return r.fatal() != nil })
	wantError(t, "another assignor", r.fatal(), flow.ClassFatal, cfg.Group, "assignor")
	slow := b.config(cfg.Topics...)
	slow.SessionTimeout, slow.HeartbeatInterval = 24*time.Hour, time.Hour
	r = run(t, slow, newIntake(t))
	eventually(t, "an error", func() bool { return r.fatal() != nil })
	wantError(t, "session timeout", r.fatal(), flow.ClassFatal, slow.Group, "session_timeout of 24h")
}

func TestGroupBelongsToOneFlow(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(1))
	cfg.Flow = "first"
	b.fill(cfg.Topics[0], 1, 0, 5)
	src, _ := open(t, cfg)
	in := newIntake(t)
	r := read(t, src, in)
	eventually(t, "the records", func() bool { return in.count() == 5 })
	p0 := flow.Partition{Topic: cfg.Topics[0], ID: 0}
	if err := src.Commit(t.Context(), []flow.Position{{Partition: p0, Offset: 5, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	r.stop()
	closeSource(t, src)

	for name, wants := range map[string]bool{"first": false, "": false, "second": true} {
		other := cfg
		other.Flow = name
		s, err := NewSource(other)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Open(t.Context())
		closeSource(t, s)
		if wants {
			wantError(t, "another flow", err, flow.ClassFatal, "belongs to flow first", "flow "+name, cfg.Group)
		} else if err != nil {
			t.Errorf("flow %q: %v", name, err)
		}
	}

	// The same flow, but its positions are elsewhere, and behind.
	var log lockedBuffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	behind := newIntake(t)
	behind.start = func(context.Context, flow.PartitionInfo) int64 { return 2 }
	run(t, cfg, behind)
	eventually(t, "the records from 2 on", func() bool { return behind.count() == 3 })
	if !strings.Contains(log.String(), "past the position of this flow") {
		t.Errorf("no warning:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestNotKafka(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // what PostgreSQL says to Kafka's first request
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("E\x00\x00\x00\x90SFATAL\x00"))
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	src, err := NewSource(SourceConfig{Connection: Connection{Brokers: []string{l.Addr().String()}}, Topics: []string{"a"}, Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = src.Open(t.Context())
	wantError(t, "PostgreSQL", err, flow.ClassFatal, "is not a Kafka broker", "set tls", l.Addr().String())
	if strings.Contains(err.Error(), "BrokerMaxReadBytes") {
		t.Errorf("kgo's words: %v", err)
	}
	closeSource(t, src)
	_ = l.Close()
	<-done
}
