// Package sqlite is the sink that writes flows into a SQLite file, exactly
// once: the flow's positions live in the same file as the data and move in the same
// transaction.
//
// What belongs here: everything that speaks to SQLite on behalf of a flow. The
// package uses SQLite's own interface (modernc.org/sqlite/lib, SQLite
// translated to Go) rather than database/sql, because binding from one reused
// buffer costs no allocation per row; conn.go holds all of that.
//
// # The guarantee
//
// A batch is one transaction: BEGIN IMMEDIATE, compare-and-swap of the positions, the
// rows, the dead letters, COMMIT. A process that is killed at any instruction
// leaves either all of it or nothing. With synchronous full (the default) a
// committed batch also survives the loss of power. With synchronous normal the loss
// of power may undo the last batches, data and positions together, so that they
// are read again: still exactly once, as long as the log holds them.
//
// One process at a time writes a flow: a lock file beside the database
// (FILE-penstock-FLOW.lock) refuses a second one and says which process holds it. The lock
// goes with the process, however it dies. Where the system has no such locks,
// and should the lock file be removed, the owner epoch in the checkpoint fences: the write of
// the process that lost its partition is refused.
//
// A database has one writer at a time, so the flow has one lane.
//
// # Types
//
//	declared in the flow       stored as
//	text, uuid, json, jsonb    TEXT
//	int2, int4, int8           INTEGER
//	bool                       INTEGER, 0 or 1
//	float4, float8             REAL; not a number is refused, SQLite would store NULL
//	numeric, numeric(p,s)      TEXT, exactly as written, not rounded to s places as PostgreSQL
//	                           does: REAL would round it. A column of an
//	                           existing table that is declared NUMERIC or REAL converts it
//	timestamptz                TEXT, RFC 3339 in UTC: 2026-01-31T12:00:00.000000Z, always of
//	                           this width, so that text order is time order
//	timestamp                  TEXT, the same without the Z
//	date                       TEXT, 2026-01-31
//	bytea                      BLOB
//	arrays                     TEXT, JSON; bytes in them as hex
//
// In a column that an existing table declares with an INT type, timestamps are stored
// as microseconds, and dates as days, since 1970.
package sqlite
