package flowtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// lettersHarness tests a LetterLog that wrap has broken.
func lettersHarness(wrap func(*LetterLog) flow.LetterLog) LettersHarness {
	return LettersHarness{New: func(testing.TB) *Letters {
		log := wrap(NewLetterLog(LetterLogOptions{Partitions: 3}))
		return &Letters{
			Log:     func(testing.TB) flow.LetterLog { return log },
			Missing: func(testing.TB) flow.LetterLog { return wrap(NewLetterLog(LetterLogOptions{})) },
		}
	}}
}

func TestLetterLog(t *testing.T) {
	RunLetters(t, lettersHarness(func(l *LetterLog) flow.LetterLog { return l }))
}

func TestLetterLogFails(t *testing.T) {
	log := NewLetterLog(LetterLogOptions{})
	early, late := errors.New("early"), errors.New("late")
	q := log.Queue()
	must(t, q.Open(t.Context(), flow.Setup{Flow: "f"}), "Open")
	log.Hook(func(call int, _ string) (before, after error) {
		return map[int]error{1: early}[call], map[int]error{2: late}[call]
	})
	r := newLetters(0, 1)[0].DeadLetter
	for i, want := range []error{early, late} {
		if err := q.Put(t.Context(), []flow.DeadLetter{r}); !errors.Is(err, want) || len(log.Kept()) != i {
			t.Errorf("call %d returned %v, and %d letters are kept", i+1, err, len(log.Kept()))
		}
	}
	if k := log.Kept(); len(k) != 1 || k[0].Flow != "f" {
		t.Errorf("kept are %+v", k)
	}
}

type (
	lettersFunc = func(context.Context, flow.Setup, func(*flow.Letter) error) error
	placesFunc  = func(context.Context, flow.Setup, string, []flow.Position) error
)

// mutantLog is a LetterLog with a fault. A nil function is not broken.
type mutantLog struct {
	*LetterLog
	letters               lettersFunc
	take, release, remove placesFunc
	put                   func(context.Context, flow.Setup, []flow.Letter) error
}

func (m *mutantLog) Letters(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
	if m.letters == nil {
		return m.LetterLog.Letters(ctx, s, fn)
	}
	return m.letters(ctx, s, fn)
}

func (m *mutantLog) Take(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	if m.take == nil {
		return m.LetterLog.Take(ctx, s, job, places)
	}
	return m.take(ctx, s, job, places)
}

func (m *mutantLog) Release(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	if m.release == nil {
		return m.LetterLog.Release(ctx, s, job, places)
	}
	return m.release(ctx, s, job, places)
}

func (m *mutantLog) Remove(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
	if m.remove == nil {
		return m.LetterLog.Remove(ctx, s, job, places)
	}
	return m.remove(ctx, s, job, places)
}

func (m *mutantLog) Put(ctx context.Context, s flow.Setup, letters []flow.Letter) error {
	if m.put == nil {
		return m.LetterLog.Put(ctx, s, letters)
	}
	return m.put(ctx, s, letters)
}

// edit changes what is kept at the places; all of it if there are none.
func (m *mutantLog) edit(change func(*keptLetter), places ...flow.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.kept {
		k := &m.kept[i]
		if len(places) == 0 || slices.ContainsFunc(places, func(p flow.Position) bool { return placeOf(p) == placeOf(k.Place) }) {
			change(k)
		}
	}
}

// keeps makes a log that changes what it keeps.
func keeps(change func(*flow.Letter)) func(*mutantLog) {
	return func(m *mutantLog) {
		m.put = func(ctx context.Context, s flow.Setup, letters []flow.Letter) error {
			var changed []flow.Letter
			for i := range letters {
				changed = append(changed, cloneLetter(&letters[i]))
				change(&changed[i])
			}
			return m.LetterLog.Put(ctx, s, changed)
		}
	}
}

// shows makes a log that shows others than it should.
func shows(which func(all []keptLetter, name string) []keptLetter) func(*mutantLog) {
	return func(m *mutantLog) {
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			m.mu.Lock()
			all := slices.Clone(m.kept)
			m.mu.Unlock()
			for _, k := range which(all, s.Flow) {
				if err := errors.Join(ctx.Err(), fn(&k.Letter)); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

// only shows letters of the flow that have not been removed, and the first of those with the same key.
func only[K comparable](key func(*keptLetter) K) func(*mutantLog) {
	return shows(func(all []keptLetter, name string) (out []keptLetter) {
		seen := map[K]bool{}
		for _, k := range all {
			if k.Flow == name && !seen[key(&k)] && !k.removed {
				out = append(out, k)
			}
			seen[key(&k)] = seen[key(&k)] || k.Flow == name
		}
		return out
	})
}

var letterMutants = []struct {
	name    string
	foundBy string
	mutate  func(*mutantLog)
}{
	{"needs to exist", "NoLetters", func(m *mutantLog) {
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			if len(m.Kept()) == 0 {
				return errors.New("there is no such log")
			}
			return m.LetterLog.Letters(ctx, s, fn)
		}
	}},
	{"nil is empty", "LettersAreWhole", keeps(func(l *flow.Letter) { l.Record.Value = append([]byte{}, l.Record.Value...) })},
	{"empty is nil", "LettersAreWhole", keeps(func(l *flow.Letter) { l.Record.Key = append([]byte(nil), l.Record.Key...) })},
	{"milliseconds", "LettersAreWhole", keeps(func(l *flow.Letter) { l.Record.Timestamp -= l.Record.Timestamp % 1000 })},
	{"headers are a map", "LettersAreWhole", keeps(func(l *flow.Letter) {
		l.Record.Headers = slices.CompactFunc(l.Record.Headers, func(a, b flow.Header) bool { return a.Key == b.Key })
	})},
	{"values are text", "LettersAreWhole", keeps(func(l *flow.Letter) {
		if l.Record.Value != nil {
			l.Record.Value = []byte(string([]rune(string(l.Record.Value))))
		}
	})},
	{"forgets the column", "LettersAreWhole", keeps(func(l *flow.Letter) { l.Column = "" })},
	{"time of the record", "LettersAreWhole", func(m *mutantLog) { m.opts.Now = func() time.Time { return time.UnixMicro(epoch) } }},
	{"years of four digits", "OddTimestamps", keeps(func(l *flow.Letter) {
		if y := time.UnixMicro(l.Record.Timestamp).Year(); y > 9999 || y < 0 {
			l.Record.Timestamp = 0
		}
	})},
	{"shows doubles of large ones", "LargeLetters", shows(func(all []keptLetter, _ string) []keptLetter { return all })},
	{"the last first", "OrderOfLetters", shows(func(all []keptLetter, _ string) []keptLetter {
		slices.Reverse(all)
		return slices.DeleteFunc(all, func(k keptLetter) bool { return k.double })
	})},
	{"in order of offset", "OrderOfLetters", func(m *mutantLog) {
		m.put = func(ctx context.Context, s flow.Setup, letters []flow.Letter) error {
			return m.LetterLog.Put(ctx, s, slices.SortedStableFunc(slices.Values(letters), func(a, b flow.Letter) int { return int(a.Record.Offset - b.Record.Offset) }))
		}
	}},
	{"shows doubles", "DoublesAreOne", only(func(k *keptLetter) flow.Position { return k.Place })},
	{"the last double counts", "DoublesAreOne", shows(func(all []keptLetter, _ string) []keptLetter {
		last := map[letterIdentity]keptLetter{}
		for _, k := range all {
			last[identityOf(&k.Letter)] = k
		}
		return slices.SortedFunc(maps.Values(last), func(a, b keptLetter) int { return int(a.Place.Offset - b.Place.Offset) })
	})},
	{"a double is left", "DoublesAreOne", shows(func(all []keptLetter, _ string) (out []keptLetter) {
		seen := map[letterIdentity]bool{}
		for _, k := range all {
			if id := identityOf(&k.Letter); !k.removed && !seen[id] {
				seen[id], out = true, append(out, k)
			}
		}
		return out
	})},
	{"redrives are doubles", "RedrivesAreApart", only(func(k *keptLetter) string { return identityOf(&k.Letter).String() })},
	{"topics made anew are the same", "SourcesAreApart", only(func(k *keptLetter) letterIdentity {
		id := identityOf(&k.Letter)
		id.topicID = ""
		return id
	})},
	{"clusters are the same", "SourcesAreApart", only(func(k *keptLetter) letterIdentity {
		id := identityOf(&k.Letter)
		id.cluster = ""
		return id
	})},
	{"shows all flows", "LettersOfOtherFlows", shows(func(all []keptLetter, _ string) []keptLetter { return all })},
	{"puts under its own flow", "LettersOfOtherFlows", func(m *mutantLog) {
		m.put = func(ctx context.Context, s flow.Setup, letters []flow.Letter) error {
			letters = slices.Clone(letters)
			for i := range letters {
				letters[i].Flow = s.Flow
			}
			return m.LetterLog.Put(ctx, s, letters)
		}
	}},
	{"takes what it can", "TakeAllOrNone", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			for i := range places {
				if err := m.LetterLog.Take(ctx, s, job, places[i:i+1]); err != nil {
					return err
				}
			}
			return nil
		}
	}},
	{"releases all after a refusal", "TakeAllOrNone", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			err := m.LetterLog.Take(ctx, s, job, places)
			if err != nil {
				return errors.Join(err, m.Release(ctx, s, job, places))
			}
			return err
		}
	}},
	{"says not which", "TakeAllOrNone", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			if err := m.LetterLog.Take(ctx, s, job, places); err != nil {
				return errors.New(err.Error())
			}
			return nil
		}
	}},
	{"takes once", "TakeTwice", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			for _, l := range m.Kept() {
				for _, p := range places {
					if placeOf(p) == placeOf(l.Place) && l.Job != "" {
						return &flow.TakenError{Place: p, Job: l.Job}
					}
				}
			}
			return m.LetterLog.Take(ctx, s, job, places)
		}
	}},
	{"passes over what is not there", "TakeUnknownPlace", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			known := slices.DeleteFunc(slices.Clone(places), func(p flow.Position) bool {
				_, ok := m.at[placeOf(p)]
				return !ok
			})
			return m.LetterLog.Take(ctx, s, job, known)
		}
	}},
	{"takes for nobody", "JobsNeedNames", func(m *mutantLog) {
		m.take = func(context.Context, flow.Setup, string, []flow.Position) error { return nil }
	}},
	{"looks, then takes", "JobsWantTheSame", looksThenTakes},
	{"looks, then takes, what overlaps", "JobsOverlap", looksThenTakes},
	{"all lose", "JobsWantTheSame", func(m *mutantLog) {
		m.take = func(_ context.Context, _ flow.Setup, _ string, places []flow.Position) error {
			return &flow.TakenError{Place: places[0]}
		}
	}},
	{"one job at a time", "JobsOverlap", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			for _, l := range m.Kept() {
				if l.Job != "" && l.Job != job {
					return &flow.TakenError{Place: l.Place, Job: l.Job}
				}
			}
			return m.LetterLog.Take(ctx, s, job, places)
		}
	}},
	{"releases nothing", "ReleaseOpens", func(m *mutantLog) {
		m.release = func(context.Context, flow.Setup, string, []flow.Position) error { return nil }
	}},
	{"releases for anybody", "ReleaseOpens", func(m *mutantLog) {
		m.release = func(_ context.Context, _ flow.Setup, _ string, places []flow.Position) error {
			m.edit(func(k *keptLetter) { k.Job = "" }, places...)
			return nil
		}
	}},
	{"releases the whole job", "ReleaseOpens", func(m *mutantLog) {
		m.release = func(_ context.Context, _ flow.Setup, job string, _ []flow.Position) error {
			m.edit(func(k *keptLetter) {
				if k.Job == job {
					k.Job = ""
				}
			})
			return nil
		}
	}},
	{"removes nothing", "RemoveEnds", func(m *mutantLog) {
		m.remove = func(context.Context, flow.Setup, string, []flow.Position) error { return nil }
	}},
	{"removes for anybody", "RemoveEnds", func(m *mutantLog) {
		m.remove = func(_ context.Context, _ flow.Setup, _ string, places []flow.Position) error {
			m.edit(func(k *keptLetter) { k.removed = k.removed || len(places) > 0 }, places...)
			return nil
		}
	}},
	{"hides what fails again", "FailsAgain", func(m *mutantLog) {
		known := map[letterIdentity]bool{}
		m.put = func(ctx context.Context, s flow.Setup, letters []flow.Letter) error {
			letters = slices.DeleteFunc(slices.Clone(letters), func(l flow.Letter) bool {
				was := known[identityOf(&l)]
				known[identityOf(&l)] = true
				return was
			})
			return m.LetterLog.Put(ctx, s, letters)
		}
	}},
	{"brings back", "RemoveIsFinal", func(m *mutantLog) {
		m.release = func(_ context.Context, _ flow.Setup, _ string, places []flow.Position) error {
			m.edit(func(k *keptLetter) { k.Job, k.removed = "", false }, places...)
			return nil
		}
	}},
	{"takes what is gone", "RemoveIsFinal", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			err := m.LetterLog.Take(ctx, s, job, places)
			if taken, ok := errors.AsType[*flow.TakenError](err); ok && taken.Job == "" {
				return nil
			}
			return err
		}
	}},
	{"gives places again", "RemoveIsFinal", func(m *mutantLog) {
		m.remove = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			err := m.LetterLog.Remove(ctx, s, job, places)
			m.mu.Lock()
			defer m.mu.Unlock()
			clear(m.next)
			return err
		}
	}},
	{"reads on and on", "AppendedMeanwhile", func(m *mutantLog) {
		m.letters = func(_ context.Context, _ flow.Setup, fn func(*flow.Letter) error) error {
			for i := 0; i < len(m.kept); i++ {
				if err := fn(&m.kept[i].Letter); err != nil {
					return err
				}
			}
			return nil
		}
	}},
	{"locked while it shows", "AppendedMeanwhile", func(m *mutantLog) {
		var mu sync.Mutex
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			mu.Lock()
			defer mu.Unlock()
			return m.LetterLog.Letters(ctx, s, fn)
		}
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			if !mu.TryLock() {
				return errors.New("the log is locked")
			}
			defer mu.Unlock()
			return m.LetterLog.Take(ctx, s, job, places)
		}
	}},
	{"goes on after an error", "ErrorOfTheCaller", func(m *mutantLog) {
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			var errs error
			err := m.LetterLog.Letters(ctx, s, func(l *flow.Letter) error {
				errs = errors.Join(errs, fn(l))
				return nil
			})
			return errors.Join(err, errs)
		}
	}},
	{"swallows an error", "ErrorOfTheCaller", func(m *mutantLog) {
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			_ = m.LetterLog.Letters(ctx, s, fn)
			return nil
		}
	}},
	{"ends in silence", "LettersUntilCancelled", func(m *mutantLog) {
		m.letters = func(ctx context.Context, s flow.Setup, fn func(*flow.Letter) error) error {
			err := m.LetterLog.Letters(ctx, s, fn)
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}},
	{"one page", "ManyLetters", only1000},
	{"takes some", "ManyLetters", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			return m.LetterLog.Take(ctx, s, job, places[:min(len(places), 1000)])
		}
	}},
	{"quadratic", "ManyLetters", func(m *mutantLog) {
		m.take = func(ctx context.Context, s flow.Setup, job string, places []flow.Position) error {
			for range places {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Millisecond): // to look at all others
				}
			}
			return m.LetterLog.Take(ctx, s, job, places)
		}
	}},
}

var only1000 = shows(func(all []keptLetter, _ string) []keptLetter { return all[:min(len(all), 1000)] })

// looksThenTakes is a log whose jobs do not see each other for a moment.
func looksThenTakes(m *mutantLog) {
	m.take = func(_ context.Context, _ flow.Setup, job string, places []flow.Position) error {
		for _, l := range m.Kept() {
			for _, p := range places {
				if placeOf(p) == placeOf(l.Place) && l.Job != "" && l.Job != job {
					return &flow.TakenError{Place: p, Job: l.Job}
				}
			}
		}
		<-time.After(50 * time.Millisecond)
		m.edit(func(k *keptLetter) { k.Job = job }, places...)
		return nil
	}
}

// The suite finds every one of these faults.
func TestLetterMutants(t *testing.T) {
	impatient(t)
	for _, m := range letterMutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			mustFail(t, LetterCases(lettersHarness(func(l *LetterLog) flow.LetterLog {
				broken := &mutantLog{LetterLog: l}
				m.mutate(broken)
				return broken
			})), m.foundBy)
		})
	}
}

// Every case has a mutant that it finds.
func TestLetterCasesCanFail(t *testing.T) {
	for _, c := range LetterCases(lettersHarness(nil)) {
		found := false
		for _, m := range letterMutants {
			found = found || m.foundBy == c.Name
		}
		if !found {
			t.Errorf("no mutant shows that %s can fail", c.Name)
		}
	}
}
