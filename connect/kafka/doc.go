// Package kafka reads flows from Apache Kafka (Source), writes them to topics
// (Sink at least once, TransactionalSink exactly once within a cluster) and
// keeps dead letters in a topic (DeadLetters; LetterLog for those who work with them), on franz-go.
//
// What belongs here: everything that speaks to a Kafka cluster for a flow: the
// connection (TLS, SASL) and what its errors mean to a person, the group
// session, positions, and the forms in which Penstock writes records. What does
// not: batching, retries, checkpoints (package flow), and decoding.
//
// # Two clients
//
// A Source has an admin client, which asks for topics, offsets and epochs from
// Open on, and from Subscribe on a group client, which joins the group and
// fetches. kgo joins a group when the client is made, and Open must not.
//
// # Who decides where to read
//
// Never the client: it resets no offset (NoResetOffset), and commits none by
// itself. Whenever kgo has new partitions, it asks AdjustFetchOffsetsFn for
// their offsets, and the answer is the engine's (Intake.Assigned). An error
// there would end the whole group session, so what can fail is retried inside,
// until the assignment itself ends.
//
// # Order of callbacks and deliveries
//
// Partitions are assigned and revoked while others are polled (kgo without
// BlockRebalanceOnPoll): what a member keeps is read on, however long the engine
// takes to let a partition go or to take one over. Two rules keep stale
// records out. What is being revoked is marked first, under the lock that a
// delivery holds: it is delivered before, or not at all. And polls are numbered: what
// a poll brings of a partition that was assigned since the poll began may have been
// taken before the revocation, so it is dropped and fetched again. A poll that
// begins later brings nothing old, because kgo drops what it has buffered of a partition
// before it calls back.
package kafka
