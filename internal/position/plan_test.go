package position

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func part(topic string, id int32) flow.Partition { return flow.Partition{Topic: topic, ID: id} }

// keeper sets nothing; whether it is there decides.
type keeper struct{ set []flow.Position }

func (k *keeper) SetPositions(_ context.Context, _ flow.Setup, ps []flow.Position) error {
	k.set = ps
	return nil
}
func (k *keeper) Forget(context.Context, flow.Setup) error { return nil }

// world is a log of two partitions of orders, which hold 100 to 1,000 and 0 to 500.
func world(mode string, stored ...flow.Position) *view {
	return &view{
		flow: "f", keeper: &keeper{}, stored: stored, whole: true, route: func(string) int { return 0 },
		writings: []config.Writing{{Table: "public.orders", Mode: mode}},
		log: &flow.Log{Partitions: []flow.PartitionInfo{
			{Partition: part("orders", 0), TopicID: "A", Begin: 100, End: 1000, Start: 100},
			{Partition: part("orders", 1), TopicID: "A", Begin: 0, End: 500, Start: 0},
		}},
	}
}

func stored(id int32, offset int64) flow.Position {
	return flow.Position{Partition: part("orders", id), TopicID: "A", Offset: offset}
}

func offsets(of ...int64) Target {
	t := Target{Offsets: map[flow.Partition]int64{}}
	for id, o := range of {
		if o >= 0 {
			t.Offsets[part("orders", int32(id))] = o //nolint:gosec // two
		}
	}
	return t
}

// brief is what a plan comes to: partition, from, to, again, skipped.
type brief struct {
	ID                       int32
	From, To, Again, Skipped int64
}

func TestAPlanSaysWhatIsReadAgainAndWhatIsSkipped(t *testing.T) {
	at := []flow.Position{stored(0, 700)} // partition 1 has no record of that time or later
	for _, tt := range []struct {
		name   string
		v      *view
		target Target
		want   []brief
	}{
		{"to the beginning", world("append", stored(0, 900), stored(1, 0)), Target{Beginning: true}, []brief{{0, 900, 100, 800, 0}}},
		{"to the end", world("append", stored(0, 900), stored(1, 500)), Target{End: true}, []brief{{0, 900, 1000, 0, 100}}},
		{"to a time", world("append", stored(0, 900), stored(1, 100)), Target{Time: time.Unix(1, 0)}, []brief{{0, 900, 700, 200, 0}, {1, 100, 500, 0, 400}}},
		{"to offsets, the others stay", world("append", stored(0, 900), stored(1, 100)), offsets(-1, 50), []brief{{1, 100, 50, 50, 0}}},
		{
			"only some partitions", world("append", stored(0, 900), stored(1, 100)),
			Target{Beginning: true, Only: []flow.Partition{part("orders", 1)}},
			[]brief{{1, 100, 0, 100, 0}},
		},
		{
			"all of a topic", world("append", stored(0, 900), stored(1, 100)),
			Target{End: true, Only: []flow.Partition{part("orders", -1)}},
			[]brief{{0, 900, 1000, 0, 100}, {1, 100, 500, 0, 400}},
		},
		{"where it is", world("append", stored(0, 900), stored(1, 100)), offsets(900, 100), nil},
		{"a flow that never ran", world("append"), offsets(300, -1), []brief{{0, -1, 300, 0, 200}, {1, -1, 0, 0, 0}}},
		{"a partition that is newer than the flow", world("append", stored(0, 900)), offsets(-1, 20), []brief{{1, -1, 20, 0, 20}}},
		{"what retention has removed", world("append", stored(0, 40), stored(1, 0)), Target{Beginning: true}, []brief{{0, 40, 100, 0, 0}}},
		{"beyond what retention has removed", world("append", stored(0, 40), stored(1, 0)), offsets(150, -1), []brief{{0, 40, 150, 0, 50}}},
		{"back from beyond the end", world("append", stored(0, 5000), stored(1, 0)), offsets(990, -1), []brief{{0, 5000, 990, 10, 0}}},
		{
			"a topic that was made anew",
			world("append", flow.Position{Partition: part("orders", 0), TopicID: "old", Offset: 100}, stored(1, 0)),
			Target{Beginning: true},
			[]brief{{0, 100, 100, 0, 0}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.v.plan(tt.target, at)
			if err != nil {
				t.Fatal(err)
			}
			var got []brief
			sum := brief{}
			for _, m := range p.Moves {
				got = append(got, brief{m.ID, m.From, m.To, m.Again, m.Skipped})
				sum.Again += m.Again
				sum.Skipped += m.Skipped
				if m.Consequence == "" {
					t.Errorf("%s: no consequence", m.Partition)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if p.Again != sum.Again || p.Skipped != sum.Skipped || p.Consequence == "" {
				t.Errorf("in all %d again, %d skipped: %s", p.Again, p.Skipped, p.Consequence)
			}
		})
	}
}

// A source that keeps the positions has no rows that belong together.
func TestAGroupGetsNoMoreOffsetsThanAskedFor(t *testing.T) {
	v := world("append")
	v.whole = false
	p, err := v.plan(offsets(300, -1), nil)
	if err != nil || len(p.Moves) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
}

func TestTheConsequenceFollowsTheModeOfTheSink(t *testing.T) {
	for mode, want := range map[string]string{
		"append": "Up to 800 records are read again, and as the mode is append, up to 800 rows are written to table public.orders a second time " +
			"(where a unique key of the table forbids that, as dead letters). Up to 400 records are never read: what they say will be missing in table public.orders.",
		"ignore": "Up to 800 records are read again; as the mode is ignore, rows of table public.orders that are there by their key stay as they are. " +
			"Up to 400 records are never read: what they say will be missing in table public.orders.",
		"upsert": "Up to 800 records are read again; as the mode is upsert, rows of table public.orders go back to what these records say, and are as they were when the last has been written. " +
			"Up to 400 records are never read: what they say will be missing in table public.orders.",
	} {
		p, err := world(mode, stored(0, 900), stored(1, 100)).plan(offsets(100, 500), nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, p.Consequence); d != "" {
			t.Error(d)
		}
	}
	v := world("", stored(0, 900), stored(1, 100))
	v.writings, v.members = nil, []string{"penstock at 10.0.0.1"}
	p, err := v.plan(offsets(899, 500), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "1 record is read again and written to the target a second time: whoever reads there sees them twice. " +
		"Up to 400 records are never read: the target will not have them. " +
		"The flow runs, so its positions move on, and cannot be set before it is stopped: penstock stop f."
	if d := cmp.Diff(want, p.Consequence); d != "" {
		t.Error(d)
	}
}

func TestPlacesThatAreNotThereAreRefused(t *testing.T) {
	v := world("append", stored(0, 900), stored(1, 100), stored(2, 7))
	for _, tt := range []struct {
		target Target
		want   string
	}{
		{offsets(99, -1), "orders[0]: offset 99 is not in the log, which holds 100 to 1000"},
		{offsets(1001, -1), "orders[0]: offset 1001 is not in the log"},
		{offsets(-1, -1, 7), "orders[2]: the topic has the partitions 0 to 1"},
		{Target{Beginning: true, Only: []flow.Partition{part("bills", -1)}}, "does not read topic bills; it reads orders"},
		{Target{}, "no place is given"},
		{Target{Beginning: true, End: true}, "more than one"},
	} {
		if _, err := v.plan(tt.target, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.target, err, tt.want)
		}
	}
	v.keeper = nil
	if _, err := v.plan(Target{End: true}, nil); err == nil {
		t.Error("nobody can set the positions, and there is a plan")
	}
}

func TestAPlanIsNotAppliedWhenTheFlowHasMovedSince(t *testing.T) {
	p, err := world("append", stored(0, 900), stored(1, 100)).plan(offsets(100, -1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := world("append", stored(0, 900), stored(1, 444)).same(p); err != nil {
		t.Errorf("another partition has moved: %v", err)
	}
	var moved *MovedError
	if err := world("append", stored(0, 901), stored(1, 100)).same(p); !errors.As(err, &moved) || !strings.Contains(err.Error(), "from 900 to 901") {
		t.Errorf("got %v", err)
	}
	if err := world("append", stored(0, 100), stored(1, 100)).same(p); !errors.As(err, &moved) {
		t.Errorf("it is there already: %v", err)
	}
	remade := world("append", stored(0, 900), stored(1, 100))
	remade.log.Partitions[0].TopicID = "B"
	if err := remade.same(p); !errors.As(err, &moved) || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("got %v", err)
	}
	shrunk := world("append", stored(0, 900), stored(1, 100))
	shrunk.log.Partitions[0].Begin = 200
	if err := shrunk.same(p); err == nil || !strings.Contains(err.Error(), "holds 200 to 1000") {
		t.Errorf("retention was faster: %v", err)
	}
	fresh, err := world("append").plan(Target{Beginning: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	grown := world("append")
	grown.log.Partitions = append(grown.log.Partitions, flow.PartitionInfo{Partition: part("orders", 2), TopicID: "A"})
	if err := grown.same(fresh); !errors.As(err, &moved) {
		t.Errorf("a partition has appeared: %v", err)
	}
}

func TestShownPositionsSayWhatIsWrongWithThem(t *testing.T) {
	v := world("append", stored(0, 40), flow.Position{Partition: part("gone", 3), Offset: 7})
	want := []Position{
		{Partition: part("gone", 3), Offset: 7, Begin: -1, End: -1, Note: "is not in the log any more, and is not read"},
		{Partition: part("orders", 0), Offset: 40, Begin: 100, End: 1000, Note: "offsets 40 to 99 are gone: retention removed them before they were read"},
		{Partition: part("orders", 1), Offset: -1, Begin: 0, End: 500},
	}
	got := v.positions()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got[0].Lag() != 0 || got[1].Lag() != 900 || got[2].Lag() != 0 {
		t.Errorf("lags: %d, %d, %d", got[0].Lag(), got[1].Lag(), got[2].Lag())
	}
}

// ends is a source that is asked for the ends of the log once more.
type ends []flow.Position

func (e ends) At(context.Context, time.Time) ([]flow.Position, error) { return e, nil }
func (e ends) Members(context.Context) ([]string, error)              { return nil, nil }

func TestAFlowThatMovesOnWhileItIsLookedAtIsNotBeyondTheEnd(t *testing.T) {
	v := world("append", stored(0, 1005), stored(1, 5000))
	if err := v.catchUp(t.Context(), ends{stored(0, 1010), stored(1, 500)}); err != nil {
		t.Fatal(err)
	}
	ps := v.positions()
	if ps[0].Note != "" || ps[0].Lag() != 5 {
		t.Errorf("%+v", ps[0])
	}
	if !strings.Contains(ps[1].Note, "lost its tail") {
		t.Errorf("a position that is beyond the end: %+v", ps[1])
	}
}

func TestTargetsAsPeopleWriteThem(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]Target{
		"beginning":                     {Beginning: true},
		" latest ":                      {End: true},
		"-2h":                           {Time: now.Add(-2 * time.Hour)},
		"-1h30m":                        {Time: now.Add(-90 * time.Minute)},
		"-3d":                           {Time: now.Add(-72 * time.Hour)},
		"2026-11-21T07:00:00+02:00":     {Time: time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC)},
		"orders/0=1200, my.orders/13=0": {Offsets: map[flow.Partition]int64{part("orders", 0): 1200, part("my.orders", 13): 0}},
	} {
		got, err := parseTarget(text, now)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
	for text, want := range map[string]string{
		"":                      "want beginning, end, a time",
		"begining":              "is no place in a log",
		"2h":                    "is no place in a log",
		"--2h":                  "is no time ago",
		"-2w":                   "is no time ago",
		"-99999d":               "is no time ago",
		"2026-11-21T13:00:00Z":  "is in the future",
		"orders=5":              "want topic/partition=offset",
		"/0=5":                  "want topic/partition=offset",
		"orders/x=5":            "no partition",
		"orders/-1=5":           "no partition",
		"orders/0=-5":           "no offset",
		"orders/0=end":          "no offset",
		"orders/0=1,":           "want topic/partition=offset",
		"orders/0=1,orders/0=2": "named twice",
	} {
		if _, err := parseTarget(text, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
