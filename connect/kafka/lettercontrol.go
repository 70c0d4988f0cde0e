package kafka

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

// control is the value of a control record: what a job does with letters. It is in the
// partition of its letters, after them, so that retention, which removes
// from the beginning, never removes it before them.
type control struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	Job     string `json:"job"`
	Flow    string `json:"flow"`
	// Places are offsets in this partition, ascending: the first one, then how far each is
	// from the one before.
	Places []int64 `json:"places"`
}

const controlVersion = 1

// The operations.
const (
	opTake    = "take"    // letters that are open belong to the job from now on
	opRelease = "release" // letters of the job are open again
	opRemove  = "remove"  // letters of the job are gone
)

// largestControl bounds the value of a control record in bytes.
const largestControl = 16 << 10

// isControl says that the record is a control record: a letter whose record had such
// a header has those of its failure behind it.
func isControl(r *flow.Record) bool {
	return failedAt(r.Headers) < 0 && slices.ContainsFunc(r.Headers, func(h flow.Header) bool { return h.Key == HeaderJob })
}

// controlRecords says what a job does with letters of one partition, given by their
// offsets, in records of at most so many bytes, or a little more.
func controlRecords(c control, partition int32, offsets []int64, limit int) ([]*kgo.Record, error) {
	const digits = 20 // of an offset, and a comma
	offsets = slices.Compact(slices.Sorted(slices.Values(offsets)))
	c.Version = controlVersion
	var out []*kgo.Record
	for some := range slices.Chunk(offsets, max(1, min(limit, largestControl)/digits)) {
		c.Places = make([]int64, len(some))
		last := int64(0)
		for i, o := range some {
			c.Places[i], last = o-last, o
		}
		value, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		out = append(out, &kgo.Record{Partition: partition, Value: value, Headers: []kgo.RecordHeader{{Key: HeaderJob, Value: []byte(c.Job)}}})
	}
	return out, nil
}

func parseControl(r *flow.Record) (c control, err error) {
	if err := json.Unmarshal(r.Value, &c); err != nil {
		return c, fmt.Errorf("it has header %s, but its value cannot be read: %w", HeaderJob, err)
	}
	if c.Version != controlVersion {
		return c, fmt.Errorf("it has version %d, and this program knows %d: use a newer one", c.Version, controlVersion)
	}
	return c, nil
}

// offsets are the places, one after the other.
func (c *control) offsets() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		at := int64(0)
		for _, d := range c.Places {
			if at += d; !yield(at) {
				return
			}
		}
	}
}

// letterFold is what the control records of a partition say, in log order: the first job that takes an
// open letter has it until it releases it. A take of a letter that is not open, and whatever a job does
// with letters that are not its own, mean nothing. It keeps about 30 bytes for each letter that was ever taken
// and that the topic still has.
type letterFold struct {
	begin, next int64           // of the part of the log that it is about
	holder      map[int64]int32 // by offset: index into jobs, or gone; open letters have none
	jobs        []string
	index       map[string]int32
}

const gone int32 = -1

func newLetterFold() *letterFold {
	return &letterFold{holder: map[int64]int32{}, index: map[string]int32{}}
}

// trim forgets what the log does not hold any more.
func (f *letterFold) trim(begin int64) {
	if begin <= f.begin {
		return
	}
	f.begin, f.next = begin, max(f.next, begin)
	for o := range f.holder {
		if o < begin {
			delete(f.holder, o)
		}
	}
}

// add takes the next record of the partition in.
func (f *letterFold) add(r *flow.Record) error {
	if !isControl(r) {
		return nil
	}
	c, err := parseControl(r)
	if err != nil {
		return err
	}
	job, ok := f.index[c.Job]
	if !ok {
		job = int32(len(f.jobs)) //nolint:gosec // jobs that people have begun
		f.index[c.Job], f.jobs = job, append(f.jobs, c.Job)
	}
	for at := range c.offsets() {
		h, taken := f.holder[at]
		switch {
		case at < f.begin: // retention has removed the letter
		case c.Op == opTake && !taken:
			f.holder[at] = job
		case c.Op == opRelease && taken && h == job:
			delete(f.holder, at)
		case c.Op == opRemove && taken && h == job:
			f.holder[at] = gone
		}
	}
	return nil
}

// of returns the job that has the letter, empty if it is open, and whether it was removed.
func (f *letterFold) of(offset int64) (job string, removed bool) {
	switch h, taken := f.holder[offset]; {
	case !taken:
		return "", false
	case h == gone:
		return "", true
	default:
		return f.jobs[h], false
	}
}
