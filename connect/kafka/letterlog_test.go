package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func TestLetterConformance(t *testing.T) {
	t.Parallel()
	together(t, flowtest.LetterCases(flowtest.LettersHarness{New: func(t testing.TB) *flowtest.Letters {
		r := newLetterRig(t, 3)
		missing := *r
		missing.cfg.Topic += ".missing"
		return &flowtest.Letters{
			Log:     func(testing.TB) flow.LetterLog { return r.process() },
			Missing: func(testing.TB) flow.LetterLog { return missing.process() },
		}
	}}))
}

// letterRig is a dead-letter topic with letters of flow f.
type letterRig struct {
	*broker
	topic string
	cfg   DeadLetterConfig
	flow.LetterLog
}

var inF = flow.Setup{Flow: "f"}

func newLetterRig(t testing.TB, partitions int32, configs ...string) *letterRig {
	b := newBroker(t)
	r := &letterRig{broker: b, topic: b.topic(partitions, configs...)}
	r.cfg = DeadLetterConfig{Connection: Connection{Brokers: []string{b.addr}}, Topic: r.topic}
	r.LetterLog = r.process()
	return r
}

// process is the log as another process has it.
func (r *letterRig) process() flow.LetterLog {
	r.t.Helper()
	d, err := NewDeadLetters(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d.LetterLog()
}

// keep keeps letters with offsets from the first on, all of one partition of the source.
func (r *letterRig) keep(flowName string, partition int32, offsets ...int64) {
	r.t.Helper()
	var ls []flow.Letter
	for _, o := range offsets {
		ls = append(ls, flow.Letter{Flow: flowName, DeadLetter: letter(flow.Partition{Topic: "in", ID: partition}, flow.Record{Offset: o, Value: fmt.Append(nil, o)})})
	}
	if err := r.Put(r.t.Context(), flow.Setup{Flow: "redrive"}, ls); err != nil {
		r.t.Fatal(err)
	}
}

// letters are those that a process sees, copied.
func (r *letterRig) letters(l flow.LetterLog) []flow.Letter {
	r.t.Helper()
	var out []flow.Letter
	err := l.Letters(r.t.Context(), inF, func(l *flow.Letter) error {
		out = append(out, *l)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func places(ls []flow.Letter) (out []flow.Position) {
	for i := range ls {
		out = append(out, ls[i].Place)
	}
	return out
}

// held says who has which letter.
func held(ls []flow.Letter) (out []string) {
	for i := range ls {
		out = append(out, fmt.Sprintf("%d/%d %s", ls[i].ID, ls[i].Record.Offset, ls[i].Job))
	}
	slices.Sort(out)
	return out
}

func (r *letterRig) wantHeld(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, held(r.letters(r.process()))); diff != "" {
		r.t.Error(diff)
	}
}

func (r *letterRig) do(what func(context.Context, flow.Setup, string, []flow.Position) error, job string, ps []flow.Position) {
	r.t.Helper()
	if err := what(r.t.Context(), inF, job, ps); err != nil {
		r.t.Fatal(err)
	}
}

// A letter that was kept is what it was: the record, and why it failed the last time.
func TestLetterIsRebuilt(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 3)
	stamp := time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	l := letter(flow.Partition{Topic: "in", ID: 4}, flow.Record{
		Key: []byte("k"), Offset: 17, Timestamp: stamp.UnixMicro(),
		Headers: []flow.Header{
			{Key: "h", Value: []byte("1")},
			{Key: HeaderTopic, Value: []byte("before")},
			{Key: HeaderClass, Value: []byte("range")},
			{Key: flow.HeaderRedrives, Value: []byte("1")},
			{Key: "h"},
			{Key: flow.HeaderRedrives, Value: []byte("2")},
		},
	})
	l.Stage = flow.StageWrite
	before := time.Now().Add(-time.Minute)
	if err := r.Put(t.Context(), inF, []flow.Letter{{Flow: "f", DeadLetter: l}, {Flow: "g", DeadLetter: l}}); err != nil {
		t.Fatal(err)
	}
	got := r.letters(r)
	if len(got) != 1 {
		t.Fatalf("%d letters", len(got))
	}
	if since := got[0].Since; since.Before(before) || since.After(time.Now().Add(time.Minute)) {
		t.Errorf("since %s", since)
	}
	want := flow.Letter{DeadLetter: l, Flow: "f", Since: got[0].Since, Redrives: 2, Place: got[0].Place}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	if p := got[0].Place; p.Topic != r.topic || p.ID != 1 || p.Offset != 0 || p.TopicID == "" || r.Place() != "topic "+r.topic {
		t.Errorf("place %+v, %s", p, r.Place())
	}
}

func TestWhateverElseIsInTheTopicIsNoLetter(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 2)
	r.produce(&kgo.Record{Topic: r.topic, Value: []byte("what is this?")},
		&kgo.Record{Topic: r.topic, Headers: []kgo.RecordHeader{{Key: HeaderTopic, Value: []byte("of Connect")}, {Key: HeaderConnector, Value: []byte("f")}}})
	r.keep("f", 1, 5)
	r.wantHeld("1/5 ")
}

func TestLettersOfBrokersThatAreAway(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 1)
	r.cfg.Brokers = []string{"127.0.0.1:1"}
	wantError(t, "unreachable", r.process().Letters(t.Context(), inF, nil), flow.ClassTransient, "127.0.0.1:1", r.cfg.Topic)
}

// A flow writes letters in transactions, of which one is open, and one was aborted.
func TestLettersOfTransactions(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 1)
	id := r.topic
	cl := brokerAt(t, r.addr, kgo.TransactionalID(id)).cl
	transact := func(offset int64, end func()) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		l := letter(flow.Partition{Topic: "in"}, flow.Record{Offset: offset})
		rec := letterRecord(&l, "f")
		rec.Topic = r.topic
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		end()
	}
	end := func(how kgo.TransactionEndTry) func() {
		return func() {
			if err := cl.EndTransaction(t.Context(), how); err != nil {
				t.Fatal(err)
			}
		}
	}
	transact(1, end(kgo.TryCommit))
	transact(2, end(kgo.TryAbort))
	transact(3, func() {})
	r.wantHeld("0/1 ")
	// What a job does is seen at once.
	r.do(r.Take, "j", places(r.letters(r)))
	r.wantHeld("0/1 j")
	end(kgo.TryCommit)()
	r.wantHeld("0/1 j", "0/3 ")
}

// Letters are taken and removed in steps, under a small size limit.
func TestJobOfManySteps(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 2, "max.message.bytes=2000")
	const n = 4000
	for p := range int32(2) {
		var offsets []int64
		for o := range int64(n / 2) {
			offsets = append(offsets, o)
		}
		r.keep("f", p, offsets...)
	}
	all := places(r.letters(r))
	if len(all) != n {
		t.Fatalf("%d letters", len(all))
	}
	for some := range slices.Chunk(all, 1000) {
		r.do(r.Take, "j", some)
	}
	if got := r.letters(r.process()); len(got) != n || slices.ContainsFunc(got, func(l flow.Letter) bool { return l.Job != "j" }) {
		t.Errorf("%d letters, not all taken", len(got))
	}
	r.do(r.Remove, "j", all[1:])
	r.wantHeld("0/0 j")
}

// What cannot be understood is not passed over.
func TestLetterOfALaterVersion(t *testing.T) {
	t.Parallel()
	r := newLetterRig(t, 1)
	l := letter(flow.Partition{Topic: "in"}, flow.Record{})
	rec := letterRecord(&l, "f")
	rec.Topic = r.topic
	for i := range rec.Headers {
		if rec.Headers[i].Key == HeaderVersion {
			rec.Headers[i].Value = []byte("2")
		}
	}
	r.produce(rec)
	read := func() error { return r.process().Letters(t.Context(), inF, func(*flow.Letter) error { return nil }) }
	wantError(t, "letter", read(), flow.ClassFatal, r.topic+"[0], offset 0", `version "2"`)
	r.produce(&kgo.Record{Topic: r.topic, Headers: []kgo.RecordHeader{{Key: HeaderJob, Value: []byte("j")}}, Value: []byte(`{"version":2}`)})
	wantError(t, "control record", read(), flow.ClassFatal, r.topic+"[0], offset 1", "version 2")
}

// The control records of any jobs mean what a plain model says, in whatever pieces they are read.
func TestFold(t *testing.T) {
	type step struct {
		op, job string
		offsets []int64
	}
	for name, c := range map[string]struct {
		steps []step
		want  string // by offset: job, - open, x removed
	}{
		"taken":                      {[]step{{opTake, "a", []int64{1, 3}}}, "- a - a -"},
		"the first has it":           {[]step{{opTake, "a", []int64{1}}, {opTake, "b", []int64{0, 1}}}, "b a - - -"},
		"only its own is released":   {[]step{{opTake, "a", []int64{1}}, {opRelease, "b", []int64{1}}}, "- a - - -"},
		"released, then of another":  {[]step{{opTake, "a", []int64{1}}, {opTake, "b", []int64{1}}, {opRelease, "a", []int64{1}}, {opTake, "c", []int64{1}}}, "- c - - -"},
		"only its own is removed":    {[]step{{opTake, "a", []int64{1}}, {opRemove, "b", []int64{1, 2}}, {opRemove, "a", []int64{1, 2}}}, "- x - - -"},
		"what is removed stays so":   {[]step{{opTake, "a", []int64{1}}, {opRemove, "a", []int64{1}}, {opTake, "b", []int64{1}}, {opRelease, "a", []int64{1}}}, "- x - - -"},
		"places in any order, twice": {[]step{{opTake, "a", []int64{4, 0, 4, 2}}}, "a - a - a"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newLetterFold()
			for _, s := range c.steps {
				records, err := controlRecords(control{Op: s.op, Job: s.job}, 0, s.offsets, 40) // two places each
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					if err := f.add(&views(nil, []*kgo.Record{r})[0]); err != nil {
						t.Fatal(err)
					}
				}
			}
			var got []string
			for o := range int64(5) {
				job, removed := f.of(o)
				switch {
				case removed:
					job = "x"
				case job == "":
					job = "-"
				}
				got = append(got, job)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
			f.trim(4)
			if job, removed := f.of(1); job != "" || removed || len(f.holder) > 1 {
				t.Errorf("what the log does not hold any more is remembered: %v", f.holder)
			}
		})
	}
}
