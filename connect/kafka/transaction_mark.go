package kafka

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/flow"
)

// markPrefix begins what a flow leaves as metadata of the offsets that it
// commits.
const markPrefix = "penstock:"

// mark is the metadata of a committed offset. A flow that keeps its positions
// elsewhere, or writes at least once, leaves its name alone:
//
//	penstock:<flow>
//	penstock:<flow>;owner=<n>;writer=<transactional id>;topic=<topic id>;source=<hash>;target=<hash>
type mark struct {
	flow string
	// owner is the owner epoch of the partition; writer is the transactional id
	// of the lane that has it.
	owner   int64
	writer  string
	topicID string
	// source and target are hashes of what the flow reads and writes.
	source, target string
}

func (m *mark) String() string {
	if m.source == "" {
		return markPrefix + m.flow
	}
	return fmt.Sprintf("%s%s;owner=%d;writer=%s;topic=%s;source=%s;target=%s", markPrefix, m.flow, m.owner, m.writer, m.topicID, m.source, m.target)
}

// parseMark reads the metadata of an offset; false for what others leave there.
func parseMark(metadata string) (m mark, ok bool) {
	rest, ok := strings.CutPrefix(metadata, markPrefix)
	if !ok {
		return m, false
	}
	name, rest, _ := strings.Cut(rest, ";")
	m.flow = name
	for field := range strings.SplitSeq(rest, ";") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "owner":
			m.owner, _ = strconv.ParseInt(value, 10, 64)
		case "writer":
			m.writer = value
		case "topic":
			m.topicID = value
		case "source":
			m.source = value
		case "target":
			m.target = value
		}
	}
	return m, true
}

// fingerprint shortens what must not change while a flow has positions.
func fingerprint(s string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return fmt.Sprintf("%016x", h.Sum64())
}

// kept is what the group keeps of a partition.
type kept struct {
	flow.Checkpoint
	mark
	// marked says that the offset is one of a TransactionalSink; others have no owner.
	marked bool
}
