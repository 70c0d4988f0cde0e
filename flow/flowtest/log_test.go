package flowtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// onLog subscribes a source to topic t of a log.
func onLog(t *testing.T, l *Log, group string, start func(flow.PartitionInfo) int64) (*LogSource, *checkingIntake) {
	t.Helper()
	s := l.Source(LogOptions{Topics: []string{"t"}, Group: group})
	t.Cleanup(func() { must(t, s.Close(context.Background()), "Close") })
	_, err := s.Open(t.Context())
	must(t, err, "Open")
	in := newCheckingIntake()
	in.startAt = start
	must(t, s.Subscribe(t.Context(), in), "Subscribe")
	return s, in
}

// readOnce reads until something is delivered or an error comes.
func readOnce(t *testing.T, s *LogSource, in *checkingIntake) error {
	t.Helper()
	in.reads(true)
	defer in.reads(false)
	return within(t, soon, "Read", func() error { return s.Read(t.Context()) })
}

func logOf(n int) *Log {
	l := NewLog()
	l.Create("t", 1)
	for range n {
		l.Append("t", 0, flow.Record{Value: []byte("v")})
	}
	return l
}

var logPartition0 = flow.Partition{Topic: "t"}

func TestLogLosesPositions(t *testing.T) {
	for name, lose := range map[string]func(*Log){
		"retention":    func(l *Log) { l.Append("t", 0, flow.Record{}); l.Truncate("t", 0, 11) },
		"chopped tail": func(l *Log) { l.Chop("t", 0, 7) },
		"made anew":    func(l *Log) { l.Delete("t"); l.Create("t", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			l := logOf(10)
			s, in := onLog(t, l, "g", nil)
			must(t, readOnce(t, s, in), "Read")
			if name == "made anew" {
				// The group may see the topic gone and assign the new one: then
				// the id in Assigned tells. Here the group is away.
				s.gate <- struct{}{}
				defer func() { <-s.gate }()
				lose(l)
				_, _, err := s.poll()
				wantLost(t, err, 10)
				return
			}
			lose(l)
			wantLost(t, readOnce(t, s, in), 10)
		})
	}
}

func wantLost(t *testing.T, err error, offset int64) {
	t.Helper()
	var lost *flow.PositionLostError
	if !errors.As(err, &lost) || lost.Offset != offset {
		t.Fatalf("have %v, want a PositionLostError at %d", err, offset)
	}
}

func TestLogOffsets(t *testing.T) {
	l := logOf(10)
	l.Skip("t", 0, 2)
	if at := l.Append("t", 0, flow.Record{}); at != 12 {
		t.Errorf("a record after a gap is at %d, want 12", at)
	}
	l.Compact("t", 0, func(r *flow.Record) bool { return r.Offset%2 == 1 })
	l.Truncate("t", 0, 3)
	var offsets []int64
	for _, r := range l.Records("t", 0) {
		offsets = append(offsets, r.Offset)
	}
	if want := []int64{4, 6, 8, 12}; len(offsets) != 4 || offsets[0] != want[0] || offsets[3] != want[3] {
		t.Errorf("offsets %v, want %v", offsets, want)
	}
	if begin, end := l.Bounds("t", 0); begin != 3 || end != 13 {
		t.Errorf("the log lies between %d and %d, want 3 and 13", begin, end)
	}
	s, in := onLog(t, l, "", func(flow.PartitionInfo) int64 { return 3 })
	must(t, readOnce(t, s, in), "Read")
	if got := in.records(logPartition0); len(got) != 4 || in.next(logPartition0) != 13 {
		t.Errorf("%d records, next %d; want 4, 13", len(got), in.next(logPartition0))
	}
}

// An evicted member goes on as a zombie until it is told.
func TestLogEvicts(t *testing.T) {
	l := logOf(3)
	zombie, zin := onLog(t, l, "g", nil)
	must(t, readOnce(t, zombie, zin), "Read")
	l.Evict(zombie)
	heir, hin := onLog(t, l, "g", nil)
	must(t, readOnce(t, heir, hin), "Read of the heir")
	l.Append("t", 0, flow.Record{Value: []byte("late")})
	must(t, readOnce(t, zombie, zin), "Read of the zombie")
	must(t, readOnce(t, heir, hin), "Read of the heir")
	if zin.count() != 4 || hin.count() != 4 {
		t.Errorf("the zombie has read %d, the heir %d, want 4 and 4", zin.count(), hin.count())
	}
	must(t, zombie.Commit(t.Context(), []flow.Position{{Partition: logPartition0, Offset: 4}}), "Commit of the zombie")
	if at := l.Committed("g", logPartition0); at != -1 {
		t.Errorf("the zombie's commit of %d was taken", at)
	}
	l.Notice(zombie)
	eventually(t, soon, "the zombie has given up", func() bool { return len(zin.ownedNow()) == 0 })
	must(t, zin.broken(), "the contract")
	l.Move(logPartition0, zombie)
	eventually(t, soon, "the zombie is a member again", func() bool { return len(zin.ownedNow()) == 1 && len(hin.ownedNow()) == 0 })
}

func TestLogInjects(t *testing.T) {
	l := logOf(3)
	s, in := onLog(t, l, "g", nil)
	cause := errors.New("cause")
	l.Inject(cause)
	if err := readOnce(t, s, in); !errors.Is(err, cause) {
		t.Errorf("have %v, want the injected error", err)
	}
	must(t, readOnce(t, s, in), "Read")
	l.Break()
	l.Append("t", 0, flow.Record{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	in.reads(true)
	must(t, s.Read(ctx), "Read without the log")
	in.reads(false)
	if err := s.Commit(t.Context(), nil); !flow.IsTransient(err) {
		t.Errorf("Commit without the log returned %v, want a transient error", err)
	}
	l.Mend()
	must(t, readOnce(t, s, in), "Read")
	if in.count() != 4 {
		t.Errorf("%d records, want 4", in.count())
	}
}

// A pattern finds topics that appear later.
func TestLogPattern(t *testing.T) {
	l := logOf(1)
	s := l.Source(LogOptions{Prefix: "t", Group: "g"})
	t.Cleanup(func() { must(t, s.Close(context.Background()), "Close") })
	log, err := s.Open(t.Context())
	must(t, err, "Open")
	if !log.OpenEnded || len(log.Partitions) != 1 {
		t.Errorf("open-ended %t, %d partitions", log.OpenEnded, len(log.Partitions))
	}
	in := newCheckingIntake()
	must(t, s.Subscribe(t.Context(), in), "Subscribe")
	l.Create("t2", 2)
	eventually(t, soon, "the new topic is assigned", func() bool { return len(in.ownedNow()) == 3 })
	l.Delete("t")
	eventually(t, soon, "the old one is revoked", func() bool { return len(in.ownedNow()) == 2 })
}
