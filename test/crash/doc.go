// Package crash proves that nothing is lost, doubled or reordered when
// processes, databases and brokers die. Its tests build the binary with
// failpoints, run it from real Kafka to PostgreSQL, SQLite and Kafka, kill,
// freeze and cut what a test is about, and in the end check every row by key and
// sequence. No table has a unique key that could hide a duplicate.
//
// Each test runs its negative control in the same job: a naive consumer
// (test/rig/naive) that the same fault and the same check must catch. A fault
// test whose control passes proves nothing, and fails.
//
// The number of kills is a flag: go test ./test/crash -args -kills=1000
// -broker-kills=20 -storm=1m.
package crash
