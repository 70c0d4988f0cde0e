package dlq

import (
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// placeBits are those of a place's offset. Above them is its partition.
const placeBits = 44

// offsetOf is the letter's offset in the redrive's flow: its place.
func offsetOf(l *flow.Letter) int64 { return int64(l.Place.ID)<<placeBits | l.Place.Offset }

// layout is a redrive's letters as partitions of a flow.
type layout struct {
	// ends are the ends of the partitions. There is no other letter of them above.
	ends map[flow.Partition]int64
	// homes is the partition of the letter log that has the letters of a partition; split says that
	// some have several. Then the log is read once for each of its partitions, because
	// offsets have to grow.
	homes map[flow.Partition]int32
	split bool
	all   []int32 // partitions of the log, in order
	// offsets are those of all letters, where they matter: in a job that is gone on with.
	offsets map[flow.Partition][]int64
}

func (y *layout) add(l *flow.Letter, keep bool) {
	if y.ends == nil {
		y.ends, y.homes, y.offsets = map[flow.Partition]int64{}, map[flow.Partition]int32{}, map[flow.Partition][]int64{}
	}
	p := l.Partition
	if _, ok := y.ends[p]; !ok {
		p.Topic = strings.Clone(p.Topic)
		y.ends[p], y.homes[p] = 0, l.Place.ID
	}
	if keep {
		y.offsets[p] = append(y.offsets[p], offsetOf(l))
	}
	y.ends[p] = max(y.ends[p], offsetOf(l)+1)
	y.split = y.split || y.homes[p] != l.Place.ID
	if i, ok := slices.BinarySearch(y.all, l.Place.ID); !ok {
		y.all = slices.Insert(y.all, i, l.Place.ID)
	}
}

// below counts the letters below the positions.
func (y *layout) below(positions map[flow.Partition]int64) (n int) {
	for p, offsets := range y.offsets {
		for _, o := range offsets {
			if o < positions[p] {
				n++
			}
		}
	}
	return n
}

// passes are the partitions of the log to read, in order; -1: all at once.
func (y *layout) passes() []int32 {
	if y.split {
		return y.all
	}
	return []int32{-1}
}

// partitions are those of the flow. There are no numbers missing, so that a part of the letters
// that is left looks like all of them.
func (y *layout) partitions() []flow.PartitionInfo {
	most := map[string]int32{}
	for p := range y.ends {
		most[p.Topic] = max(most[p.Topic], p.ID)
	}
	var out []flow.PartitionInfo
	for topic, last := range most {
		for id := int32(0); id <= last; id++ {
			p := flow.Partition{Topic: topic, ID: id}
			out = append(out, flow.PartitionInfo{Partition: p, End: y.ends[p], Committed: -1, LeaderEpoch: -1})
		}
	}
	slices.SortFunc(out, func(a, b flow.PartitionInfo) int { return compare(a.Partition, b.Partition) })
	return out
}

func compare(a, b flow.Partition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.ID) - int(b.ID)
}

// cloneLetter copies all that is valid during a call alone.
func cloneLetter(l *flow.Letter) flow.Letter {
	out := *l
	r := cloneRecord(l.Record)
	out.Record = &r
	for _, s := range []*string{&out.ClusterID, &out.Topic, &out.TopicID, &out.Class, &out.Column, &out.Message, &out.Flow, &out.Place.Topic, &out.Job} {
		*s = strings.Clone(*s)
	}
	return out
}

// cloneRecord leaves room for two headers more.
func cloneRecord(r *flow.Record) flow.Record {
	out := *r
	out.Key, out.Value = slices.Clone(r.Key), slices.Clone(r.Value)
	out.Headers = make([]flow.Header, len(r.Headers), len(r.Headers)+2)
	for i, h := range r.Headers {
		out.Headers[i] = flow.Header{Key: strings.Clone(h.Key), Value: slices.Clone(h.Value)}
	}
	return out
}

// countRedrive sets flow.HeaderRedrives to n.
func countRedrive(headers []flow.Header, n int) []flow.Header {
	headers = slices.DeleteFunc(headers, func(h flow.Header) bool { return h.Key == flow.HeaderRedrives })
	return append(headers, flow.Header{Key: flow.HeaderRedrives, Value: strconv.AppendInt(nil, int64(n), 10)})
}
