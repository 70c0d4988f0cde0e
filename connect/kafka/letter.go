package kafka

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/timetext"
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

	// HeaderJob is what a control record has, and no letter: the job that takes, releases or
	// removes letters of the partition. See control.
	HeaderJob = "penstock.dead_letter.job"
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

// ofFailure says that letterRecord adds the header.
func ofFailure(key string) bool {
	return strings.HasPrefix(key, "__connect.errors.") || strings.HasPrefix(key, "penstock.dead_letter.")
}

// failedAt is where the headers of the last failure begin; -1 if there are none.
func failedAt(headers []flow.Header) int {
	for i, h := range slices.Backward(headers) {
		if h.Key == HeaderTopic {
			return i
		}
	}
	return -1
}

// parseLetter is the opposite of letterRecord; false for a record that is none. The letter
// has the bytes of the record.
func parseLetter(r *flow.Record) (l flow.Letter, ok bool, err error) {
	at := failedAt(r.Headers)
	if at < 0 {
		return l, false, nil
	}
	own, said := r.Headers[:at:at], map[string]string{}
	for _, h := range r.Headers[at:] {
		if !ofFailure(h.Key) {
			own = append(own, h) // of a tool that has copied the letter
			continue
		}
		said[h.Key] = string(h.Value)
	}
	id, ok := said[HeaderID]
	if !ok { // Connect's own
		return l, false, nil
	}
	if v := said[HeaderVersion]; v != letterVersion {
		return l, true, fmt.Errorf("it has version %q, and this program knows %s: use a newer one", v, letterVersion)
	}
	wrong := func(header string) error { return fmt.Errorf("header %s is %q", header, said[header]) }
	record := &flow.Record{Key: r.Key, Value: r.Value, Headers: own}
	if record.Offset, err = strconv.ParseInt(said[HeaderOffset], 10, 64); err != nil {
		return l, true, wrong(HeaderOffset)
	}
	partition, err := strconv.ParseInt(said[HeaderPartition], 10, 32)
	if err != nil {
		return l, true, wrong(HeaderPartition)
	}
	where, ok := strings.CutSuffix(id, "/"+said[HeaderPartition]+"/"+said[HeaderOffset])
	slash := strings.LastIndexByte(where, '/')
	if !ok || slash < 0 {
		return l, true, wrong(HeaderID)
	}
	stamp, err := timetext.Parse(time.RFC3339Nano, said[HeaderTimestamp])
	if err != nil {
		return l, true, wrong(HeaderTimestamp)
	}
	record.Timestamp = stamp.UnixMicro()
	l = flow.Letter{Flow: said[HeaderConnector], Since: time.UnixMicro(r.Timestamp).UTC(), Redrives: flow.Redrives(own)}
	l.DeadLetter = flow.DeadLetter{
		ClusterID: where[:slash], Partition: flow.Partition{Topic: said[HeaderTopic], ID: int32(partition)}, TopicID: where[slash+1:], Record: record,
		Stage: flow.Stage(said[HeaderStage]), Class: said[HeaderClass], Column: said[HeaderColumn], Message: said[HeaderMessage],
	}
	if l.TopicID == l.Topic { // an old cluster; see letterRecord
		l.TopicID = ""
	}
	for stage, name := range connectStages {
		if name == said[HeaderStage] {
			l.Stage = stage
		}
	}
	return l, true, nil
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
