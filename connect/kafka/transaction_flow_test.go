package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// copyRig is a topic that is copied into another by the members of a group.
type copyRig struct {
	*broker
	source, target string
	partitions     int32
	cfg            SourceConfig
}

func newCopyRig(t testing.TB, partitions int32, protocol string) *copyRig {
	b := newBroker(t)
	r := &copyRig{broker: b, source: b.topic(partitions), target: b.topic(partitions), partitions: partitions}
	r.cfg = b.config(r.source)
	r.cfg.Protocol, r.cfg.RebalanceTimeout = protocol, 30*time.Second
	return r
}

// member is a process of the flow: a whole flow, with hooks.
type member struct {
	*flow.Flow
	src  *heldSource
	log  lockedBuffer
	stop func() // as SIGTERM does

	mu         sync.Mutex
	rebalances int
}

// memberOptions are what tests change of a member.
type memberOptions struct {
	instance string
	through  *testservice.TCPProxy
	timeout  time.Duration // of transactions
	letters  flow.DeadLetterQueue
	reject   string // value of records that become dead letters
	// offsets, if set, is called when a lane has produced what it has of the
	// partitions, before their offsets are added to the transaction.
	offsets func(ctx context.Context, ps []flow.Partition)
}

// start runs a member until it is stopped, or the test ends. An error that
// ends it fails the test.
func (r *copyRig) start(o memberOptions) *member {
	r.t.Helper()
	m := &member{}
	cfg := r.cfg
	cfg.InstanceID = o.instance
	cfg.Logger = slog.New(slog.NewTextHandler(&m.log, nil))
	src, err := NewSource(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	sink, err := NewSink(SinkConfig{Connection: cfg.Connection, Topic: r.target, TransactionTimeout: o.timeout, Logger: cfg.Logger})
	if err != nil {
		r.t.Fatal(err)
	}
	if s, ok := sink.(*TransactionalSink); ok && o.through != nil {
		src.extra, s.extra = []kgo.Opt{proxied(o.through.Addr())}, []kgo.Opt{proxied(o.through.Addr())}
	}
	m.src = &heldSource{Source: src, offsets: o.offsets, revoking: make(chan []flow.Partition, 100)}
	m.Flow, err = flow.New(flow.Config{
		Name: "copy", Source: m.src, Sink: sink, Lanes: 2, DeadLetters: o.letters, Logger: cfg.Logger, Observer: m,
		Transforms: func(int) ([]flow.Transform, error) { return []flow.Transform{rejecting(o.reject)}, nil },
		Retry:      flow.Retry{Initial: 20 * time.Millisecond, Max: time.Second},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			r.t.Errorf("%v\n%s", err, m.log.String())
		}
	}()
	m.stop = func() {
		cancel()
		<-done
	}
	r.t.Cleanup(func() {
		m.stop()
		if r.t.Failed() {
			r.t.Log(m.log.String())
		}
	})
	return m
}

// rejecting is a transform that rejects records with a value.
type rejecting string

func (v rejecting) Process(_ context.Context, b *flow.Batch) error {
	for i := b.Next(0); v != "" && i >= 0; i = b.Next(i + 1) {
		if string(b.Records[i].Value) == string(v) {
			b.Reject(i, flow.StageTransform, fmt.Errorf("%s is not wanted", v))
		}
	}
	return nil
}

func (m *member) BatchWritten(flow.BatchStats)            {}
func (m *member) Retrying(int, int, time.Duration, error) {}
func (m *member) Rebalanced(assigned, revoked int)        { m.mu.Lock(); m.rebalances++; m.mu.Unlock() }

func (m *member) rebalanced() int { m.mu.Lock(); defer m.mu.Unlock(); return m.rebalances }

// owns returns the partitions that the member has.
func (m *member) owns() (ids []int32) {
	for _, p := range m.Status().Partitions {
		ids = append(ids, p.ID)
	}
	return ids
}

// heldSource is a source at which lanes, on their way, can be held.
type heldSource struct {
	*Source
	offsets  func(context.Context, []flow.Partition)
	revoking chan []flow.Partition
}

func (s *heldSource) Subscribe(ctx context.Context, in flow.Intake) error {
	return s.Source.Subscribe(ctx, heldIntake{in, s})
}

func (s *heldSource) Member(ps []flow.Partition) (flow.Member, error) {
	if len(ps) > 0 && s.offsets != nil {
		s.offsets(context.Background(), ps)
	}
	return s.Source.Member(ps)
}

type heldIntake struct {
	flow.Intake
	s *heldSource
}

func (in heldIntake) Revoked(ctx context.Context, ps []flow.Partition, lost bool) {
	in.s.revoking <- ps
	in.Intake.Revoked(ctx, ps, lost)
}

// wantCopy waits until readers of committed records see so many records in
// each partition; each must be there once, and in order.
func (r *copyRig) wantCopy(records int) {
	r.t.Helper()
	want := map[int32][]string{}
	for id := range r.partitions {
		want[id] = numbers(0, records)
	}
	r.wantTarget(want)
}

func (r *copyRig) wantTarget(want map[int32][]string) {
	r.t.Helper()
	var got map[int32][]string
	all := 0
	for _, values := range want {
		all += len(values)
	}
	eventually(r.t, "all records to be copied", func() bool {
		got = map[int32][]string{}
		n := 0
		for _, rec := range r.committed(r.target) {
			got[rec.Partition] = append(got[rec.Partition], string(rec.Value))
			n++
		}
		return n >= all
	})
	for id := range r.partitions {
		wantValues(r.t, got[id], want[id])
	}
}

// stream produces into every partition, until it is stopped; stop returns how
// many records each has then.
func (r *copyRig) stream() (stop func() int) {
	quit, count := make(chan struct{}), make(chan int, 1)
	go func() {
		const each = 5
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		n := 0
		defer func() { count <- n }()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			var rs []*kgo.Record
			for p := range r.partitions {
				for i := n; i < n+each; i++ {
					rs = append(rs, &kgo.Record{Topic: r.source, Partition: p, Value: fmt.Append(nil, i)})
				}
			}
			if err := r.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
				r.t.Errorf("produce: %v", err)
				return
			}
			n += each
		}
	}()
	once := sync.OnceValue(func() int {
		close(quit)
		return <-count
	})
	r.t.Cleanup(func() { once() })
	return once
}

// moved waits until the member has written n records more.
func (r *copyRig) moved(m *member, n int64) {
	r.t.Helper()
	from := m.Status().Rows
	eventually(r.t, "more records", func() bool { return m.Status().Rows >= from+n })
}

func TestFlowsWhoseMembersComeAndGo(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			r := newCopyRig(t, 6, protocol)
			stop := r.stream()
			a := r.start(memberOptions{})
			r.moved(a, 50)
			b := r.start(memberOptions{})
			eventually(t, "b to own half", func() bool { return len(b.owns()) == 3 && len(a.owns()) == 3 })
			r.moved(a, 50)
			r.moved(b, 50)
			c := r.start(memberOptions{})
			eventually(t, "c to own a third", func() bool { return len(c.owns()) == 2 && len(a.owns()) == 2 })
			r.moved(c, 50)
			a.stop()
			eventually(t, "a's partitions to be shared", func() bool { return len(b.owns()) == 3 && len(c.owns()) == 3 })
			r.moved(b, 50)
			b.stop()
			eventually(t, "c to own all", func() bool { return len(c.owns()) == 6 })
			r.moved(c, 50)
			r.wantCopy(stop())
			for name, m := range map[string]*member{"a": a, "b": b, "c": c} {
				if s := m.Status(); s.Fenced > 0 {
					t.Errorf("%s: %d writes were fenced, and nobody was dead", name, s.Fenced)
				}
			}
		})
	}
}

// setSessionTimeout is for a group of the consumer protocol, whose members do
// not choose it.
func (b *broker) setSessionTimeout(group string, d time.Duration) {
	b.t.Helper()
	value := fmt.Sprint(d.Milliseconds())
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "consumer.session.timeout.ms", &value
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	resource.Configs = append(resource.Configs, config)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(b.t.Context(), b.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		b.t.Fatalf("session timeout of group %s: %v", group, err)
	}
}

// Static members are restarted one after the other, and no partition moves.
func TestFlowsOfStaticMembers(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			r := newCopyRig(t, 4, protocol)
			r.cfg.SessionTimeout = 30 * time.Second
			r.setSessionTimeout(r.cfg.Group, r.cfg.SessionTimeout)
			stop := r.stream()
			a, b := r.start(memberOptions{instance: "a"}), r.start(memberOptions{instance: "b"})
			eventually(t, "each to own half", func() bool { return len(a.owns()) == 2 && len(b.owns()) == 2 })
			r.moved(a, 50)
			r.moved(b, 50)
			rebalances := a.rebalanced()
			had := fmt.Sprint(b.owns())
			for range 2 {
				b.stop()
				b = r.start(memberOptions{instance: "b"})
				eventually(t, "b to be back", func() bool { return len(b.owns()) == 2 })
				r.moved(b, 50)
				r.moved(a, 50)
			}
			if now := fmt.Sprint(b.owns()); now != had || a.rebalanced() != rebalances {
				t.Errorf("b owned %s and owns %s; the other saw %d rebalances", had, now, a.rebalanced()-rebalances)
			}
			r.wantCopy(stop())
		})
	}
}

// A partition is taken away while all lanes are in the middle of a transaction:
// only the lane that has it is concerned.
func TestRevokeDuringATransaction(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		for _, outcome := range []string{"in time", "too late"} {
			t.Run(protocol+" "+outcome, func(t *testing.T) {
				t.Parallel()
				r := newCopyRig(t, 2, protocol)
				var mu sync.Mutex
				var gates [2]*gate // by partition, once; guarded by mu
				held := make(chan int32, 100)
				a := r.start(memberOptions{timeout: time.Minute, offsets: func(ctx context.Context, ps []flow.Partition) {
					mu.Lock()
					g := gates[ps[0].ID]
					gates[ps[0].ID] = nil
					mu.Unlock()
					if g != nil {
						held <- ps[0].ID
						<-g.opened
					}
				}})
				n := 0
				r.fill(r.source, 2, n, 1)
				n++
				eventually(t, "the first records", func() bool { return a.Status().Rows == 2 })
				lanes := [2]gate{newGate(), newGate()}
				mu.Lock()
				for id := range lanes {
					gates[id] = &lanes[id]
					t.Cleanup(lanes[id].open)
				}
				mu.Unlock()
				r.fill(r.source, 2, n, 1)
				n++
				receive(t, "one lane to be held", held)
				receive(t, "the other lane to be held", held)
				b := r.start(memberOptions{})
				moves := receive(t, "a revocation", a.src.revoking)[0].ID
				stays := 1 - moves
				lanes[stays].open()
				for i := range 20 {
					r.produce(&kgo.Record{Topic: r.source, Partition: stays, Value: fmt.Append(nil, n+i)})
					eventually(t, "the record of the lane that is not concerned", func() bool { return a.Status().Rows >= int64(2+1+i+1) })
				}
				if s := a.Status(); s.Retries > 0 || s.Fenced > 0 || s.Rows != 2+1+20 {
					t.Errorf("%d retries, %d fenced, %d rows before the revoked lane went on", s.Retries, s.Fenced, s.Rows)
				}
				for i := range 20 {
					r.produce(&kgo.Record{Topic: r.source, Partition: moves, Value: fmt.Append(nil, n+i)})
				}
				n += 20
				if outcome == "too late" {
					eventually(t, "the heir to have written", func() bool { return b.Status().Rows == 1+20 })
				}
				lanes[moves].open()
				r.wantCopy(n)
				if s := a.Status(); outcome == "in time" && (s.Retries > 0 || s.Fenced > 0 || s.Rows != 2+2+20) {
					t.Errorf("%d retries, %d fenced, %d rows", s.Retries, s.Fenced, s.Rows)
				} else if outcome == "too late" && (s.Retries > 0 || s.Fenced != 1 || s.Rows != 2+1+20) {
					t.Errorf("%d retries, %d fenced, %d rows: want one write fenced, and nothing of it written", s.Retries, s.Fenced, s.Rows)
				}
			})
		}
	}
}

// kick takes the member out of its group, as the coordinator does after a
// session timeout. It joins anew.
func (r *copyRig) kick(m *member) {
	r.t.Helper()
	id, _ := m.src.client().GroupMetadata()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = r.cfg.Group
	gone := kmsg.NewLeaveGroupRequestMember()
	gone.MemberID = id
	req.Members = append(req.Members, gone)
	resp, err := req.RequestWith(r.t.Context(), r.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// hold holds the next lane that is about to add its offsets, once it is armed.
type hold struct {
	held chan struct{} // tells when it does

	mu   sync.Mutex
	lane *gate // guarded by mu; nil: nothing is held
}

func newHold() *hold { return &hold{held: make(chan struct{}, 1)} }

// pass is memberOptions.offsets.
func (h *hold) pass(context.Context, []flow.Partition) {
	h.mu.Lock()
	lane := h.lane
	h.lane = nil
	h.mu.Unlock()
	if lane != nil {
		h.held <- struct{}{}
		<-lane.opened
	}
}

// arm returns the gate that lets the lane go on.
func (h *hold) arm(t *testing.T) *gate {
	lane := newGate()
	t.Cleanup(lane.open)
	h.mu.Lock()
	h.lane = &lane
	h.mu.Unlock()
	return &lane
}

// A partition is lost, and comes back to the same process, while a lane is
// between its records and their offsets. The group takes the offsets under the
// new membership; the records must not be there twice all the same.
func TestPartitionLostAndBackDuringATransaction(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"the member was thrown out", "an eager rebalance"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newCopyRig(t, 1, "classic")
			if how == "an eager rebalance" {
				r.cfg.Assignor = "range"
			}
			hold := newHold()
			a := r.start(memberOptions{timeout: time.Minute, offsets: hold.pass})
			r.fill(r.source, 1, 0, 5)
			eventually(t, "the first records", func() bool { return a.Status().Rows == 5 })
			lane := hold.arm(t)
			r.fill(r.source, 1, 5, 5)
			receive(t, "the lane to be held", hold.held)
			before := a.rebalanced()
			if r.cfg.Assignor == "range" {
				a.src.client().ForceRebalance()
			} else {
				r.kick(a)
			}
			eventually(t, "the partition to be back", func() bool { return a.rebalanced() >= before+2 && len(a.owns()) == 1 })
			lane.open()
			r.fill(r.source, 1, 10, 1) // follows what the lane does with the others
			r.wantCopy(11)
		})
	}
}

// A member that is behind claims what another one has by now.
func TestClaimOfWhatAnotherMemberOwns(t *testing.T) {
	t.Parallel()
	r := newCopyRig(t, 2, "classic")
	a, b := r.start(memberOptions{}), r.start(memberOptions{})
	eventually(t, "each to own one", func() bool { return len(a.owns()) == 1 && len(b.owns()) == 1 })
	r.fill(r.source, 2, 0, 5)
	r.wantCopy(5)
	made, err := NewSink(SinkConfig{Connection: r.cfg.Connection, Topic: r.target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close(context.Background()) })
	s, ok := made.(*TransactionalSink)
	if !ok {
		t.Fatalf("NewSink made a %T", made)
	}
	md, err := r.adm.BrokerMetadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context(), flow.Setup{Flow: "copy", ClusterID: md.Cluster, Source: "x", Lanes: 1, Member: a.src.Source.Member}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Claim(t.Context(), 0, []flow.Partition{{Topic: r.source, ID: b.owns()[0]}})
	wantError(t, "the claim", err, flow.ClassTransient, "taking over partitions", "has taken")
	r.fill(r.source, 2, 5, 5)
	r.wantCopy(10)
	if n := b.Status().Fenced; n > 0 {
		t.Errorf("the owner was fenced %d times", n)
	}
}

// A batch of dead letters alone: the queue outside the sink gets them after the
// group has taken the positions, or somebody who has lost the partition would
// put them, too.
func TestDeadLettersFollowThePositions(t *testing.T) {
	t.Parallel()
	r := newCopyRig(t, 1, "classic")
	letters := &slowLetters{taking: make(chan struct{}, 10), taken: newGate()}
	letters.taken.open()
	hold := newHold()
	a := r.start(memberOptions{letters: letters, reject: "poison", offsets: hold.pass})
	r.fill(r.source, 1, 0, 5)
	eventually(t, "the first records", func() bool { return a.Status().Rows == 5 })
	lane := hold.arm(t)
	r.produce(&kgo.Record{Topic: r.source, Value: []byte("poison")})
	receive(t, "the lane to be held", hold.held)
	if n := len(letters.taking); n > 0 {
		t.Errorf("%d dead letters were put before the positions were accepted", n)
	}
	lane.open()
	receive(t, "the dead letter", letters.taking)
	r.fill(r.source, 1, 5, 1)
	r.wantCopy(6)
}

// slowLetters takes dead letters as slowly as a test wants.
type slowLetters struct {
	taking chan struct{}
	taken  gate
}

func (*slowLetters) Open(context.Context, flow.Setup) error { return nil }
func (*slowLetters) Close(context.Context) error            { return nil }
func (q *slowLetters) Put(context.Context, []flow.DeadLetter) error {
	q.taking <- struct{}{}
	<-q.taken.opened
	return nil
}

// A member dies between its offsets and EndTxn. The group's offsets are unstable
// then, and kgo would wait for them until the transaction's timeout.
func TestMemberDiesBeforeEndTxn(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			const timeout = 5 * time.Minute
			r := newCopyRig(t, 2, protocol)
			proxy := testservice.Proxy(t, r.addr)
			letters := &slowLetters{taking: make(chan struct{}, 10), taken: newGate()}
			a := r.start(memberOptions{through: proxy, timeout: timeout, letters: letters, reject: "poison"})
			t.Cleanup(letters.taken.open)
			r.fill(r.source, 2, 0, 10)
			eventually(t, "the first records", func() bool { return a.Status().Rows == 20 })
			r.produce(&kgo.Record{Topic: r.source, Partition: 1, Value: []byte("10")}, &kgo.Record{Topic: r.source, Partition: 1, Value: []byte("poison")})
			receive(t, "a dead letter", letters.taking) // offsets are in, and the end is not
			b := r.start(memberOptions{timeout: timeout, letters: letters, reject: "never"})
			receive(t, "a revocation", a.src.revoking)
			start := time.Now()
			proxy.Cut()
			r.fill(r.source, 1, 10, 10)
			want := map[int32][]string{0: numbers(0, 20), 1: append(numbers(0, 11), "poison")}
			r.wantTarget(want)
			if took := time.Since(start); took > timeout/4 {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(b.log.String(), "ending the open transaction of a predecessor") {
				t.Error("nothing was in the heir's way")
			}
			// The dead one was only away.
			proxy.Restore()
			letters.taken.open()
			eventually(t, "the zombie to be fenced", func() bool { return a.Status().Fenced > 0 })
			r.wantTarget(want)
		})
	}
}
