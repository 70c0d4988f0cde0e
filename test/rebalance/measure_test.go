package rebalance

import (
	"slices"
	"testing"
	"time"
)

// What is measured, on a history that is known.
func TestFigures(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	ms := func(ns ...int) []time.Duration {
		out := make([]time.Duration, len(ns))
		for i, n := range ns {
			out[i] = time.Duration(n) * time.Millisecond
		}
		return out
	}
	batch := func(member string, when int, from int64) event {
		return event{Member: member, Kind: written, At: at(when), From: from, Next: from + 1}
	}
	w := &window{from: at(100), to: at(200), before: []string{"a"}, after: []string{"a"}}

	l := &load{}
	l.acked[0] = []time.Time{at(80), at(90), at(130), at(150)}
	var f figures
	// One gap is over before the window; the next is 5 ms without the wait for
	// the producer; the last began before its record was there.
	f.staying(l, w, 0, []event{batch("a", 85, 0), batch("a", 95, 1), batch("a", 135, 2), batch("a", 260, 3)})
	if want := ms(5, 110); !slices.Equal(f.gaps, want) || !slices.Equal(f.largest, ms(110)) {
		t.Errorf("gaps %v, largest %v; want %v", f.gaps, f.largest, want)
	}

	w.after = []string{"b"}
	f.moving(w, 0, []event{
		batch("a", 95, 1),
		{Member: "a", Kind: revoked, At: at(110)},
		batch("a", 112, 2),
		{Member: "b", Kind: assigned, At: at(140)},
		batch("b", 170, 3),
		batch("b", 180, 4),
	})
	if !slices.Equal(f.fromRevoke, ms(60)) || !slices.Equal(f.fromAssign, ms(30)) {
		t.Errorf("from revoke %v, from assignment %v", f.fromRevoke, f.fromAssign)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	l := newLedger(2)
	settled := func(members ...string) bool {
		_, ok, _ := l.owners(members)
		return ok
	}
	for p := range int32(2) {
		l.add(event{Member: "a", Kind: assigned, At: at(0), Partition: p})
		l.add(event{Member: "a", Kind: written, At: at(1), Partition: p})
	}
	if !settled("a") || settled("a", "b") {
		t.Error("a has everything: settled without b, and not with b")
	}
	// b's pipe was faster.
	l.add(event{Member: "b", Kind: assigned, At: at(20), Partition: 1})
	l.add(event{Member: "a", Kind: revoked, At: at(10), Partition: 1})
	l.add(event{Member: "a", Kind: written, At: at(11), Partition: 1})
	if settled("a", "b") {
		t.Error("settled before b has written")
	}
	l.add(event{Member: "b", Kind: written, At: at(30), Partition: 1})
	if !settled("a", "b") || settled("a") {
		t.Error("both have one: settled, but not if b is dead")
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	ds := make([]time.Duration, 200)
	for i := range ds {
		ds[i] = time.Duration(200 - i)
	}
	for percent, want := range map[int]time.Duration{50: 100, 99: 198, 100: 200} {
		if got := percentile(ds, percent); got != want {
			t.Errorf("percentile %d is %d, want %d", percent, got, want)
		}
	}
}
