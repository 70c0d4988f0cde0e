// Package penstock is the root of Penstock, the pipe between a log (Kafka,
// NATS) and the place where its records are needed (a database, another log,
// a function of yours), at the speed of the slower end, with nothing lost,
// repeated or reordered.
//
// The root holds no code. The packages:
//
//	flow            the engine and its contracts: Source, Transform, Sink
//	flow/flowtest   the conformance suite for sources and sinks
//	connect         Spec and Registry: how a connector describes itself
//	connect/...     the connectors: kafka, postgres, sqlite, stdout
//	decode          bytes to typed columns
//	config          YAML files to flows
//	telemetry       metrics and health over HTTP
//	cmd/penstock    the binary
package penstock
