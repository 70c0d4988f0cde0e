package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// The ways to choose a record's partition in the target topic.
const (
	partitionKeep   = "keep"
	partitionKey    = "key"
	partitionSticky = "sticky"
)

// partitioner chooses by the configured way for rows, and leaves dead letters
// where the writer has put them.
type partitioner struct {
	rows       kgo.Partitioner
	deadLetter string // the topic of dead letters; empty without one
}

func newPartitioner(way, deadLetter string) kgo.Partitioner {
	p := partitioner{deadLetter: deadLetter}
	switch way {
	case partitionKey:
		p.rows = kgo.StickyKeyPartitioner(nil) // murmur2, as Java's clients
	case partitionSticky:
		p.rows = kgo.StickyPartitioner()
	default:
		p.rows = kgo.ManualPartitioner()
	}
	return p
}

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.deadLetter {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.rows.ForTopic(topic)
}
