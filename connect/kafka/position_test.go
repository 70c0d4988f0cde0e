package kafka

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

func offsetsOf(ps []flow.Position) (out []int64) {
	for _, p := range ps {
		out = append(out, p.Offset)
	}
	return out
}

func TestPositionsOfATime(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := b.config(b.topic(2))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		b.produce(&kgo.Record{Topic: cfg.Topics[0], Timestamp: at.Add(time.Duration(i) * time.Second)})
	}
	src, log := open(t, cfg)
	for _, c := range []struct {
		at   time.Time
		want []int64
	}{
		{at.Add(2 * time.Second), []int64{2, 0}},
		{at.Add(2*time.Second + 1), []int64{3, 0}},
		{at.Add(-time.Hour), []int64{0, 0}},
		{at.Add(time.Hour), []int64{5, 0}},
		{time.Time{}, []int64{0, 0}},
	} {
		got, err := src.At(t.Context(), c.at)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, offsetsOf(got)); diff != "" {
			t.Errorf("%s: %s", c.at, diff)
		}
		if got[0].TopicID != log.Partitions[0].TopicID {
			t.Errorf("topic id %q", got[0].TopicID)
		}
	}
}

// stored are the offsets that the next start of the flow would find.
func stored(t testing.TB, cfg SourceConfig) (out []int64) {
	t.Helper()
	_, log := open(t, cfg)
	for i := range log.Partitions {
		out = append(out, log.Partitions[i].Committed)
	}
	return out
}

func TestPositionsOfASourceAreSet(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			cfg := b.config(b.topic(2))
			cfg.Flow, cfg.Protocol = "f", protocol
			b.fill(cfg.Topics[0], 2, 0, 5)
			setup := flow.Setup{Flow: "f"}
			src, _ := open(t, cfg)
			if ms, err := src.Members(t.Context()); err != nil || ms != nil {
				t.Errorf("members of no group: %v, %v", ms, err)
			}
			if err := src.Forget(t.Context(), setup); err != nil {
				t.Errorf("nothing to forget: %v", err)
			}
			to := []flow.Position{{Partition: flow.Partition{Topic: cfg.Topics[0], ID: 1}, Offset: 3, LeaderEpoch: -1}}
			if err := src.SetPositions(t.Context(), setup, to); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]int64{-1, 3}, stored(t, cfg)); diff != "" {
				t.Error(diff)
			}
			wantError(t, "another flow", src.SetPositions(t.Context(), flow.Setup{Flow: "g"}, to), flow.ClassFatal, "belongs to flow f")
			wantError(t, "another flow", src.Forget(t.Context(), flow.Setup{Flow: "g"}), flow.ClassFatal, "belongs to flow f")

			in := newIntake(t)
			r := run(t, cfg, in)
			eventually(t, "a member", func() bool { return in.count() > 0 })
			ms, err := src.Members(t.Context())
			if err != nil || len(ms) != 1 || !strings.HasPrefix(ms[0], "penstock at 127.0.0.1, member ") {
				t.Errorf("members %q, %v", ms, err)
			}
			wantError(t, "while it runs", src.SetPositions(t.Context(), setup, to), flow.ClassFatal, cfg.Group, strings.Join(ms, ""), "stop the flow")
			wantError(t, "while it runs", src.Forget(t.Context(), setup), flow.ClassFatal, cfg.Group, strings.Join(ms, ""), "stop the flow")
			r.stop()
			closeSource(t, r.Source)

			if err := src.Forget(t.Context(), setup); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]int64{-1, -1}, stored(t, cfg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A transaction that a predecessor has left open is ended before positions are set, and its lane, if it
// comes back, writes nothing.
func TestPositionsOfATransactionalSinkAreSet(t *testing.T) {
	t.Parallel()
	r := newTxnRig(t, 2)
	anyone := func([]flow.Partition) (flow.Member, error) { return nobody, nil }
	p := r.start(anyone)
	r.claim(p, 0, 1)
	r.write(p, 0, "a", "b")
	owner := p.held[r.part(0)].Owner
	b := p.batch(r.part(0), "c")
	if err := errors.Join(p.w.begin(t.Context(), b, nil), p.w.produce(t.Context(), b, nil)); err != nil {
		t.Fatal(err)
	}
	made, err := NewSink(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	sink, ok := made.(*TransactionalSink)
	if !ok {
		t.Fatalf("%T", made)
	}
	inspect := func() []int64 {
		t.Helper()
		got, err := sink.Inspect(t.Context(), p.setup)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b flow.Position) int { return int(a.ID - b.ID) })
		return offsetsOf(got)
	}
	if diff := cmp.Diff([]int64{2, 0}, inspect()); diff != "" {
		t.Error(diff)
	}
	if err := sink.SetPositions(t.Context(), p.setup, []flow.Position{{Partition: r.part(0), Offset: 1, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{1, 0}, inspect()); diff != "" {
		t.Error(diff)
	}
	kept, _, err := p.kept(t.Context(), true)
	if k := kept[r.part(0)]; err != nil || k.Owner != owner+1 || k.TopicID != "id" || !k.marked || k.flow != "f" {
		t.Errorf("left with the offset: %+v, %v", k, err)
	}
	if err := p.w.cl.EndTransaction(t.Context(), kgo.TryCommit); !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
		t.Errorf("the predecessor commits: %v", err)
	}
	other := p.setup
	other.Flow = "g"
	wantError(t, "another flow", sink.Forget(t.Context(), other), flow.ClassFatal, "belongs to flow f")
	other = p.setup
	other.Source = "other topics"
	wantError(t, "another meaning", sink.SetPositions(t.Context(), other, []flow.Position{{Partition: r.part(0)}}), flow.ClassFatal, "mean something else")
	for range 2 { // nothing to forget the second time
		if err := sink.Forget(t.Context(), p.setup); err != nil {
			t.Fatal(err)
		}
	}
	if got := inspect(); got != nil {
		t.Errorf("left: %v", got)
	}
	r.wantValues("a", "b")
}

func TestCoordinatorIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		err := awaitCoordinator(t.Context(), func() error {
			if n++; n < 5 {
				return kerr.CoordinatorNotAvailable
			}
			return nil
		})
		if err != nil || n != 5 {
			t.Errorf("%d times: %v", n, err)
		}
		start := time.Now()
		if err := awaitCoordinator(t.Context(), func() error { return kerr.NotCoordinator }); !errors.Is(err, kerr.NotCoordinator) || time.Since(start) > answerTimeout {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if err := awaitCoordinator(t.Context(), func() error { n++; return context.Canceled }); !errors.Is(err, context.Canceled) || n != 6 {
			t.Errorf("another error: %v", err)
		}
	})
}
