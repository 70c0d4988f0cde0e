// Package operate tests a running penstock as its operator uses it, with real services: many flows in
// one process, reload under load, and flows that are steered over the admin API.
//
// What belongs here: what needs a process, a Kafka and a database together. What does not: faults
// (test/faults, test/crash), and what a package can test by itself.
package operate
