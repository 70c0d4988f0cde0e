// Package faults proves that nothing is lost, doubled or reordered when the
// database or the machine fails under a flow that runs: bad networks, failover, a full disk, rights
// and columns that are gone, a database that is away, large records in little
// memory, a clock that jumps. It also holds that what the flow says of it (in its log
// or at /readyz) tells a person what to do.
//
// Each test runs a broken consumer under the same fault: the naive one of
// test/rig, or one of this package that is careless about errors. What checks the
// flow must catch it; where that makes no sense the test says why.
//
// Faults that kill processes, and those of Kafka, are test/crash's.
package faults
