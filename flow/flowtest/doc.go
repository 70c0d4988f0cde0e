// Package flowtest is the conformance suite of Penstock's connectors, and the
// test doubles that the engine is tested with.
//
// What belongs here: RunSink, RunSource and RunFlow, which every sink, every
// source and every pair of them passes; RunLetters, which everything passes that
// keeps dead letters for people to work with; Log, Table and LetterLog, a
// partitioned log, a transactional table and a dead-letter topic in memory that
// behave as real ones do, faults included; and Audit, which finds lost, doubled
// and reordered records. What does not: anything that knows a client library, and
// anything that production code imports.
//
// # Adding a connector
//
// A connector's test fills in a SinkHarness or a SourceHarness, which says how
// to make a fresh target or topic and what the connector can do (its features),
// and calls RunSink or RunSource; RunFlow takes the pair of both, and
// LogHarness and TableHarness give the other half to those who have only one. For
// whatever keeps dead letters, RunLetters takes a LettersHarness.
//
// The list of cases is computed from the features: a case that needs an ability
// which they do not name is not there. A case that needs a hook which the
// harness leaves nil (Break, Poison, Gap) logs that there is nothing to test.
// Do not leave a hook nil where the real thing can be made to fail.
package flowtest
