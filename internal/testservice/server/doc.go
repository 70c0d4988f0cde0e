// Package server starts real servers for tests and stops them by process id:
// Apache Kafka, PostgreSQL and PgBouncer, each on free loopback ports, each in
// a directory of its own. It also installs what is missing, where it may.
//
// It knows nothing about testing; package testservice does.
package server
