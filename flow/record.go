package flow

import "fmt"

// Partition names one partition of a topic. Sources without partitions use
// ID 0; a NATS stream or an outbox table is a Topic.
type Partition struct {
	Topic string
	ID    int32
}

func (p Partition) String() string { return fmt.Sprintf("%s[%d]", p.Topic, p.ID) }

// Position says where reading a partition continues.
type Position struct {
	Partition
	// TopicID tells a topic from another one of the same name that was made
	// after the first was deleted. Empty where the source has no such id.
	TopicID string
	// Offset is the next offset to read.
	Offset int64
	// LeaderEpoch is the epoch of the record before Offset; -1 if not known.
	LeaderEpoch int32
}

// Header is one record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is one message. Its slices are views into the source's fetch buffer:
// they hold until the batch that carries the record has been written, and are
// never modified. Whoever keeps bytes longer copies them.
type Record struct {
	// Key is nil where the message has none.
	Key []byte
	// Value is nil for a tombstone, and empty but not nil for an empty message.
	Value []byte
	// Headers keep their order and may repeat a key.
	Headers []Header
	// Timestamp is in microseconds since the Unix epoch.
	Timestamp int64
	// Offset is the record's own offset in its partition.
	Offset int64
	// Part is the index into Batch.Parts of the record's partition.
	Part int32
}

// Size is what the record counts against byte limits.
func (r *Record) Size() int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// recordOverhead is the size of Record itself, so that a million empty
// records do not count as nothing.
const recordOverhead = 96
