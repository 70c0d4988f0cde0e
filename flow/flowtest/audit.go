package flowtest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// Report is what Audit has found.
type Report struct {
	Produced, Rows, Dead int
	// Lost records are neither rows nor dead letters; Doubled are more than
	// once; Reordered are rows whose first appearance follows that of a later
	// record of the partition; Altered differ from what was produced; Unknown
	// were never produced.
	Lost, Doubled, Reordered, Altered, Unknown []string
}

// Audit compares what was produced with what is durable, record by record.
// Rows are in the order of insertion and carry their partition and offset.
func Audit(produced map[flow.Partition][]flow.Record, rows []Row, dead []DeadRow) *Report {
	r := &Report{Rows: len(rows), Dead: len(dead)}
	type id struct {
		flow.Partition
		offset int64
	}
	seen := map[id]int{}
	known := map[id]*flow.Record{}
	for p, records := range produced {
		r.Produced += len(records)
		for i := range records {
			known[id{p, records[i].Offset}] = &records[i]
		}
	}
	note := func(k id, got *flow.Record) bool {
		name := fmt.Sprintf("%s@%d", k.Partition, k.offset)
		want := known[k]
		if want == nil {
			r.Unknown = append(r.Unknown, name)
			return false
		}
		if why := DiffRecord(want, got); why != "" {
			r.Altered = append(r.Altered, name+": "+why)
		}
		seen[k]++
		if seen[k] == 2 {
			r.Doubled = append(r.Doubled, name)
		}
		return seen[k] == 1
	}
	last := map[flow.Partition]int64{}
	for i := range rows {
		row := &rows[i]
		if !note(id{row.Partition, row.Offset}, &row.Record) {
			continue
		}
		if before, ok := last[row.Partition]; ok && row.Offset < before {
			r.Reordered = append(r.Reordered, fmt.Sprintf("%s@%d", row.Partition, row.Offset))
			continue
		}
		last[row.Partition] = row.Offset
	}
	for i := range dead {
		note(id{dead[i].Partition, dead[i].Record.Offset}, dead[i].Record)
	}
	for k := range known {
		if seen[k] == 0 {
			r.Lost = append(r.Lost, fmt.Sprintf("%s@%d", k.Partition, k.offset))
		}
	}
	slices.Sort(r.Lost)
	return r
}

// ExactlyOnce is an error unless every record is durable once, as it was
// produced and in order.
func (r *Report) ExactlyOnce() error { return r.err(true) }

// AtLeastOnce is ExactlyOnce but for records that are there more than once.
func (r *Report) AtLeastOnce() error { return r.err(false) }

func (r *Report) err(once bool) error {
	var wrong []string
	add := func(what string, names []string) {
		if len(names) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s (%s)", len(names), what, abbreviate(names)))
		}
	}
	add("lost", r.Lost)
	if once {
		add("doubled", r.Doubled)
	}
	add("out of order", r.Reordered)
	add("altered", r.Altered)
	add("never produced", r.Unknown)
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("of %d records produced, %d rows and %d dead letters are durable: %s",
		r.Produced, r.Rows, r.Dead, strings.Join(wrong, "; "))
}

func abbreviate(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// DiffRecord says in what two records differ, positions aside; empty if in nothing.
func DiffRecord(want, got *flow.Record) string {
	switch {
	case !same(want.Key, got.Key):
		return fmt.Sprintf("the key is %s, not %s", show(got.Key), show(want.Key))
	case !same(want.Value, got.Value):
		return fmt.Sprintf("the value is %s, not %s", show(got.Value), show(want.Value))
	case want.Timestamp != got.Timestamp:
		return fmt.Sprintf("the timestamp is %d, not %d", got.Timestamp, want.Timestamp)
	case len(want.Headers) != len(got.Headers):
		return fmt.Sprintf("there are %d headers, not %d", len(got.Headers), len(want.Headers))
	}
	for i, h := range want.Headers {
		if g := got.Headers[i]; g.Key != h.Key || !bytes.Equal(g.Value, h.Value) {
			return fmt.Sprintf("header %d is %s=%s, not %s=%s", i, g.Key, show(g.Value), h.Key, show(h.Value))
		}
	}
	return ""
}

// same compares bytes, and tells nil from empty.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func show(b []byte) string {
	switch {
	case b == nil:
		return "nil"
	case len(b) > 40:
		return fmt.Sprintf("%q… (%d bytes)", b[:40], len(b))
	}
	return fmt.Sprintf("%q", b)
}
