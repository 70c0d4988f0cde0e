package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/testservice"
)

// groupMember is a real member of a group.
type groupMember struct {
	cl    *kgo.Client
	mu    sync.Mutex
	owned map[flow.Partition]bool
	// fixed, if set, is what member answers from then on: that of a process
	// that was frozen, and does not know what has happened.
	fixed *flow.Member
	asked int
}

func joinGroup(t testing.TB, b *broker, group, topic string, opts ...kgo.Opt) *groupMember {
	t.Helper()
	m := &groupMember{owned: map[flow.Partition]bool{}}
	set := func(own bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, ps map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for topic, ids := range ps {
				for _, id := range ids {
					m.owned[flow.Partition{Topic: topic, ID: id}] = own
				}
			}
		}
	}
	m.cl = brokerAt(t, b.addr, append(opts, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(set(true)), kgo.OnPartitionsRevoked(set(false)), kgo.OnPartitionsLost(set(false)),
		kgo.HeartbeatInterval(200*time.Millisecond), kgo.SessionTimeout(6*time.Second))...).cl
	return m
}

func (m *groupMember) member(ps []flow.Partition) (flow.Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.fixed != nil {
		return *m.fixed, nil
	}
	for _, p := range ps {
		if !m.owned[p] {
			return flow.Member{}, &flow.FencedError{Partitions: []flow.Partition{p}}
		}
	}
	return m.now(), nil
}

func (m *groupMember) now() flow.Member {
	id, generation := m.cl.GroupMetadata()
	return flow.Member{ID: id, Generation: generation}
}

func (m *groupMember) owns(p flow.Partition) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owned[p]
}

// freeze makes the member answer what it knows now for ever.
func (m *groupMember) freeze() flow.Member {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fixed = &now
	return now
}

// txnRig is a source topic, a target topic, and processes of one flow.
type txnRig struct {
	*broker
	conn                  Connection // of the sinks
	flow                  string
	group, source, target string
	partitions            int32
}

func newTxnRig(t testing.TB, partitions int32) *txnRig {
	b := newBroker(t)
	return &txnRig{
		broker: b, conn: Connection{Brokers: []string{b.addr}}, flow: "f",
		group: testservice.Name(t), source: b.topic(partitions), target: b.topic(partitions), partitions: partitions,
	}
}

func (r *txnRig) part(id int32) flow.Partition { return flow.Partition{Topic: r.source, ID: id} }

// process is a sink of one process of the flow.
type txnProcess struct {
	*TransactionalSink
	w    *transactor
	held map[flow.Partition]flow.Checkpoint
}

// start opens a sink; the group's first offsets are there when it returns.
func (r *txnRig) start(member func([]flow.Partition) (flow.Member, error), extra ...kgo.Opt) *txnProcess {
	r.t.Helper()
	p, err := r.open(SinkConfig{Connection: r.conn, Topic: r.target}, member, extra...)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *txnRig) open(cfg SinkConfig, member func([]flow.Partition) (flow.Member, error), extra ...kgo.Opt) (*txnProcess, error) {
	r.t.Helper()
	made, err := NewSink(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	s, ok := made.(*TransactionalSink)
	if !ok {
		r.t.Fatalf("NewSink made a %T", made)
	}
	s.extra = extra
	r.t.Cleanup(func() { _ = s.Close(context.Background()) })
	md, err := r.adm.BrokerMetadata(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	setup := flow.Setup{Flow: r.flow, ClusterID: md.Cluster, Source: "group g", Lanes: 1, Member: func(ps []flow.Partition) (flow.Member, error) {
		m, err := member(ps)
		m.Group = r.group
		return m, err
	}}
	if err := s.Open(r.t.Context(), setup); err != nil {
		return nil, err
	}
	if err := s.Init(r.t.Context(), func(context.Context) ([]flow.Position, error) {
		var ps []flow.Position
		for id := range r.partitions {
			ps = append(ps, flow.Position{Partition: r.part(id), TopicID: "id", LeaderEpoch: -1})
		}
		return ps, nil
	}); err != nil {
		return nil, err
	}
	w, err := s.Writer(0)
	if err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { _ = w.Close() })
	lane, ok := w.(*transactor)
	if !ok {
		r.t.Fatalf("Writer made a %T", w)
	}
	return &txnProcess{TransactionalSink: s, w: lane, held: map[flow.Partition]flow.Checkpoint{}}, nil
}

func (r *txnRig) claim(p *txnProcess, ids ...int32) {
	r.t.Helper()
	var ps []flow.Partition
	for _, id := range ids {
		ps = append(ps, r.part(id))
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	got, err := p.Claim(ctx, 0, ps)
	if err != nil {
		r.t.Fatalf("claim: %v", err)
	}
	for i := range got {
		p.held[ps[i]] = got[i]
	}
}

// batch has one record with each of the values in the partition.
func (p *txnProcess) batch(part flow.Partition, values ...string) *flow.Batch {
	c := p.held[part]
	records := make([]flow.Record, len(values))
	for i, v := range values {
		records[i] = flow.Record{Value: []byte(v), Offset: c.Offset + int64(i), Timestamp: 1_700_000_000_000_000}
	}
	return flow.NewBatch(records, []flow.Part{{
		Partition: part, TopicID: "id", From: c.Offset, Next: c.Offset + int64(len(values)), LeaderEpoch: -1, Owner: c.Owner, End: len(values),
	}})
}

func (r *txnRig) write(p *txnProcess, id int32, values ...string) {
	r.t.Helper()
	part := r.part(id)
	b := p.batch(part, values...)
	if err := p.w.Write(r.t.Context(), b); err != nil {
		r.t.Fatalf("write: %v", err)
	}
	p.wrote(b)
}

func (p *txnProcess) wrote(b *flow.Batch) {
	part := &b.Parts[0]
	c := p.held[part.Partition]
	c.Offset = part.Next
	p.held[part.Partition] = c
}

func (r *txnRig) wantValues(want ...string) {
	r.t.Helper()
	var got []string
	for _, rec := range r.committed(r.target) {
		got = append(got, string(rec.Value))
	}
	slices.Sort(got)
	slices.Sort(want)
	wantValues(r.t, got, want)
}

func (r *txnRig) wantFenced(err error) {
	r.t.Helper()
	if _, ok := errors.AsType[*flow.FencedError](err); !ok {
		r.t.Fatalf("want a *flow.FencedError, have %v", err)
	}
}

// TestZombieIsFencedByTheGroup: a frozen member, which the group has gone on
// without, cannot commit, and readers of committed records see nothing of it.
func TestZombieIsFencedByTheGroup(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	zombie := joinGroupAfter(t, r)
	eventually(t, "the assignment", func() bool { return zombie.owns(r.part(0)) })
	a := r.start(zombie.member)
	r.claim(a, 0)
	r.write(a, 0, "a1", "a2")

	old := zombie.freeze()
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID = r.group, old.ID
	gone := kmsg.NewLeaveGroupRequestMember()
	gone.MemberID = old.ID
	leave.Members = append(leave.Members, gone)
	zombie.cl.Close()
	if _, err := leave.RequestWith(t.Context(), r.cl); err != nil {
		t.Fatal(err)
	}
	heir := joinGroup(t, r.broker, r.group, r.source)
	eventually(t, "the heir's assignment", func() bool { return heir.owns(r.part(0)) })
	b := r.start(heir.member)
	r.wantFenced(a.w.Write(t.Context(), a.batch(r.part(0), "zombie before the claim")))
	r.claim(b, 0)
	if got := b.held[r.part(0)]; got.Offset != 2 || got.Owner != 2 || got.TopicID != "id" {
		t.Fatalf("the heir took over %+v, want offset 2, owner 2", got)
	}
	r.wantFenced(a.w.Write(t.Context(), a.batch(r.part(0), "zombie after the claim")))
	r.write(b, 0, "b3")
	r.wantFenced(a.w.Write(t.Context(), a.batch(r.part(0), "zombie after a write")))
	r.write(b, 0, "b4")
	r.wantValues("a1", "a2", "b3", "b4")
}

// joinGroupAfter joins when the first offsets are there, as the engine does.
func joinGroupAfter(t testing.TB, r *txnRig, opts ...kgo.Opt) *groupMember {
	t.Helper()
	first := r.start(func([]flow.Partition) (flow.Member, error) { return nobody, nil })
	_ = first.Close(t.Context())
	return joinGroup(t, r.broker, r.group, r.source, opts...)
}

// TestRebalanceDoesNotAbortWhatIsKept: a generation that has passed is asked for
// again, and the transaction is committed under the next one.
func TestRebalanceDoesNotAbortWhatIsKept(t *testing.T) {
	t.Parallel()
	for protocol, opts := range map[string][]kgo.Opt{"classic": nil, protocolConsumer: {kgo.ServerSideBalancer()}} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			r := newTxnRig(t, 2)
			m := joinGroupAfter(t, r, opts...)
			eventually(t, "the assignment", func() bool { return m.owns(r.part(0)) && m.owns(r.part(1)) })
			old := m.now()
			asked := 0
			p := r.start(func(ps []flow.Partition) (flow.Member, error) {
				if asked++; asked%3 == 2 && ps != nil {
					return old, nil // as a member that has not heard of the rebalance yet
				}
				return m.member(ps)
			})
			r.claim(p, 0, 1)
			other := joinGroup(t, r.broker, r.group, r.source, opts...)
			eventually(t, "a partition moves", func() bool { return other.owns(r.part(0)) || other.owns(r.part(1)) })
			kept, lost := int32(0), int32(1)
			if !m.owns(r.part(0)) {
				kept, lost = 1, 0
			}
			for i := range 6 {
				r.write(p, kept, fmt.Sprint("kept ", i))
			}
			r.wantFenced(p.w.Write(t.Context(), p.batch(r.part(lost), "lost")))
			r.write(p, kept, "kept 6")
			r.wantValues("kept 0", "kept 1", "kept 2", "kept 3", "kept 4", "kept 5", "kept 6")
		})
	}
}

// TestFrozenInsideATransaction: the heir does not wait for the transaction's
// timeout, and the predecessor finds itself fenced when it thaws.
func TestFrozenInsideATransaction(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	anyone := func([]flow.Partition) (flow.Member, error) { return nobody, nil }
	a := r.start(anyone)
	r.claim(a, 0)
	r.write(a, 0, "a1")
	b := a.batch(r.part(0), "frozen")
	ctx := t.Context()
	if err := errors.Join(a.w.begin(ctx, b, nil), a.w.produce(ctx, b, nil), a.w.offsets(ctx, b)); err != nil {
		t.Fatal(err)
	}
	heir := r.start(anyone)
	start := time.Now()
	r.claim(heir, 0)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("taking over took %s: it waited for the transaction's timeout", took)
	}
	if got := heir.held[r.part(0)]; got.Offset != 1 {
		t.Fatalf("taken over at %d, want 1: the frozen transaction was aborted", got.Offset)
	}
	r.write(heir, 0, "b2")
	r.wantFenced(a.w.commit(ctx, b))
	r.write(heir, 0, "b3")
	r.wantValues("a1", "b2", "b3")
}

// TestLostAnswerToEndTxn: the transaction was committed, and the writer could
// not know. The same batch is not written again.
func TestLostAnswerToEndTxn(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	proxy := testservice.Proxy(t, r.addr)
	p := r.start(func([]flow.Partition) (flow.Member, error) { return nobody, nil }, proxied(proxy.Addr()))
	r.claim(p, 0)
	r.write(p, 0, "1")
	endTxn := []byte{0, 26, 0, 5, 0, 0} // key, version, the correlation id's first bytes
	for n := range 3 {
		value := fmt.Sprint(n + 2)
		proxy.LoseAnswers(endTxn, 1<<20)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		b := p.batch(r.part(0), value)
		before := proxy.Lost()
		err := p.w.Write(ctx, b)
		cancel()
		if proxy.Lost() == before {
			t.Fatalf("no answer was lost: %v", err)
		}
		proxy.LoseAnswers(endTxn, 0)
		for attempt := 0; err != nil; attempt++ {
			if !flow.IsTransient(err) || attempt > 10 {
				t.Fatalf("attempt %d: %v", attempt, err)
			}
			err = p.w.Write(t.Context(), b)
		}
		p.wrote(b)
	}
	r.wantValues("1", "2", "3", "4")
}

// TestClaimOfAMemberThatIsNone: the group never says yes, and the lane is to stop.
func TestClaimOfAMemberThatIsNone(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	p := r.start(func(ps []flow.Partition) (flow.Member, error) {
		return flow.Member{ID: "nobody-knows-it", Generation: 7}, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	_, err := p.Claim(ctx, 0, []flow.Partition{r.part(0)})
	wantError(t, "the claim", err, flow.ClassTransient, "a rebalance is under way")
	if ctx.Err() != nil {
		t.Error("it went on until its context ended")
	}
}

// TestGroupWithoutOffsets: a flow whose positions the broker has forgotten begins
// anew, and says so; one that goes on says nothing.
func TestGroupWithoutOffsets(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	for _, warns := range []bool{true, false} {
		var log lockedBuffer
		cfg := SinkConfig{Connection: r.conn, Topic: r.target, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		if _, err := r.open(cfg, func([]flow.Partition) (flow.Member, error) { return nobody, nil }); err != nil {
			t.Fatal(err)
		}
		if said := strings.Contains(log.String(), "the flow begins anew"); said != warns {
			t.Errorf("want a warning: %t; the log is\n%s", warns, log.String())
		}
	}
}

// TestClaimInAGroupOfAnotherFlow: two flows have begun in an empty group, and the
// other one's first offsets are those that count.
func TestClaimInAGroupOfAnotherFlow(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	p := r.start(func([]flow.Partition) (flow.Member, error) { return nobody, nil })
	p.setup.Flow = "another"
	_, err := p.Claim(t.Context(), 0, []flow.Partition{r.part(0)})
	wantError(t, "the claim", err, flow.ClassFatal, "belongs to flow f", "this is flow another", "where it would go on, and lost then")
}

// TestStalePositionsSetNothingBack: a lane moves positions of a partition that
// was taken over by another lane of the process meanwhile.
func TestStalePositionsSetNothingBack(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	var between func()
	p := r.start(func([]flow.Partition) (flow.Member, error) {
		if do := between; do != nil {
			between = nil
			do()
		}
		return nobody, nil
	})
	r.claim(p, 0)
	r.write(p, 0, "1")
	c := p.held[r.part(0)]
	stale := flow.NewBatch(nil, []flow.Part{{Partition: r.part(0), TopicID: "id", From: c.Offset, Next: c.Offset + 1, LeaderEpoch: -1, Owner: c.Owner}})
	w, err := p.Writer(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	between = func() { // as the stale one asks for its membership
		r.claim(p, 0)
		r.write(p, 0, "2", "3", "4")
	}
	r.wantFenced(w.Write(t.Context(), stale))
	if got, err := p.Read(t.Context(), []flow.Partition{r.part(0)}); err != nil || got[0].Offset != 4 {
		t.Errorf("the position is %+v, %v; want offset 4", got, err)
	}
	r.write(p, 0, "5")
	r.wantValues("1", "2", "3", "4", "5")
}

func TestTransactionalSinkNeedsTheSourcesCluster(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 1)
	for what, setup := range map[string]flow.Setup{
		"no group": {Flow: "f", Lanes: 1},
		"another cluster": {Flow: "f", Lanes: 1, ClusterID: "another", Member: func([]flow.Partition) (flow.Member, error) {
			return flow.Member{Group: r.group}, nil
		}},
	} {
		s, err := NewSink(SinkConfig{Connection: Connection{Brokers: []string{r.addr}}, Topic: r.target})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Open(t.Context(), setup)
		if flow.ClassOf(err) != flow.ClassFatal || !strings.Contains(err.Error(), "at_least_once") {
			t.Errorf("%s: want a fatal error that names at_least_once, have %v", what, err)
		}
		_ = s.Close(t.Context())
	}
}

// TestFrozenWhileInserting: a process that adds new partitions is frozen at any
// moment of it. Another adds them, too, takes one over and writes. When the first
// one thaws it sets nothing back.
func TestFrozenWhileInserting(t *testing.T) {
	t.Parallel()
	anyone := func([]flow.Partition) (flow.Member, error) { return nobody, nil }
	for _, moment := range []string{"before it begins", "in its transaction"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			r := newTxnRig(t, 2)
			r.partitions = 1 // the other one appears
			a, b := r.start(anyone), r.start(anyone)
			position := flow.Position{Partition: r.part(1), TopicID: "id", LeaderEpoch: -1}
			parts := []flow.Part{{Partition: r.part(1), TopicID: "id", LeaderEpoch: -1}}
			begin := func() *insertion {
				var in *insertion
				eventually(t, "an insertion", func() bool {
					var err error
					if in, err = a.beginInsertion(t.Context(), parts); err != nil && !endedByOthers(err) { // as Insert does
						t.Fatal(err)
					}
					return err == nil
				})
				return in
			}
			var in *insertion
			if moment == "in its transaction" {
				in = begin()
			}
			if err := b.Insert(t.Context(), []flow.Position{position}); err != nil {
				t.Fatal(err)
			}
			r.claim(b, 1)
			r.write(b, 1, "b1", "b2")
			if in == nil {
				in = begin()
			}
			if err := in.end(t.Context()); !endedByOthers(err) {
				t.Errorf("what was overtaken ended with %v", err)
			}
			if err := a.Insert(t.Context(), []flow.Position{position}); err != nil {
				t.Errorf("again: %v", err)
			}
			r.claim(a, 1)
			if got := a.held[r.part(1)]; got.Offset != 2 || got.Owner != 2 {
				t.Errorf("taken over at %+v, want offset 2, owner 2", got)
			}
			r.write(a, 1, "a3")
			r.wantValues("b1", "b2", "a3")
		})
	}
}

// TestInsertIntoAnOlderCluster: one where the group has to be added to a transaction.
func TestInsertIntoAnOlderCluster(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 2)
	r.partitions = 1 // the other one appears
	p := r.start(func([]flow.Partition) (flow.Member, error) { return nobody, nil })
	if err := p.useImplicit(false); err != nil {
		t.Fatal(err)
	}
	if err := p.Insert(t.Context(), []flow.Position{{Partition: r.part(1), TopicID: "id", Offset: 7, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	r.claim(p, 1)
	if got := p.held[r.part(1)]; got.Offset != 7 || got.Owner != 1 {
		t.Errorf("taken over at %+v, want offset 7, owner 1", got)
	}
}

// Two processes of a flow whose group nobody joins write the same partitions: whoever took them over last
// writes, the other one writes nothing, whatever state it is in.
func TestTwoProcessesWithoutAGroup(t *testing.T) {
	t.Parallel()
	anyone := func([]flow.Partition) (flow.Member, error) { return nobody, nil }
	for name, before := range map[string]func(*txnRig, *txnProcess){
		"that has written":         func(r *txnRig, a *txnProcess) { r.write(a, 0, "a1") },
		"that has written nothing": func(*txnRig, *txnProcess) {},
		"without a client": func(r *txnRig, a *txnProcess) {
			r.write(a, 0, "a1")
			a.w.drop()
		},
		"that moves positions": func(r *txnRig, a *txnProcess) { r.write(a, 0, "a1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxnRig(t, 2)
			a := r.start(anyone)
			r.claim(a, 0, 1)
			before(r, a)
			want := []string{"b", "a kept"}
			if a.held[r.part(0)].Offset > 0 {
				want = append(want, "a1")
			}
			b := r.start(anyone)
			r.claim(b, 0)
			late := a.batch(r.part(0), "late")
			if name == "that moves positions" {
				late.Reject(0, flow.StageWrite, context.Canceled)
			}
			r.wantFenced(a.w.Write(t.Context(), late))
			r.wantFenced(a.w.Write(t.Context(), late))
			r.write(b, 0, "b")
			r.write(a, 1, "a kept")
			r.wantValues(want...)
			// The job is done: nothing is kept of it.
			if err := b.Forget(t.Context(), b.setup); err != nil {
				t.Fatal(err)
			}
			r.wantFenced(a.w.Write(t.Context(), a.batch(r.part(1), "after the end")))
		})
	}
}
