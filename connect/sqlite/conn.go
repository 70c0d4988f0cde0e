package sqlite

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	_ "modernc.org/sqlite" // its init patches the library for pages of 64 KiB
	sqlite3 "modernc.org/sqlite/lib"
)

// conn is one connection to SQLite. It is used by one goroutine at a time:
// the connection is opened without a mutex of its own.
//
// SQLite sees C memory only, that of libc's allocator: Go's memory must not be
// handed to it. Text and blobs are copied there once per row (cbuf).
type conn struct {
	tls *libc.TLS
	db  uintptr
	out uintptr // room for one pointer that SQLite returns
}

// connect opens the file, creating it if create is set.
func open(path string, create bool) (*conn, error) {
	c := &conn{tls: libc.NewTLS()}
	c.out = libc.Xmalloc(c.tls, types.Size_t(unsafe.Sizeof(uintptr(0))))
	name, err := libc.CString(path)
	if err != nil || c.out == 0 {
		c.tls.Close()
		return nil, fmt.Errorf("opening %s: out of memory", path)
	}
	defer libc.Xfree(c.tls, name)
	flags := int32(sqlite3.SQLITE_OPEN_READWRITE | sqlite3.SQLITE_OPEN_NOMUTEX)
	if create {
		flags |= sqlite3.SQLITE_OPEN_CREATE
	}
	*pointerAt(c.out) = 0
	rc := sqlite3.Xsqlite3_open_v2(c.tls, name, c.out, flags, 0)
	c.db = *pointerAt(c.out)
	if rc != sqlite3.SQLITE_OK {
		err := &Error{Code: int(rc), Message: libc.GoString(sqlite3.Xsqlite3_errstr(c.tls, rc)), doing: "opening " + path}
		c.close()
		return nil, err
	}
	sqlite3.Xsqlite3_extended_result_codes(c.tls, c.db, 1)
	return c, nil
}

// close rolls back what is open. The statements must be finalized before.
func (c *conn) close() {
	if c.db != 0 {
		sqlite3.Xsqlite3_close_v2(c.tls, c.db)
	}
	libc.Xfree(c.tls, c.out)
	c.tls.Close()
	*c = conn{}
}

// fail makes the error of the last call.
func (c *conn) fail(doing string) error {
	return &Error{
		Code:    int(sqlite3.Xsqlite3_extended_errcode(c.tls, c.db)),
		Message: libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db)),
		doing:   doing,
	}
}

// inTransaction is false again when SQLite itself has rolled back.
func (c *conn) inTransaction() bool { return sqlite3.Xsqlite3_get_autocommit(c.tls, c.db) == 0 }

// changes is the number of rows that the last statement changed.
func (c *conn) changes() int { return int(sqlite3.Xsqlite3_changes(c.tls, c.db)) }

// run executes one statement, and calls row (which may be nil) for each row
// that it returns.
func (c *conn) run(row func(*stmt) error, sql string, args ...any) error {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	defer s.finalize()
	return s.run(row, args...)
}

// exec executes one statement without rows.
func (c *conn) exec(sql string, args ...any) error { return c.run(nil, sql, args...) }

// stmt is a prepared statement with the memory of its parameters.
type stmt struct {
	c   *conn
	p   uintptr
	sql string
	mem cbuf
}

func (c *conn) prepare(sql string) (*stmt, error) {
	text, err := libc.CString(sql)
	if err != nil {
		return nil, fmt.Errorf("preparing a statement: %w", err)
	}
	defer libc.Xfree(c.tls, text)
	*pointerAt(c.out) = 0
	if rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, text, -1, sqlite3.SQLITE_PREPARE_PERSISTENT, c.out, 0); rc != sqlite3.SQLITE_OK {
		return nil, c.fail(firstWords(sql))
	}
	return &stmt{c: c, p: *pointerAt(c.out), sql: sql}, nil
}

func (s *stmt) finalize() {
	if s == nil || s.p == 0 {
		return
	}
	sqlite3.Xsqlite3_finalize(s.c.tls, s.p)
	s.p = 0
	s.mem.free(s.c.tls)
}

// run binds, steps through the rows, and resets.
func (s *stmt) run(row func(*stmt) error, args ...any) error {
	var data []byte
	for _, a := range args {
		switch v := a.(type) {
		case string:
			data = append(data, v...)
		case []byte:
			data = append(data, v...)
		}
	}
	base, err := s.mem.set(s.c.tls, data)
	if err != nil {
		return err
	}
	rc := int32(sqlite3.SQLITE_OK)
	for i, a := range args {
		n := int32(i + 1)
		switch v := a.(type) {
		case nil:
			rc |= s.bindNull(n)
		case int:
			rc |= s.bindInt(n, int64(v))
		case int32:
			rc |= s.bindInt(n, int64(v))
		case int64:
			rc |= s.bindInt(n, v)
		case string:
			rc |= s.bindText(n, base, len(v))
			base += uintptr(len(v))
		case []byte:
			if v == nil {
				rc |= s.bindNull(n)
				continue
			}
			rc |= s.bindBlob(n, base, len(v))
			base += uintptr(len(v))
		default:
			panic(fmt.Sprintf("sqlite: cannot bind %T", a))
		}
	}
	if rc != sqlite3.SQLITE_OK {
		err := s.c.fail(firstWords(s.sql))
		s.reset()
		return err
	}
	for {
		more, err := s.step()
		if err == nil && more && row != nil {
			err = row(s)
		}
		if err != nil || !more {
			s.reset()
			return err
		}
	}
}

// step reports whether there is a row.
func (s *stmt) step() (bool, error) {
	switch sqlite3.Xsqlite3_step(s.c.tls, s.p) {
	case sqlite3.SQLITE_ROW:
		return true, nil
	case sqlite3.SQLITE_DONE:
		return false, nil
	default:
		return false, s.c.fail(firstWords(s.sql))
	}
}

// reset makes the statement ready for the next row. What it returns is the
// error of the last step again.
func (s *stmt) reset() { sqlite3.Xsqlite3_reset(s.c.tls, s.p) }

// The binds return SQLite's result code. Memory that is bound must hold until reset
// (SQLITE_STATIC); it does, being the statement's own.

func (s *stmt) bindNull(i int32) int32 { return sqlite3.Xsqlite3_bind_null(s.c.tls, s.p, i) }

func (s *stmt) bindInt(i int32, v int64) int32 {
	return sqlite3.Xsqlite3_bind_int64(s.c.tls, s.p, i, v)
}

func (s *stmt) bindFloat(i int32, v float64) int32 {
	return sqlite3.Xsqlite3_bind_double(s.c.tls, s.p, i, v)
}

func (s *stmt) bindText(i int32, p uintptr, n int) int32 {
	return sqlite3.Xsqlite3_bind_text(s.c.tls, s.p, i, p, int32(n), 0)
}

func (s *stmt) bindBlob(i int32, p uintptr, n int) int32 {
	return sqlite3.Xsqlite3_bind_blob(s.c.tls, s.p, i, p, int32(n), 0)
}

func (s *stmt) int(i int32) int64 { return sqlite3.Xsqlite3_column_int64(s.c.tls, s.p, i) }

func (s *stmt) text(i int32) string {
	p := sqlite3.Xsqlite3_column_text(s.c.tls, s.p, i)
	if p == 0 {
		return ""
	}
	return string(libc.GoBytes(p, int(sqlite3.Xsqlite3_column_bytes(s.c.tls, s.p, i))))
}

// blob is nil where the value is NULL.
func (s *stmt) blob(i int32) []byte {
	if sqlite3.Xsqlite3_column_type(s.c.tls, s.p, i) == sqlite3.SQLITE_NULL {
		return nil
	}
	p := sqlite3.Xsqlite3_column_blob(s.c.tls, s.p, i)
	if p == 0 {
		return []byte{}
	}
	return bytes.Clone(libc.GoBytes(p, int(sqlite3.Xsqlite3_column_bytes(s.c.tls, s.p, i)))) // a view into C memory
}

// cbuf is C memory that grows and is reused.
type cbuf struct {
	p    uintptr
	size int
}

// set copies data into the buffer and returns where it is now. The address
// holds until the next set.
func (b *cbuf) set(tls *libc.TLS, data []byte) (uintptr, error) {
	if len(data) > b.size || b.p == 0 {
		if len(data) > math.MaxInt32 {
			return 0, &Error{Code: sqlite3.SQLITE_TOOBIG, Message: "string or blob too big", doing: "binding"}
		}
		b.free(tls)
		size := max(4<<10, len(data)+len(data)/4)
		if b.p = libc.Xmalloc(tls, types.Size_t(size)); b.p == 0 {
			return 0, &Error{Code: sqlite3.SQLITE_NOMEM, Message: "out of memory", doing: "binding"}
		}
		b.size = size
	}
	copy(unsafe.Slice((*byte)(pointer(b.p)), b.size), data)
	return b.p, nil
}

func (b *cbuf) free(tls *libc.TLS) {
	if b.p != 0 {
		libc.Xfree(tls, b.p)
	}
	*b = cbuf{}
}

// pointer turns an address in C memory into a pointer. The detour tells vet
// what it cannot know: the address is not one of Go's heap, which nothing else would keep
// alive.
func pointer(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

func pointerAt(p uintptr) *uintptr { return (*uintptr)(pointer(p)) }

// firstWords names a statement in an error.
func firstWords(sql string) string {
	words := strings.Fields(sql)
	return strings.Join(words[:min(3, len(words))], " ")
}

// quote quotes an identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func quoteAll(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = quote(n)
	}
	return strings.Join(q, ", ")
}
