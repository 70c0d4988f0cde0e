package crash

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// TestCompactedTopic compacts the topic while the flow is stopped, behind and at
// its position: it goes on with what is left. The control takes the number of
// its rows for its position, which is right only in a log without gaps.
func TestCompactedTopic(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t), "cleanup.policy=compact", "segment.ms=500", "min.cleanable.dirty.ratio=0.001"), rig.Postgres(t))
	r.Topic.Produce(2000)
	p := r.Start("")
	r.Settle(time.Minute, p)
	p.Stop(15 * time.Second)
	read := places(r)
	r.Topic.Produce(2000)
	rig.Pause(t.Context(), time.Second) // the segments are old enough to be closed
	r.Topic.Produce(100)                // and are, for these
	var log []rig.Place
	if !rig.Poll(t.Context(), time.Minute, func() bool {
		before := len(log)
		log = readable(r.Topic)
		return len(log) == before && len(log) < 1000
	}) {
		t.Fatalf("%d of 4100 records are left: the topic was not compacted", len(log))
	}
	want := slices.Clone(read)
	last := map[int32]int64{}
	for _, at := range read {
		last[at.Part] = max(last[at.Part], at.Off)
	}
	for _, at := range log {
		if at.Off > last[at.Part] {
			want = append(want, at)
		}
	}
	p = r.Start("")
	if !rig.Poll(t.Context(), time.Minute, func() bool { return !p.Alive() || len(places(r)) >= len(want) }) || !p.Alive() {
		t.Fatalf("%d of %d records, process alive: %t\n%s", len(places(r)), len(want), p.Alive(), p.Log.Tail())
	}
	p.Stop(15 * time.Second)
	sort(want)
	if got := places(r); !slices.Equal(got, want) {
		t.Errorf("%d records were written, want %d", len(got), len(want))
	}
	t.Logf("%d of 4100 records are left in the log; %d were written", len(log), len(want))
	wantAtEnd(r)

	control := rig.New(t, r.Topic, rig.Postgres(t)).Control("count")
	control.Group += "_naive"
	for range 2 {
		p := control.Start("")
		control.WantProgress(20, 30*time.Second, p)
		p.Kill()
		if control.Target.Doubled() {
			break
		}
	}
	if !control.WantCaught(0) {
		t.Fatal("counting rows in a log with gaps doubled nothing: this test proves nothing")
	}
}

// TestTransactionalTopic reads transactions, of which every other is aborted,
// and one that is open for a while. The control reads what is not committed.
func TestTransactionalTopic(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t))
	control := rig.New(t, r.Topic, rig.Postgres(t)).Control("group")
	control.Group += "_naive"
	ps := []*rig.Process{r.Start(""), r.Start("")}
	naive := control.Start("")
	for i := range 20 {
		r.Topic.Begin(100)(i%2 == 0)
		if i%6 == 5 { // positions at the end of aborted transactions
			ps[0].Stop(15 * time.Second)
			ps[0] = r.Start("")
		}
	}
	r.Settle(time.Minute, ps...)
	before := r.Target.RowCount()
	end := r.Topic.Begin(300)
	if !rig.Poll(t.Context(), 30*time.Second, func() bool { return control.Target.RowCount() >= before+300-10 }) {
		t.Fatalf("the control does not see what is not committed: this test proves nothing\n%s", naive.Log.Tail())
	}
	rig.Pause(t.Context(), time.Second)
	if n := r.Target.RowCount(); n != before {
		t.Errorf("%d rows of an open transaction were written", n-before)
	}
	end(true)
	r.Finish(ps...)
	wantAtEnd(r)
	v := control.Verify()
	if v.Doubled == 0 {
		t.Fatalf("reading what is aborted doubled nothing: this test proves nothing: %s", v)
	}
	t.Logf("the control was caught: %d doubled", v.Doubled)
}

// places are those of all rows and dead letters, sorted.
func places(r *rig.Rig) []rig.Place {
	all := r.Target.Dead()
	for _, row := range r.Target.Rows() {
		all = append(all, row.Place)
	}
	sort(all)
	return all
}

func sort(all []rig.Place) {
	slices.SortFunc(all, func(a, b rig.Place) int {
		if a.Part != b.Part {
			return int(a.Part - b.Part)
		}
		return int(a.Off - b.Off)
	})
}

// readable reads the topic from its beginning to its end.
func readable(topic *rig.Topic) []rig.Place {
	topic.T.Helper()
	ends, err := topic.Admin.ListEndOffsets(topic.T.Context(), topic.Name)
	if err != nil {
		topic.T.Fatal(err)
	}
	cl := topic.NewClient(kgo.ConsumeTopics(topic.Name))
	defer cl.Close()
	var all []rig.Place
	next := map[int32]int64{}
	done := func() bool {
		for part, end := range ends[topic.Name] {
			if next[part] < end.Offset {
				return false
			}
		}
		return true
	}
	ctx, cancel := context.WithTimeout(topic.T.Context(), time.Minute)
	defer cancel()
	for !done() {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			topic.T.Fatalf("topic %s cannot be read to its end", topic.Name)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			all = append(all, rig.Place{Part: r.Partition, Off: r.Offset})
			next[r.Partition] = r.Offset + 1
		})
	}
	return all
}

// wantAtEnd checks that the positions are the end of the log: what is no record
// counts as read.
func wantAtEnd(r *rig.Rig) {
	r.T.Helper()
	ends, err := r.Topic.Admin.ListEndOffsets(r.T.Context(), r.Topic.Name)
	if err != nil {
		r.T.Fatal(err)
	}
	r.Target.Query("SELECT partition, next_offset FROM penstock_checkpoint", func(scan func(...any) error) error {
		var at rig.Place
		err := scan(&at.Part, &at.Off)
		if end, _ := ends.Lookup(r.Topic.Name, at.Part); at.Off != end.Offset {
			r.T.Errorf("partition %d: the position is %d, the log's end %d", at.Part, at.Off, end.Offset)
		}
		return err
	})
}
