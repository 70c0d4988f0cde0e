package flowtest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/penstockdev/penstock/flow"
)

func noLetters(c *letterCase) {
	c.want()
	if c.log.Place() == "" {
		c.Error("Place says nothing")
	}
	if got := c.shown(c.logs.Missing(c), theFlow); len(got) != 0 {
		c.Errorf("a log that does not exist has %d letters", len(got))
	}
}

// compare finds every letter again, as it was kept.
func (c *letterCase) compare(want []flow.Letter, since time.Time) {
	c.Helper()
	got := c.shown(c.logs.Log(c), theFlow)
	if len(got) != len(want) {
		c.Fatalf("%d letters are shown, want %d", len(got), len(want))
	}
	const skew = time.Minute // of the clocks
	for i := range want {
		w := &want[i]
		k := slices.IndexFunc(got, func(g flow.Letter) bool { return identityOf(&g) == identityOf(w) })
		if k < 0 {
			c.Fatalf("the letter %s, redriven %d times, is not shown; the first that is: %s, redriven %d times", identityOf(w), w.Redrives, identityOf(&got[0]), got[0].Redrives)
		}
		g := &got[k]
		if why := DiffRecord(w.Record, g.Record); why != "" {
			c.Errorf("the letter %s: %s", identityOf(w), why)
		}
		if g.Stage != w.Stage || g.Class != w.Class || g.Column != w.Column || g.Message != w.Message {
			c.Errorf("the letter %s failed for %q, %q, column %q, %q, want %q, %q, column %q, %q", identityOf(w),
				g.Stage, g.Class, g.Column, g.Message, w.Stage, w.Class, w.Column, w.Message)
		}
		if g.Since.Before(since.Add(-skew)) || g.Since.After(time.Now().Add(skew)) {
			c.Errorf("the letter %s is one since %s, want since %s", identityOf(w), g.Since, since)
		}
		if g.Job != "" {
			c.Errorf("the new letter %s belongs to job %s", identityOf(w), g.Job)
		}
	}
}

func lettersAreWhole(c *letterCase) {
	began := time.Now()
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	letters := newLetters(0, 0, 1, 2, 3, 1<<40)
	letters = append(letters, newLetter(1<<20, 0, 7))
	for i, l := range letters {
		r := l.Record
		switch i {
		case 0:
			r.Key, r.Value, r.Headers, r.Timestamp = nil, nil, nil, 0
		case 1:
			r.Key, r.Value, r.Timestamp = []byte{}, []byte{}, -1
		case 2:
			r.Key, r.Value, r.Timestamp = binary, bytes.Clone(binary), epoch+123_456
			r.Headers = []flow.Header{{Key: "h", Value: binary}, {Key: "", Value: []byte("no key")}, {Key: "h", Value: []byte{}}, {Key: "h"}, {Key: "g"}, {Key: "h", Value: []byte("é")}}
		case 3:
			letters[i].Stage, letters[i].Class, letters[i].Column, letters[i].Message = flow.StageDecode, "malformed", "", "not “JSON”\n\tat byte 3"
		case 4:
			letters[i].Stage, letters[i].Class = flow.StageTransform, "tombstone"
			r.Value = nil
		}
	}
	c.put(letters...)
	c.compare(letters, began)
}

// oddTimestamps has what producers write that take the unit for another.
func oddTimestamps(c *letterCase) {
	began := time.Now()
	letters := newLetters(0, 0, 1, 2, 3, 4)
	letters[0].Record.Timestamp = epoch / 1000                                                    // 1970
	letters[1].Record.Timestamp = epoch * 1000                                                    // the year 57969
	letters[2].Record.Timestamp = time.Date(-1000, 2, 29, 23, 59, 59, 1000, time.UTC).UnixMicro() // a leap year
	letters[3].Record.Timestamp = math.MaxInt64
	letters[4].Record.Timestamp = math.MinInt64
	c.put(letters...)
	// The last times that there are may become others, as long as the letters are there.
	for _, l := range c.all() {
		if i := l.Record.Offset; i >= 3 {
			letters[i].Record.Timestamp = l.Record.Timestamp
		}
	}
	c.compare(letters, began)
}

// largeLetters are read a few at a time; doubles stay doubles all the same.
func largeLetters(c *letterCase) {
	began := time.Now()
	var letters []flow.Letter
	for o := range int64(10) {
		l := newLetter(0, o, 0)
		l.Record.Value = bytes.Repeat([]byte{'a' + byte(o)}, 900_000)
		letters = append(letters, l)
		c.put(l, l)
	}
	c.compare(letters, began)
}

func orderOfLetters(c *letterCase) {
	wrote := map[int32][]int64{}
	for n := range int64(6) {
		var letters []flow.Letter
		for p := range int32(5) {
			for i := range int64(10) {
				// Lanes that fail write what is left later: the order is that of keeping.
				o := 1000 - n*100 + i*(int64(p)%3-1)*7
				letters = append(letters, newLetter(p, o+int64(p), int(n)))
				if p%3 != 1 || i == 0 { // what was kept twice is shown where it was first
					wrote[p] = append(wrote[p], o+int64(p))
				}
			}
		}
		c.put(letters...)
	}
	got := map[int32][]int64{}
	places := map[letterPlace]bool{}
	for _, l := range c.shown(c.logs.Log(c), theFlow) {
		got[l.ID] = append(got[l.ID], l.Record.Offset)
		places[placeOf(l.Place)] = true
	}
	n := 0
	for p, want := range wrote {
		n += len(want)
		if !slices.Equal(got[p], want) {
			c.Errorf("the letters of partition %d are shown in order %d, want %d", p, got[p], want)
		}
	}
	if len(places) != n {
		c.Errorf("%d letters are at %d places", n, len(places))
	}
}

// doublesAreOne: a letter that is there twice is taken, released and removed as one.
func doublesAreOne(c *letterCase) {
	c.put(newLetters(0, 1, 2, 1, 3)...)
	c.put(newLetters(0, 1)...)
	c.want("1", "2", "3")
	one := c.some(1)
	c.take("a", one)
	c.put(newLetters(0, 1)...) // the flow was set back meanwhile
	c.want("1 a", "2", "3")
	c.refused("b", c.some(), one[0], "a")
	c.release("a", one)
	c.want("1", "2", "3")
	c.take("b", one)
	c.remove("b", one)
	c.want("2", "3")
}

// redrivesAreApart: a letter that fails again is another one.
func redrivesAreApart(c *letterCase) {
	c.put(newLetter(0, 1, 0), newLetter(0, 1, 1), newLetter(0, 2, 0), newLetter(0, 1, 1), newLetter(0, 1, 2))
	c.want("1", "1+1", "1+2", "2")
	c.take("a", c.some(1)[:1])
	c.want("1 a", "1+1", "1+2", "2")
	c.remove("a", c.some(1)[:1])
	c.want("1+1", "1+2", "2")
	odd := newLetter(0, 3, 0) // its producer wrote the header
	odd.Record.Headers = append(odd.Record.Headers, flow.Header{Key: flow.HeaderRedrives, Value: []byte("99999999999999999999")})
	c.put(odd)
	c.want("1+1", "1+2", "2", "3")
}

// sourcesAreApart: the same offset of another partition, cluster, topic, or of a topic that was
// made anew, is another letter.
func sourcesAreApart(c *letterCase) {
	began := time.Now()
	letters := newLetters(0, 1, 1, 1, 1, 1)
	letters[1].ID = 3
	letters[2].ClusterID = "another"
	letters[3].Topic += "2"
	letters[4].TopicID = "another"
	c.put(letters...)
	c.compare(letters, began)
	ps := c.some()
	c.take("a", ps[1:])
	c.want("1", "1 a", "1 a", "1 a", "1 a")
	c.remove("a", ps[1:])
	c.want("1")
}

// lettersOfOtherFlows: Put keeps letters under their own flow, not that of the process.
func lettersOfOtherFlows(c *letterCase) {
	other := newLetter(0, 2, 0)
	other.Flow = "other"
	same := newLetter(0, 1, 0) // with the same identity but for the flow
	same.Flow = "other"
	c.put(append(newLetters(0, 1, 3), other, same)...)
	c.want("1", "3")
	if got := c.shown(c.log, lettersOf("other")); len(got) != 2 {
		c.Errorf("the other flow has %d letters, want 2", len(got))
	}
	if got := c.shown(c.log, lettersOf("flowtest.redrive.job")); len(got) != 0 {
		c.Errorf("the flow that has put them has %d letters, want none", len(got))
	}
	all := c.some()
	c.take("a", all)
	c.remove("a", all)
	c.want()
	for _, l := range c.shown(c.log, lettersOf("other")) {
		if l.Job != "" {
			c.Errorf("the letter %s of the other flow belongs to job %s", identityOf(&l), l.Job)
		}
	}
}

func takeAllOrNone(c *letterCase) {
	c.put(append(newLetters(0, 0, 1, 2), newLetters(1, 3, 4)...)...)
	all := c.some()
	zero, two, four := c.some(0), c.some(2), c.some(4)
	c.take("a", two)
	c.take("b", four)
	c.refused("b", all, two[0], "a")
	c.want("0", "1", "2 a", "3", "4 b") // what b had before it still has
	c.take("a", c.some(1))
	c.remove("a", two)
	c.refused("b", append(zero, two...), two[0], "")
	c.want("0", "1 a", "3", "4 b")
}

func takeTwice(c *letterCase) {
	c.put(append(newLetters(0, 0, 1, 2), newLetters(1, 3)...)...)
	all := c.some()
	c.take("a", nil)
	c.take("a", all[:2])
	c.take("a", all[:2]) // the job goes on after it was killed
	c.take("a", append(all, all...))
	c.want("0 a", "1 a", "2 a", "3 a")
	c.release("a", all)
	// The same command was given twice.
	must(c, errors.Join(c.together(wish{"a", all}, wish{"a", all})...), "Take of one job in two processes")
	c.want("0 a", "1 a", "2 a", "3 a")
}

func takeUnknownPlace(c *letterCase) {
	c.put(newLetters(0, 0, 1)...)
	all := c.some()
	beyond := all[1]
	beyond.Offset += 1 << 30
	c.refused("a", append(all, beyond), beyond, "")
	c.want("0", "1")
	before := all[0]
	before.Offset = -1
	c.refused("a", []flow.Position{before}, before, "")
}

func jobsNeedNames(c *letterCase) {
	c.put(newLetters(0, 0)...)
	if err := c.log.Take(c.ctx, theFlow, "", c.some()); err == nil {
		c.Error("a job without name has taken letters")
	}
	c.want("0")
}

// wish is what a job wants to take.
type wish struct {
	job    string
	places []flow.Position
}

// together grants wishes at the same time, each in a process of its own.
func (c *letterCase) together(wishes ...wish) []error {
	c.Helper()
	errs := make([]error, len(wishes))
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i, w := range wishes {
		log := c.logs.Log(c)
		wg.Go(func() {
			<-begin
			errs[i] = log.Take(c.ctx, theFlow, w.job, w.places)
		})
	}
	close(begin)
	wg.Wait()
	return errs
}

// contest lets jobs compete and checks who has what afterwards: the winners have all that they wanted, and the
// others nothing. It returns the winners.
func (c *letterCase) contest(wishes ...wish) (winners []wish) {
	c.Helper()
	won := map[string]bool{}
	for i, err := range c.together(wishes...) {
		w := wishes[i]
		var taken *flow.TakenError
		switch {
		case err == nil:
			winners, won[w.job] = append(winners, w), true
		case !errors.As(err, &taken):
			c.Fatalf("Take for job %s: %v, want a *flow.TakenError", w.job, err)
		case taken.Job == w.job:
			c.Fatalf("Take for job %s was refused because of a letter that it has itself", w.job)
		}
	}
	has := map[letterPlace]string{}
	for _, l := range c.shown(c.logs.Log(c), theFlow) {
		if has[placeOf(l.Place)] = l.Job; l.Job != "" && !won[l.Job] {
			c.Errorf("job %s was refused and has the letter %s", l.Job, identityOf(&l))
		}
	}
	for _, w := range winners {
		for _, p := range w.places {
			if other := has[placeOf(p)]; other != w.job {
				c.Errorf("job %s took the letter at %s, offset %d, which job %q has", w.job, p.Partition, p.Offset, other)
			}
		}
	}
	return winners
}

// jobsWantTheSame: one gets the letters.
func jobsWantTheSame(c *letterCase) {
	for p := range int32(3) {
		c.put(newLetters(p, 0, 1, 2, 3)...)
	}
	all := c.some()
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	for range 2 {
		winners := c.contest(wish{"a", all}, wish{"b", backwards}, wish{"c", all}, wish{"d", backwards})
		if len(winners) != 1 {
			c.Fatalf("%d jobs have got the same letters, want one", len(winners))
		}
		c.release(winners[0].job, all)
	}
}

// jobsOverlap: of jobs that want some letters of each other, at least one gets what it wants, and whoever
// overlaps with nobody always does.
func jobsOverlap(c *letterCase) {
	for p := range int32(3) {
		c.put(newLetters(p, 0, 1, 2, 3, 4, 5)...)
	}
	all := c.some()
	for range 2 {
		winners := c.contest(wish{"a", all[:6]}, wish{"b", all[4:10]}, wish{"c", all[8:14]}, wish{"alone", all[14:]})
		alone := slices.ContainsFunc(winners, func(w wish) bool { return w.job == "alone" })
		if !alone || len(winners) < 2 {
			c.Fatalf("%d jobs have got what they wanted, and the one that no other competes with: %t", len(winners), alone)
		}
		for _, w := range winners {
			c.release(w.job, w.places)
		}
	}
}

func releaseOpens(c *letterCase) {
	c.put(append(newLetters(0, 0, 1), newLetters(1, 2, 3)...)...)
	all := c.some()
	c.take("a", all)
	c.release("b", all) // none is its own
	c.want("0 a", "1 a", "2 a", "3 a")
	for range 2 { // the second time there is nothing left to do
		c.release("a", c.some(0, 3))
	}
	c.want("0", "1 a", "2 a", "3")
	c.take("b", c.some(0))
	c.release("a", all)
	c.release("a", nil)
	c.want("0 b", "1", "2", "3")
}

func removeEnds(c *letterCase) {
	c.put(append(newLetters(0, 0, 1, 2), newLetters(1, 3, 4)...)...)
	all := c.some()
	c.remove("a", all) // it has taken none
	c.remove("a", nil)
	c.want("0", "1", "2", "3", "4")
	c.take("a", c.some(1, 3))
	c.remove("b", all)
	c.want("0", "1 a", "2", "3 a", "4")
	for range 2 { // the second time there is nothing left to do
		c.remove("a", all)
	}
	c.want("0", "2", "4")
}

// removeIsFinal: what a place was given to it is for ever.
func removeIsFinal(c *letterCase) {
	c.put(newLetters(0, 0, 1)...)
	old := c.some()
	c.take("a", old)
	c.remove("a", old)
	c.release("a", old)
	c.want()
	c.put(newLetters(0, 2)...)
	for _, p := range c.some(2) {
		if slices.ContainsFunc(old, func(o flow.Position) bool { return placeOf(o) == placeOf(p) }) {
			c.Errorf("the place %s, offset %d, was that of a letter which was removed", p.Partition, p.Offset)
		}
	}
	c.refused("a", old[1:], old[1], "")
	c.refused("b", old[:1], old[0], "")
	c.remove("a", old)
	c.want("2")
}

// failsAgain: a record that fails again after its letter was removed (the flow's position was set
// back) is a letter again. What was there twice before is gone with the first.
func failsAgain(c *letterCase) {
	c.put(newLetters(0, 0, 1, 0)...)
	c.take("a", c.some(0))
	c.remove("a", c.some(0))
	c.want("1")
	c.put(newLetters(0, 0)...)
	c.want("0", "1")
	c.put(newLetters(0, 0)...)
	c.want("0", "1")
	c.take("b", c.some(0))
	c.remove("b", c.some(0))
	c.want("1")
}

// appendedMeanwhile: a flow that fails all the time must not keep Letters from ending, nor does what
// another process does with letters that are being shown.
func appendedMeanwhile(c *letterCase) {
	c.put(newLetters(0, 0, 1, 2)...)
	other := c.logs.Log(c)
	calls, next := map[int64]int{}, int64(3)
	err := c.log.Letters(c.ctx, theFlow, func(l *flow.Letter) error {
		if calls[l.Record.Offset]++; next > 30 {
			return errors.New("it goes on for ever")
		}
		if next == 3 {
			if err := other.Take(c.ctx, theFlow, "a", []flow.Position{l.Place}); err != nil {
				return err
			}
		}
		next++
		return other.Put(c.ctx, theFlow, newLetters(0, next-1))
	})
	must(c, err, "Letters while letters are appended")
	for o := range next {
		if n := calls[o]; n > 1 || n == 0 && o < 3 {
			c.Errorf("letter %d was shown %d times", o, n)
		}
	}
	if got := c.shown(c.logs.Log(c), theFlow); int64(len(got)) != next || got[0].Job != "a" {
		c.Errorf("afterwards %d letters are shown, want %d, of which the first was taken", len(got), next)
	}
}

func errorOfTheCaller(c *letterCase) {
	c.put(newLetters(0, 0, 1, 2, 3)...)
	boom := errors.New("boom")
	calls := 0
	err := c.log.Letters(c.ctx, theFlow, func(*flow.Letter) error {
		if calls++; calls == 2 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || calls != 2 {
		c.Errorf("Letters returned %v after %d calls, want the caller's error after 2", err, calls)
	}
	c.want("0", "1", "2", "3")
}

// lettersUntilCancelled: who is shown only some letters is told.
func lettersUntilCancelled(c *letterCase) {
	var offsets []int64
	for o := range int64(100) {
		offsets = append(offsets, o)
	}
	c.put(newLetters(0, offsets...)...)
	ctx, cancel := context.WithCancel(c.ctx)
	calls := 0
	err := within(c, soon, "Letters, cancelled", func() error {
		return c.log.Letters(ctx, theFlow, func(*flow.Letter) error {
			calls++
			cancel()
			return nil
		})
	})
	if err == nil && calls < len(offsets) {
		c.Errorf("Letters returned nil after %d of %d letters", calls, len(offsets))
	}
	if err := c.log.Letters(ctx, theFlow, func(*flow.Letter) error { return nil }); err == nil {
		c.Error("Letters returned nil with a context that had ended")
	}
}

// manyLetters would not end if what is done with a letter took longer the more there are.
func manyLetters(c *letterCase) {
	const n, partitions = 10_000, 4
	letters := make([]flow.Letter, n)
	for i := range letters {
		letters[i] = newLetter(int32(i%partitions), int64(i), 0)
	}
	c.put(letters...)
	all := c.some()
	if len(all) != n {
		c.Fatalf("%d letters are shown, want %d", len(all), n)
	}
	c.take("a", all)
	last := all[n-1:]
	c.refused("b", last, last[0], "a")
	taken := 0
	for _, l := range c.shown(c.logs.Log(c), theFlow) {
		if l.Job == "a" {
			taken++
		}
	}
	if taken != n {
		c.Fatalf("%d letters are taken, want %d", taken, n)
	}
	c.remove("a", all[:n-1])
	if got := c.shown(c.logs.Log(c), theFlow); len(got) != 1 || placeOf(got[0].Place) != placeOf(last[0]) {
		c.Fatalf("%d letters are left, want the last", len(got))
	}
}
