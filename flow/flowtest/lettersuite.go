package flowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// LettersHarness says how to test a flow.LetterLog.
type LettersHarness struct {
	// New makes a fresh log without letters, of several partitions where it can have them. It
	// frees what it made through t.Cleanup.
	New func(t testing.TB) *Letters
}

// Letters is a log of dead letters, as its test sees it.
type Letters struct {
	// Log makes the log as a process has it that runs no flow. Every call is another process.
	Log func(t testing.TB) flow.LetterLog
	// Missing makes a log of which nothing exists yet, and which nobody has opened.
	Missing func(t testing.TB) flow.LetterLog
}

// RunLetters runs the suite on a log of dead letters.
func RunLetters(t *testing.T, h LettersHarness) {
	t.Helper()
	run(t, LetterCases(h))
}

// LetterCases are the cases that a log of dead letters must pass.
func LetterCases(h LettersHarness) []Case {
	var cases []Case
	for _, e := range []struct {
		name string
		run  func(*letterCase)
	}{
		{"NoLetters", noLetters},
		{"LettersAreWhole", lettersAreWhole},
		{"OddTimestamps", oddTimestamps},
		{"LargeLetters", largeLetters},
		{"OrderOfLetters", orderOfLetters},
		{"DoublesAreOne", doublesAreOne},
		{"RedrivesAreApart", redrivesAreApart},
		{"SourcesAreApart", sourcesAreApart},
		{"LettersOfOtherFlows", lettersOfOtherFlows},
		{"TakeAllOrNone", takeAllOrNone},
		{"TakeTwice", takeTwice},
		{"TakeUnknownPlace", takeUnknownPlace},
		{"JobsNeedNames", jobsNeedNames},
		{"JobsWantTheSame", jobsWantTheSame},
		{"JobsOverlap", jobsOverlap},
		{"ReleaseOpens", releaseOpens},
		{"RemoveEnds", removeEnds},
		{"RemoveIsFinal", removeIsFinal},
		{"FailsAgain", failsAgain},
		{"AppendedMeanwhile", appendedMeanwhile},
		{"ErrorOfTheCaller", errorOfTheCaller},
		{"LettersUntilCancelled", lettersUntilCancelled},
		{"ManyLetters", manyLetters},
	} {
		cases = append(cases, Case{e.name, func(t testing.TB) {
			c := &letterCase{TB: t, ctx: caseContext(t), logs: h.New(t)}
			c.log = c.logs.Log(t)
			e.run(c)
		}})
	}
	return cases
}

// lettersOf is a process that works with the dead letters of the flow.
func lettersOf(name string) flow.Setup {
	return flow.Setup{Flow: name, ClusterID: "cluster", Source: "group g, topics " + sinkTopic}
}

// theFlow is the flow whose letters the cases look at.
var theFlow = lettersOf("flowtest")

// letterCase is one case on a fresh log.
type letterCase struct {
	testing.TB
	ctx  context.Context
	logs *Letters
	log  flow.LetterLog // of a first process
}

// newLetter makes a letter of the flow.
func newLetter(partition int32, offset int64, redrives int) flow.Letter {
	r := items(int(offset), 1)[0].Record()
	r.Offset = offset
	if redrives > 0 {
		for n := range redrives { // whoever counts puts its count behind those of others
			r.Headers = append(r.Headers, flow.Header{Key: flow.HeaderRedrives, Value: strconv.AppendInt(nil, int64(n+1), 10)})
		}
	}
	return flow.Letter{Flow: theFlow.Flow, Redrives: redrives, DeadLetter: flow.DeadLetter{
		ClusterID: "source cluster", Partition: sinkPartition(partition), TopicID: "topic-id", Record: &r,
		Stage: flow.StageWrite, Class: "constraint", Column: "payload", Message: "it is not wanted",
	}}
}

// newLetters makes letters of these offsets.
func newLetters(partition int32, offsets ...int64) (out []flow.Letter) {
	for _, o := range offsets {
		out = append(out, newLetter(partition, o, 0))
	}
	return out
}

// put keeps letters, as a process that redrives does.
func (c *letterCase) put(letters ...flow.Letter) {
	c.Helper()
	must(c, c.log.Put(c.ctx, lettersOf("flowtest.redrive.job"), letters), "Put")
}

// shown are the letters that a process sees, copied.
func (c *letterCase) shown(log flow.LetterLog, s flow.Setup) []flow.Letter {
	c.Helper()
	var out []flow.Letter
	last := map[flow.Partition]int64{}
	err := log.Letters(c.ctx, s, func(l *flow.Letter) error {
		if l.Flow != s.Flow {
			c.Errorf("a letter of flow %q is shown to flow %q", l.Flow, s.Flow)
		}
		before, ok := last[l.Place.Partition]
		if ok && l.Place.Offset <= before {
			c.Errorf("the letter at %s, offset %d, is shown after that at %d", l.Place.Partition, l.Place.Offset, before)
		}
		last[l.Place.Partition] = l.Place.Offset
		out = append(out, cloneLetter(l))
		return nil
	})
	must(c, err, "Letters")
	return out
}

// all are the letters of the flow that the first process sees.
func (c *letterCase) all() []flow.Letter {
	c.Helper()
	return c.shown(c.log, theFlow)
}

// some are the places of the letters of these offsets, or of all.
func (c *letterCase) some(offsets ...int64) (out []flow.Position) {
	c.Helper()
	for _, l := range c.all() {
		if len(offsets) == 0 || slices.Contains(offsets, l.Record.Offset) {
			out = append(out, l.Place)
		}
	}
	if len(out) < len(offsets) {
		c.Fatalf("of the letters of offsets %d %d are shown", offsets, len(out))
	}
	return out
}

// want compares what another process sees, as "offset job", a letter with redrives as "offset+redrives job",
// in the order of the offsets.
func (c *letterCase) want(want ...string) {
	c.Helper()
	letters := c.shown(c.logs.Log(c), theFlow)
	slices.SortStableFunc(letters, func(a, b flow.Letter) int { return int(a.Record.Offset - b.Record.Offset) })
	var got []string
	for i := range letters {
		s := strconv.FormatInt(letters[i].Record.Offset, 10)
		if n := letters[i].Redrives; n > 0 {
			s += fmt.Sprintf("+%d", n)
		}
		if job := letters[i].Job; job != "" {
			s += " " + job
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) {
		c.Fatalf("shown are %q, want %q", got, want)
	}
}

func (c *letterCase) take(job string, places []flow.Position) {
	c.Helper()
	must(c, c.log.Take(c.ctx, theFlow, job, places), "Take for job "+job)
}

func (c *letterCase) release(job string, places []flow.Position) {
	c.Helper()
	must(c, c.log.Release(c.ctx, theFlow, job, places), "Release of job "+job)
}

func (c *letterCase) remove(job string, places []flow.Position) {
	c.Helper()
	must(c, c.log.Remove(c.ctx, theFlow, job, places), "Remove of job "+job)
}

// refused checks that another process cannot take the places for the job, because of
// the one that is of the holder; empty: it was removed, or never was.
func (c *letterCase) refused(job string, places []flow.Position, because flow.Position, holder string) {
	c.Helper()
	err := c.logs.Log(c).Take(c.ctx, theFlow, job, places)
	var taken *flow.TakenError
	switch {
	case !errors.As(err, &taken):
		c.Fatalf("Take for job %s returned %v, want a *flow.TakenError", job, err)
	case taken.Job != holder || placeOf(taken.Place) != placeOf(because):
		c.Fatalf("Take for job %s: %v; want the letter at %s, offset %d, of job %q", job, err, because.Partition, because.Offset, holder)
	}
}
