package sqlite

import (
	"errors"
	"fmt"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/penstockdev/penstock/flow"
)

// Error is what SQLite said.
type Error struct {
	// Code is SQLite's extended result code; Code & 0xff is the primary one.
	Code    int
	Message string
	doing   string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: SQLite: %s (code %d)", e.doing, e.Message, e.Code)
	switch e.Code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		s += ": another process holds the database"
	case sqlite3.SQLITE_FULL:
		s += ": free some space; the flow goes on by itself"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		s += ": the file and its directory must be writable by this user"
	}
	return s
}

// FlowClass says what the error means for the flow. What is not listed is unknown: retried
// a few times.
func (e *Error) FlowClass() flow.Class {
	switch e.Code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL:
		return flow.ClassTransient
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG:
		return flow.ClassData
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return flow.ClassFatal
	default:
		return flow.ClassUnknown
	}
}

func isBusy(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code&0xff == sqlite3.SQLITE_BUSY
}

// recordError turns what SQLite said about one row into the reason of a dead
// letter.
func recordError(e *Error) *flow.RecordError {
	r := &flow.RecordError{Class: "constraint", Err: errors.New("SQLite: " + e.Message)}
	switch e.Code {
	case sqlite3.SQLITE_CONSTRAINT_NOTNULL:
		r.Class = "null"
	case sqlite3.SQLITE_CONSTRAINT_DATATYPE, sqlite3.SQLITE_MISMATCH:
		r.Class = "type"
	case sqlite3.SQLITE_TOOBIG:
		r.Class = "oversized"
	}
	// "NOT NULL constraint failed: t.a", "cannot store TEXT value in INTEGER column t.a"
	if at := strings.LastIndexByte(e.Message, ' '); at >= 0 && !strings.Contains(e.Message, ",") && r.Class != "oversized" {
		if _, column, ok := strings.Cut(e.Message[at+1:], "."); ok && e.Code != sqlite3.SQLITE_CONSTRAINT_CHECK {
			r.Column = column
		}
	}
	return r
}
