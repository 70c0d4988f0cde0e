// Package kafka reads flows from Apache Kafka (Source) and writes dead letters
// to a topic (DeadLetters), on franz-go.
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
// A revocation waits for AllowRebalance (BlockRebalanceOnPoll), that is, for
// the end of a Read that delivers. An assignment does not: kgo adds partitions
// while others are polled. The gate closes that hole: an assignment interrupts
// a Read that waits, lets one that delivers finish, and keeps the next one out
// until the engine has answered. Whoever waits at the gate waits with a context.
//
// After a revocation kgo holds nothing of the partitions any more: it drops
// buffered fetches before it calls back, and a poll takes its result and the
// lock that forbids a revocation in one step. So nothing stale is delivered
// when a partition returns.
package kafka
