package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/flow"
)

func kafkaConnectors() []connect.Entry {
	return []connect.Entry{
		connect.Source[kafka.SourceConfig]{
			Name: "kafka", Doc: "Topics of a Kafka cluster, read as a member of a consumer group.",
			New: func(c kafka.SourceConfig) (flow.Source, error) { return kafka.NewSource(c) },
		},
		connect.Sink[kafka.SinkConfig]{
			Name: "kafka", Doc: "Topics of a Kafka cluster: exactly once within a cluster, records and positions in one transaction, or at least once. The connection is that of the source, but only as a whole: set any of brokers, tls, sasl and none is taken over.",
			StoresDeadLetters: true,
			New:               kafka.NewSink,
		},
		connect.DeadLetters[kafka.DeadLetterConfig]{
			Name: "kafka", Doc: "A Kafka topic: at least once, with an id to recognise repeats by. The connection is that of the source, but only as a whole: set any of brokers, tls, sasl and none is taken over.",
			New: func(c kafka.DeadLetterConfig) (flow.DeadLetterQueue, error) { return kafka.NewDeadLetters(c) },
		},
	}
}
