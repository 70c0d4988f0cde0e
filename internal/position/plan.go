package position

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
)

// Plan is what setting positions would do.
type Plan struct {
	Flow string
	// Moves are the positions that change, in order; none: the flow stands there already.
	Moves []Move
	// Again and Skipped are the sums of those of Moves.
	Again, Skipped int64
	// Consequence says what comes of it for the target, in sentences.
	Consequence string
	// Members are the processes that run the flow now; while there are any, the plan cannot be applied.
	Members []string
}

// Move is how the position of one partition changes.
type Move struct {
	flow.Partition
	TopicID string
	// From is -1 where the flow has no position yet.
	From, To int64
	// Begin and End are what the log holds.
	Begin, End int64
	// Again are the offsets that are read a second time, Skipped those that never are. Not
	// each holds a record: logs have gaps.
	Again, Skipped int64
	// Consequence says it in a sentence.
	Consequence string
}

// plan works out the moves to the target. at are the positions of its time.
func (v *view) plan(t Target, at []flow.Position) (*Plan, error) {
	if v.keeper == nil {
		return nil, errors.New("whoever keeps the positions of this flow cannot set them from outside")
	}
	if err := v.check(&t); err != nil {
		return nil, err
	}
	p := &Plan{Flow: v.flow, Members: v.members}
	for i := range v.log.Partitions {
		info := &v.log.Partitions[i]
		if !t.about(info.Partition) {
			continue
		}
		to := info.Begin
		switch {
		case t.Offsets != nil:
			to = t.Offsets[info.Partition]
			if to < info.Begin || to > info.End {
				return nil, badTarget("%s: offset %d is not in the log, which holds %d to %d: say a number from %[3]d to %[4]d (the end: only what comes from now on)",
					info.Partition, to, info.Begin, info.End)
			}
		case t.End:
			to = info.End
		case !t.Beginning:
			to = info.End
			if k := slices.IndexFunc(at, func(a flow.Position) bool { return a.Partition == info.Partition }); k >= 0 {
				to = min(max(at[k].Offset, info.Begin), info.End)
			}
		}
		p.add(v, info, to)
	}
	v.complete(p)
	slices.SortFunc(p.Moves, func(a, b Move) int { return compare(a.Partition, b.Partition) })
	p.Consequence = v.summary(p)
	return p, nil
}

// check refuses a target that names what there is not.
func (v *view) check(t *Target) error {
	n := 0
	for _, set := range []bool{t.Beginning, t.End, !t.Time.IsZero(), t.Offsets != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return badTarget("no place is given, or more than one: %s", targets)
	}
	for _, p := range t.named() {
		if slices.ContainsFunc(v.log.Partitions, func(i flow.PartitionInfo) bool { return i.Topic == p.Topic && (i.ID == p.ID || p.ID < 0) }) {
			continue
		}
		partitions, topics := 0, []string{}
		for i := range v.log.Partitions {
			if v.log.Partitions[i].Topic == p.Topic {
				partitions++
			}
			if !slices.Contains(topics, v.log.Partitions[i].Topic) {
				topics = append(topics, v.log.Partitions[i].Topic)
			}
		}
		switch {
		case partitions > 0:
			return badTarget("%s: the topic has the partitions 0 to %d", p, partitions-1)
		case v.at(p) != nil:
			return badTarget("%s is not in the log any more: the position that the flow has there means nothing, and is not read", p)
		}
		return badTarget("flow %s does not read topic %s; it reads %s", v.flow, p.Topic, strings.Join(topics, ", "))
	}
	return nil
}

// start is where the flow would begin to read a partition that has no position.
func (v *view) start(info *flow.PartitionInfo) int64 {
	if v.whole && len(v.stored) > 0 {
		return info.Begin // a partition that is newer than the flow
	}
	return info.Start
}

// add adds the move of one partition, if it is one.
func (p *Plan) add(v *view, info *flow.PartitionInfo, to int64) {
	m := Move{Partition: info.Partition, TopicID: info.TopicID, From: -1, To: to, Begin: info.Begin, End: info.End}
	s := v.at(info.Partition)
	from := v.start(info) // where reading would go on otherwise
	if s != nil {
		if s.Offset == to && !remade(s, info) {
			return
		}
		m.From, from = s.Offset, s.Offset
	}
	w := v.writing(info.Topic)
	switch {
	case s == nil && to == from:
		m.Consequence = "begins where it would have begun"
	case s == nil && to > from:
		m.Skipped = to - from
		m.Consequence = "has no position yet and begins later: " + skipped(m.Skipped, w)
	case s == nil:
		m.Consequence = fmt.Sprintf("has no position yet and begins earlier, with %s more", records(from-to))
	case remade(s, info):
		m.Skipped = to - info.Begin
		m.Consequence = "the topic was deleted and made anew, and its position means nothing any more"
		if m.Skipped > 0 {
			m.Consequence += "; of the new one " + skipped(m.Skipped, w)
		}
	case from > info.End:
		m.Again = info.End - to
		m.Consequence = "its position is beyond the end of the log, which has lost its tail, or is another"
		if m.Again > 0 {
			m.Consequence += ": " + again(m.Again, w)
		}
	case to < from:
		m.Again = from - to
		m.Consequence = again(m.Again, w)
	default:
		m.Skipped = to - max(from, info.Begin)
		if from < info.Begin {
			m.Consequence = fmt.Sprintf("%s that retention has removed before they were read are given up", records(info.Begin-from))
		}
		if m.Skipped > 0 {
			m.Consequence = join(m.Consequence, skipped(m.Skipped, w))
		}
	}
	p.Moves = append(p.Moves, m)
	p.Again += m.Again
	p.Skipped += m.Skipped
}

// complete adds the partitions that must get a position together with those that the
// plan gives one: all that have none, of the same topics, and of all topics where the flow never ran. The engine takes
// one that is missing beside others for removed.
func (v *view) complete(p *Plan) {
	fresh := map[string]bool{}
	for i := range p.Moves {
		if p.Moves[i].From < 0 {
			fresh[p.Moves[i].Topic] = true
		}
	}
	if !v.whole || len(fresh) == 0 {
		return
	}
	for i := range v.log.Partitions {
		info := &v.log.Partitions[i]
		planned := slices.ContainsFunc(p.Moves, func(m Move) bool { return m.Partition == info.Partition })
		if !planned && v.at(info.Partition) == nil && (fresh[info.Topic] || len(v.stored) == 0) {
			p.add(v, info, v.start(info))
		}
	}
}

// same refuses a plan that is not true any more.
func (v *view) same(p *Plan) error {
	t := Target{Offsets: map[flow.Partition]int64{}}
	for i := range p.Moves {
		t.Offsets[p.Moves[i].Partition] = p.Moves[i].To
	}
	now, err := v.plan(t, nil)
	if err != nil {
		return err
	}
	for i := range max(len(now.Moves), len(p.Moves)) {
		switch {
		case i == len(now.Moves), i == len(p.Moves), now.Moves[i].Partition != p.Moves[i].Partition:
			return &MovedError{Flow: v.flow, What: "other partitions have come to have positions, or to have none,"}
		case now.Moves[i].From != p.Moves[i].From:
			return &MovedError{Flow: v.flow, What: fmt.Sprintf("the position of %s has moved from %d to %d", p.Moves[i].Partition, p.Moves[i].From, now.Moves[i].From)}
		case now.Moves[i].TopicID != p.Moves[i].TopicID:
			return &MovedError{Flow: v.flow, What: fmt.Sprintf("topic %s was deleted and made anew", p.Moves[i].Topic)}
		}
	}
	return nil
}

// writing is how records of the topic are written; zero if that is not known.
func (v *view) writing(topic string) config.Writing {
	if i := v.route(topic); i < len(v.writings) {
		return v.writings[i]
	}
	return config.Writing{}
}

// summary says what comes of the whole plan, for each way of writing.
func (v *view) summary(p *Plan) string {
	if len(p.Moves) == 0 {
		return "The flow stands there already."
	}
	type sum struct {
		w              config.Writing
		again, skipped int64
	}
	var sums []sum
	for i := range p.Moves {
		m := &p.Moves[i]
		w := v.writing(m.Topic)
		k := slices.IndexFunc(sums, func(s sum) bool { return s.w.Table == w.Table && s.w.Mode == w.Mode })
		if k < 0 {
			k = len(sums)
			sums = append(sums, sum{w: w})
		}
		sums[k].again += m.Again
		sums[k].skipped += m.Skipped
	}
	var out []string
	for _, s := range sums {
		if s.again > 0 {
			out = append(out, again(s.again, s.w))
		}
		if s.skipped > 0 {
			out = append(out, skipped(s.skipped, s.w))
		}
	}
	if len(out) == 0 {
		out = append(out, "nothing is read twice, and nothing is skipped")
	}
	for i := range out {
		out[i] = strings.ToUpper(out[i][:1]) + out[i][1:] + "."
	}
	if !slices.ContainsFunc(p.Moves, func(m Move) bool { return m.From >= 0 }) && len(v.stored) == 0 {
		out = append(out, "The flow has never run: it begins at these positions.")
	}
	if len(p.Members) > 0 {
		out = append(out, "The flow runs, so its positions move on, and cannot be set before it is stopped: penstock stop "+p.Flow+".")
	}
	return strings.Join(out, " ")
}

// again says what comes of reading records a second time.
func again(n int64, w config.Writing) string {
	s := records(n) + " " + are(n) + " read again"
	switch w.Mode {
	case "append":
		return s + ", and as the mode is append, " + rows(n) + " written" + to(w) + " a second time (where a unique key of the table forbids that, as dead letters)"
	case "ignore":
		return s + "; as the mode is ignore, rows" + of(w) + " that are there by their key stay as they are"
	case "upsert":
		return s + "; as the mode is upsert, rows" + of(w) + " go back to what these records say, and are as they were when the last has been written"
	}
	return s + " and written to the target a second time: whoever reads there sees them twice"
}

// skipped says what comes of not reading records.
func skipped(n int64, w config.Writing) string {
	s := records(n) + " " + are(n) + " never read"
	if w.Table != "" {
		return s + ": what they say will be missing in table " + w.Table
	}
	return s + ": the target will not have them"
}

func to(w config.Writing) string {
	if w.Table == "" {
		return ""
	}
	return " to table " + w.Table
}

func of(w config.Writing) string {
	if w.Table == "" {
		return ""
	}
	return " of table " + w.Table
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func are(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// records counts offsets: not each has a record.
func records(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return "up to " + number(n) + " records"
}

func rows(n int64) string {
	if n == 1 {
		return "its row is"
	}
	return "up to " + number(n) + " rows are"
}

// number writes 1234567 as 1,234,567.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
