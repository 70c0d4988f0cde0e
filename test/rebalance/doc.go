// Package rebalance holds the tests that measure what a rebalance costs each
// partition: real Kafka and PostgreSQL, a steady load, and members in processes
// of their own that join, leave and are killed while one member stays.
//
// What belongs here: whatever says how long a partition waits for its next
// batch while the group changes, and that none of its records is lost or doubled
// by it. Faults of other kinds are in test/crash.
//
// Longer runs: go test ./test/rebalance -v -args -cycles=50.
package rebalance
