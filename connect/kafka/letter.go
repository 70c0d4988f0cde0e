package kafka

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
)

// A dead letter in a topic is the record as it was read, key, value and headers,
// with these headers after its own. Values are text. Where a record was a dead
// letter before, a name is there twice: the last one counts.
//
// The first group has the names of Kafka Connect, for tools that know them;
// Connect's task.id, class.name and exception.stacktrace mean nothing here and
// are left out. The record's own time is in HeaderTimestamp: the time of the
// letter is that of its writing, or retention would remove old records at once.
const (
	HeaderTopic     = "__connect.errors.topic"                // topic it was read from
	HeaderPartition = "__connect.errors.partition"            // partition it was read from
	HeaderOffset    = "__connect.errors.offset"               // its offset there
	HeaderConnector = "__connect.errors.connector.name"       // name of the flow
	HeaderStage     = "__connect.errors.stage"                // VALUE_CONVERTER (decode), TRANSFORMATION (transform) or TASK_PUT (write)
	HeaderException = "__connect.errors.exception.class.name" // class, as in HeaderClass
	HeaderMessage   = "__connect.errors.exception.message"    // what was wrong, for a person; at most 4 KiB

	HeaderVersion   = "penstock.dead_letter.version"   // version of this table: 1
	HeaderID        = "penstock.dead_letter.id"        // cluster/topic id/partition/offset: letters with the same id are the same
	HeaderClass     = "penstock.dead_letter.class"     // malformed, type, range, null, constraint, ...: see flow.DeadLetter
	HeaderColumn    = "penstock.dead_letter.column"    // column at fault; absent if none is
	HeaderTimestamp = "penstock.dead_letter.timestamp" // the record's own time, RFC 3339 in UTC
)

const (
	letterVersion = "1"
	maxMessage    = 4 << 10
)

// connectStages are Kafka Connect's names of the stages.
var connectStages = map[flow.Stage]string{
	flow.StageDecode:    "VALUE_CONVERTER",
	flow.StageTransform: "TRANSFORMATION",
	flow.StageWrite:     "TASK_PUT",
}

// letterRecord copies: the letter's bytes are the source's, and kgo may hold the
// record longer than Put lasts.
func letterRecord(l *flow.DeadLetter, flowName string) *kgo.Record {
	r := &kgo.Record{Key: bytes.Clone(l.Record.Key), Value: bytes.Clone(l.Record.Value)}
	for _, h := range l.Record.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
	}
	add := func(key, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	stage, ok := connectStages[l.Stage]
	if !ok {
		stage = string(l.Stage)
	}
	partition, offset := strconv.Itoa(int(l.ID)), strconv.FormatInt(l.Record.Offset, 10)
	add(HeaderTopic, l.Topic)
	add(HeaderPartition, partition)
	add(HeaderOffset, offset)
	add(HeaderConnector, flowName)
	add(HeaderStage, stage)
	add(HeaderException, l.Class)
	add(HeaderMessage, truncate(l.Message, maxMessage))
	add(HeaderVersion, letterVersion)
	topic := l.TopicID
	if topic == "" { // an old cluster: the name is the best there is
		topic = l.Topic
	}
	add(HeaderID, l.ClusterID+"/"+topic+"/"+partition+"/"+offset)
	add(HeaderClass, l.Class)
	if l.Column != "" {
		add(HeaderColumn, l.Column)
	}
	add(HeaderTimestamp, time.UnixMicro(l.Record.Timestamp).UTC().Format(time.RFC3339Nano))
	return r
}

// truncate cuts s to at most n bytes, between characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// recordSize is about what the record takes in a batch.
func recordSize(r *kgo.Record) int {
	const framing = 32
	n := len(r.Key) + len(r.Value) + framing
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10
	}
	return n
}
