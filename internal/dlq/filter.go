package dlq

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/expr"
)

// ID names a letter by where its record was read: topic/partition/offset.
type ID struct {
	flow.Partition
	Offset int64
}

// IDOf is the letter's.
func IDOf(l *flow.Letter) ID { return ID{l.Partition, l.Record.Offset} }

func (id ID) String() string { return fmt.Sprintf("%s/%d/%d", id.Topic, id.Partition.ID, id.Offset) }

// ParseID reads topic/partition/offset.
func ParseID(s string) (id ID, err error) {
	parts := strings.Split(s, "/")
	if len(parts) >= 3 {
		k := len(parts)
		partition, perr := strconv.ParseInt(parts[k-2], 10, 32)
		offset, oerr := strconv.ParseInt(parts[k-1], 10, 64)
		id = ID{flow.Partition{Topic: strings.Join(parts[:k-2], "/"), ID: int32(partition)}, offset}
		if perr == nil && oerr == nil && id.Topic != "" && partition >= 0 && offset >= 0 {
			return id, nil
		}
	}
	return ID{}, fmt.Errorf("%q is not the id of a dead letter: want topic/partition/offset of the record, as in orders/3/1042 (penstock dlq list --letters shows them)", s)
}

// Filter chooses letters. What is not set chooses all; several things that are set must all hold.
type Filter struct {
	IDs     []ID     // one of them
	Classes []string // one of them
	// Since and Until bound when the record became a dead letter: from Since on, before Until.
	Since, Until time.Time
	Topic        string // that the record was read from
	Key          string // of the record
	Text         string // that is somewhere in the value or in the message
	Column       string
	Where        *expr.Filter
	// Limit is how many letters at most; 0: no limit.
	Limit int
	// Said is how a person has put all of it, the same whenever it is said again: "2h ago" stays that.
	Said string
}

// Match reports whether the letter is chosen, the limit aside. A letter for which
// Where cannot be evaluated is not (see expr.Filter.Failures).
func (f *Filter) Match(l *flow.Letter) bool {
	switch {
	case len(f.IDs) > 0 && !slices.Contains(f.IDs, IDOf(l)),
		len(f.Classes) > 0 && !slices.Contains(f.Classes, l.Class),
		!f.Since.IsZero() && l.Since.Before(f.Since),
		!f.Until.IsZero() && !l.Since.Before(f.Until),
		f.Topic != "" && f.Topic != l.Topic,
		f.Key != "" && f.Key != string(l.Record.Key),
		f.Text != "" && !bytes.Contains(l.Record.Value, []byte(f.Text)) && !strings.Contains(l.Message, f.Text),
		f.Column != "" && f.Column != l.Column:
		return false
	case f.Where != nil:
		e := env(l)
		ok, _ := f.Where.Match(&e) // counted
		return ok
	}
	return true
}

// env is the letter as expressions see it.
func env(l *flow.Letter) expr.Env {
	e := expr.Record(l.Partition, l.Record)
	e.Class, e.Column, e.Message = l.Class, l.Column, l.Message
	return e
}

// ParseTime reads a time: RFC 3339, a date, or how long ago ("2h", "90m", "3d").
func ParseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	ago, day := strings.CutSuffix(strings.TrimPrefix(s, "-"), "d")
	if days, err := strconv.ParseFloat(ago, 64); day && err == nil && days >= 0 {
		return now.Add(-time.Duration(days * float64(24*time.Hour))), nil
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: want one like 2026-01-31T12:00:00Z or 2026-01-31 (UTC), or how long ago, like 90m, 2h or 3d", s)
}

// histogram groups letters.
type histogram struct{ groups map[groupKey]*Group }

type groupKey struct{ class, topic, column string }

func (h *histogram) add(l *flow.Letter, quarantined bool) {
	k := groupKey{l.Class, l.Topic, l.Column}
	g := h.groups[k]
	if g == nil {
		if h.groups == nil {
			h.groups = map[groupKey]*Group{}
		}
		// What a letter holds is valid during the call alone.
		k = groupKey{strings.Clone(l.Class), strings.Clone(l.Topic), strings.Clone(l.Column)}
		id := IDOf(l)
		id.Topic = k.topic
		g = &Group{Class: k.class, Topic: k.topic, Column: k.column, First: l.Since, Last: l.Since, Example: id.String(), Message: strings.Clone(l.Message)}
		h.groups[k] = g
	}
	g.Letters++
	if quarantined {
		g.Quarantined++
	}
	if l.Since.Before(g.First) {
		g.First = l.Since
	}
	if l.Since.After(g.Last) {
		g.Last = l.Since
	}
}

// sorted are the groups, the largest first.
func (h *histogram) sorted() []Group {
	out := make([]Group, 0, len(h.groups))
	for _, g := range h.groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Letters, a.Letters), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Column, b.Column))
	})
	return out
}
