package crash

import (
	"fmt"
	"strings"
)

// verdict is what the check of all rows found.
type verdict struct {
	rows, dead int
	lost       int
	doubled    int
	reordered  int
	wrongDead  int
	examples   []string
}

func (v *verdict) ok() bool { return v.lost+v.doubled+v.reordered+v.wrongDead == 0 }

func (v *verdict) String() string {
	s := fmt.Sprintf("%d rows, %d dead letters: %d lost, %d doubled, %d reordered, %d dead letters wrong", v.rows, v.dead, v.lost, v.doubled, v.reordered, v.wrongDead)
	if len(v.examples) > 0 {
		s += "\n  " + strings.Join(v.examples, "\n  ")
	}
	return s
}

func (v *verdict) note(format string, args ...any) {
	if len(v.examples) < 10 {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// row is one row of the target table.
type row struct {
	place
	device string
	seq    int64
}

// verify checks all rows, which come in the order of their insertion, against
// what was written to the topic.
func (l *topicLog) verify(rows []row, dead []place) *verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &verdict{rows: len(rows), dead: len(dead)}
	seen := map[string][]int{} // device -> how often each number was seen
	for d, n := range l.seq {
		seen[fmt.Sprintf("d%02d", d)] = make([]int, n+1)
	}
	last := map[int32]int64{}
	lastSeq := map[string]int64{}
	for i, r := range rows {
		counts := seen[r.device]
		if r.seq < 1 || r.seq >= int64(len(counts)) {
			v.lost++
			v.note("row %d: device %q has no number %d", i, r.device, r.seq)
			continue
		}
		counts[r.seq]++
		before, any := last[r.part]
		switch {
		case counts[r.seq] > 1:
			v.doubled++
			v.note("row %d: device %s number %d again, from partition %d offset %d", i, r.device, r.seq, r.part, r.off)
		case any && r.off <= before, r.seq <= lastSeq[r.device]:
			v.reordered++
			v.note("row %d: device %s number %d, partition %d offset %d, after offset %d, number %d", i, r.device, r.seq, r.part, r.off, before, lastSeq[r.device])
		}
		last[r.part], lastSeq[r.device] = max(before, r.off), max(lastSeq[r.device], r.seq)
	}
	for device, counts := range seen {
		for seq := 1; seq < len(counts); seq++ {
			if counts[seq] == 0 {
				v.lost++
				v.note("device %s number %d is not there", device, seq)
			}
		}
	}
	letters := map[place]int{}
	for _, p := range dead {
		letters[p]++
		if !l.bad[p] || letters[p] > 1 {
			v.wrongDead++
			v.note("dead letter of partition %d offset %d: malformed %t, seen %d times", p.part, p.off, l.bad[p], letters[p])
		}
	}
	for p := range l.bad {
		if letters[p] == 0 {
			v.wrongDead++
			v.note("no dead letter of partition %d offset %d", p.part, p.off)
		}
	}
	return v
}
