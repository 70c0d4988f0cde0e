package position

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstockdev/penstock/flow"
)

// Target is a place in a log. One of Beginning, End, Time and Offsets is set.
type Target struct {
	// Beginning and End are those of the log, in each partition.
	Beginning, End bool
	// Time: the first record of that time or later; where there is none, the end.
	Time time.Time
	// Offsets are the next offsets to read. Partitions that are not in it stay where they are.
	Offsets map[flow.Partition]int64
	// Only are the partitions that Beginning, End and Time are about; one with ID -1
	// stands for all of its topic. Nil: all.
	Only []flow.Partition
}

// targets is what messages say of what can be named.
const targets = "want beginning, end, a time like 2026-11-21T07:00:00Z, a time ago like -2h or -3d, or offsets like orders/0=1200,orders/3=900"

// ParseTarget reads what a person has written: beginning (or earliest), end (latest), a time of
// RFC 3339, a time ago (-90m, -2h, -3d), or topic/partition=offset, several with commas between.
func ParseTarget(s string) (Target, error) { return parseTarget(s, time.Now()) }

func parseTarget(s string, now time.Time) (t Target, err error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "beginning", s == "earliest":
		return Target{Beginning: true}, nil
	case s == "end", s == "latest":
		return Target{End: true}, nil
	case strings.Contains(s, "="):
		t.Offsets, err = parseOffsets(s)
		return t, err
	case strings.HasPrefix(s, "-"):
		d, err := parseAgo(s[1:])
		if err != nil {
			return t, fmt.Errorf("%q is no time ago: %s", s, targets)
		}
		return Target{Time: now.Add(-d)}, nil
	}
	if t.Time, err = time.Parse(time.RFC3339Nano, s); err != nil {
		return Target{}, fmt.Errorf("%q is no place in a log: %s", s, targets)
	}
	if t.Time.After(now) {
		return Target{}, fmt.Errorf("%s is in the future: for what comes from now on, say end", s)
	}
	return t, nil
}

// TargetError is the error of a place that cannot be: it is the asker's to mend.
type TargetError struct{ text string }

func (e *TargetError) Error() string { return e.text }

func badTarget(format string, args ...any) error { return &TargetError{fmt.Sprintf(format, args...)} }

// parseAgo takes days, too.
func parseAgo(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err //nolint:gosec // 16 bits
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("it is negative")
	}
	return d, err
}

func parseOffsets(s string) (map[flow.Partition]int64, error) {
	out := map[flow.Partition]int64{}
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		name, offset, _ := strings.Cut(entry, "=")
		slash := strings.LastIndexByte(name, '/')
		if slash < 1 {
			return nil, fmt.Errorf("%q: want topic/partition=offset, as in orders/0=1200", entry)
		}
		id, err := strconv.ParseInt(name[slash+1:], 10, 32)
		if err != nil || id < 0 {
			return nil, fmt.Errorf("%q: %q is no partition: want topic/partition=offset, as in orders/0=1200", entry, name[slash+1:])
		}
		n, err := strconv.ParseInt(offset, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q: %q is no offset: want topic/partition=offset, as in orders/0=1200", entry, offset)
		}
		p := flow.Partition{Topic: name[:slash], ID: int32(id)}
		if _, twice := out[p]; twice {
			return nil, fmt.Errorf("%s is named twice", p)
		}
		out[p] = n
	}
	return out, nil
}

// about says whether the target sets the partition.
func (t *Target) about(p flow.Partition) bool {
	if t.Offsets != nil {
		_, ok := t.Offsets[p]
		return ok
	}
	return len(t.Only) == 0 || slices.ContainsFunc(t.Only, func(o flow.Partition) bool { return o.Topic == p.Topic && (o.ID == p.ID || o.ID < 0) })
}

// named are the partitions that the target names.
func (t *Target) named() []flow.Partition {
	out := slices.Clone(t.Only)
	for p := range t.Offsets {
		out = append(out, p)
	}
	slices.SortFunc(out, compare)
	return out
}
