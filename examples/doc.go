// Package examples holds programs of some twenty lines that use Penstock as a
// library:
//
//	kafka-to-postgres  a topic into a table, exactly once
//	kafka-to-sqlite    the same into a file
//	batches            flow.SinkFunc: a function that is given batches, decoded
//	handler            flow.Handler: a function that is given records, many at a time
//
// All read the topic telemetry of the broker in KAFKA (default
// 127.0.0.1:19092, which is the Kafka of "penstock dev"), and run until Ctrl-C. They have
// no other settings, so that the code shows what matters; the fields of each
// configuration struct are those of the flow file.
//
// What belongs here: programs that are short enough to be read whole. The test
// builds and runs each of them against a broker.
package examples
