package rig

import (
	"fmt"
	"strings"
)

// Verdict is what the check of all rows found.
type Verdict struct {
	Rows, Dead int
	Lost       int
	Doubled    int
	Reordered  int
	WrongDead  int
	examples   []string
}

// OK says that nothing is wrong.
func (v *Verdict) OK() bool { return v.Lost+v.Doubled+v.Reordered+v.WrongDead == 0 }

func (v *Verdict) String() string {
	s := fmt.Sprintf("%d rows, %d dead letters: %d lost, %d doubled, %d reordered, %d dead letters wrong", v.Rows, v.Dead, v.Lost, v.Doubled, v.Reordered, v.WrongDead)
	if len(v.examples) > 0 {
		s += "\n  " + strings.Join(v.examples, "\n  ")
	}
	return s
}

func (v *Verdict) note(format string, args ...any) {
	if len(v.examples) < 10 {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// Row is one row of the target table.
type Row struct {
	Place
	Device string
	Seq    int64
}

// Verify checks all rows, which come in the order of their insertion, against
// what was written to the topic.
func (l *Topic) Verify(rows []Row, dead []Place) *Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &Verdict{Rows: len(rows), Dead: len(dead)}
	seen := map[string][]int{} // device -> how often each number was seen
	for d, n := range l.seq {
		seen[fmt.Sprintf("d%02d", d)] = make([]int, n+1)
	}
	type series struct { // a device that moves to another partition begins anew
		device string
		part   int32
	}
	last := map[int32]int64{}
	lastSeq := map[series]int64{}
	for i, r := range rows {
		counts := seen[r.Device]
		if r.Seq < 1 || r.Seq >= int64(len(counts)) {
			v.Lost++
			v.note("row %d: device %q has no number %d", i, r.Device, r.Seq)
			continue
		}
		counts[r.Seq]++
		before, any := last[r.Part]
		switch {
		case counts[r.Seq] > 1:
			v.Doubled++
			v.note("row %d: device %s number %d again, from partition %d offset %d", i, r.Device, r.Seq, r.Part, r.Off)
		case any && r.Off <= before, r.Seq <= lastSeq[series{r.Device, r.Part}]:
			v.Reordered++
			v.note("row %d: device %s number %d, partition %d offset %d, after offset %d, number %d", i, r.Device, r.Seq, r.Part, r.Off, before, lastSeq[series{r.Device, r.Part}])
		}
		last[r.Part], lastSeq[series{r.Device, r.Part}] = max(before, r.Off), max(lastSeq[series{r.Device, r.Part}], r.Seq)
	}
	for device, counts := range seen {
		for seq := 1; seq < len(counts); seq++ {
			if counts[seq] == 0 {
				v.Lost++
				v.note("device %s number %d is not there", device, seq)
			}
		}
	}
	letters := map[Place]int{}
	for _, p := range dead {
		letters[p]++
		if !l.bad[p] || letters[p] > 1 {
			v.WrongDead++
			v.note("dead letter of partition %d offset %d: malformed %t, seen %d times", p.Part, p.Off, l.bad[p], letters[p])
		}
	}
	for p := range l.bad {
		if letters[p] == 0 {
			v.WrongDead++
			v.note("no dead letter of partition %d offset %d", p.Part, p.Off)
		}
	}
	return v
}
