// Package postgres is the PostgreSQL sink: rows by binary COPY, in one
// transaction with the flow's positions and its dead letters.
//
// What belongs here: everything that speaks PostgreSQL. The columns of a batch
// become COPY's binary form without an allocation per record (encode.go,
// numeric.go); the checkpoint and the taking over of partitions are in
// checkpoint.go and takeover.go; the transaction of a batch, and how the
// outcome of a COMMIT is learned whose answer was lost, in writer.go and
// outcome.go. Beside the flow: setting its positions (reposition.go), its dead letters as a log
// of letters (letters.go), looking before it runs (check.go, describe.go). What does not: deciding when to write or to retry, which is the engine's.
//
// # Tables
//
// penstock_flow and penstock_checkpoint hold what makes a flow exactly once,
// penstock_dead_letter the records that could not be processed. They are
// created where they are missing; a role that may not create them is told the
// statements. Each row of penstock_checkpoint is updated once per batch, as
// the first thing the transaction does, on the condition that it is as this
// writer last saw it.
//
// # Tables that change
//
// The plan of a table holds for the columns as they were read. COPY's bytes may be
// valid for other types, too, so the types are compared before COMMIT. After an
// error that a changed table explains, the columns are read again (change.go).
//
// # PgBouncer
//
// Transaction pooling works: nothing here relies on the state of a session.
// There are no named prepared statements, advisory locks are those of
// transactions, temporary tables end with theirs, settings are SET LOCAL.
// PgBouncer must hand on application_name and client_encoding, which it does
// unless told otherwise, and must not have statement pooling or a query_timeout
// below the time of a batch.
// The pool needs a server connection for each lane and one more.
//
// # Rights
//
// A job that redrives or drops dead letters needs SELECT, INSERT, UPDATE and DELETE on
// their table, and whoever makes a flow forget its positions DELETE on those of the checkpoint.
// append: INSERT on the table. ignore: SELECT too, and TEMPORARY on the
// database. upsert: UPDATE as well, and DELETE where tombstones occur. Removing
// a predecessor that hangs with its locks held needs the same role as the predecessor's.
package postgres
