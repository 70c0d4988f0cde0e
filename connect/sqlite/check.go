package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/filelock"
)

var _ connect.Checker = (*Sink)(nil)

const (
	// quickCheck is how long the file's integrity is looked at.
	quickCheck = 5 * time.Second
	// littleSpace is from where on free space is worth a word.
	littleSpace = 1 << 30
	// manyIndexes is from how many indexes on their cost is worth a word.
	manyIndexes = 6
)

// checker collects what is found.
type checker struct {
	sink  *Sink
	setup flow.Setup
	out   []connect.Check
}

// Check implements connect.Checker.
func (s *Sink) Check(ctx context.Context, setup flow.Setup) []connect.Check {
	c := &checker{sink: s, setup: setup}
	if !c.folder() {
		return c.out
	}
	db, err := s.peek()
	if err == nil && db != nil {
		err = db.pragma("busy_timeout = " + strconv.FormatInt(busyStep.Milliseconds(), 10))
	}
	if err == nil {
		err = c.file(ctx, db)
	}
	if err == nil {
		err = c.tables(db)
	}
	if db != nil {
		db.close()
	}
	if err != nil {
		c.add(connect.CheckFailed, "file "+s.cfg.Path, "path", "", "%v", s.notDatabase(err))
	}
	return c.out
}

func (c *checker) add(status connect.CheckStatus, what, field, next, found string, args ...any) {
	c.out = append(c.out, connect.Check{What: what, Status: status, Field: field, Next: next, Found: fmt.Sprintf(found, args...)})
}

func (c *checker) ok(what, found string, args ...any) {
	c.add(connect.CheckOK, what, "", "", found, args...)
}

func (c *checker) failFault(what, field string, f *fault) {
	c.add(connect.CheckFailed, what, field, f.mend, "%s", f.text)
}

// folder looks at where the file is, or is to be; false: there is no use in going on.
func (c *checker) folder() bool {
	dir := filepath.Dir(c.sink.cfg.Path)
	what := "folder " + dir
	free, network, known := disk(dir)
	switch {
	case !isDir(dir):
		c.add(connect.CheckFailed, what, "path", "mkdir -p "+dir, "is not a directory")
		return false
	case !writable(dir):
		c.add(connect.CheckFailed, what, "path", "give this user the right to write there: SQLite makes files beside the database", "this user may not write in it")
	case network:
		c.add(connect.CheckFailed, what, "path", "use a folder on a disk of this machine", "is on a network file system, where SQLite's locks and its WAL do not work")
	case known && free < littleSpace:
		c.add(connect.CheckWarning, what, "path", "free some space: the flow waits when there is none", "%s are free", size(free))
	case known:
		c.ok(what, "this user may write in it, and %s are free", size(free))
	default:
		c.ok(what, "is there")
	}
	return true
}

func size(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// file looks at the database as a whole; nil: there is none.
func (c *checker) file(ctx context.Context, db *conn) error {
	what := "file " + c.sink.cfg.Path
	if db == nil {
		c.ok(what, "not there yet; made at the first start")
		return nil
	}
	if !writable(c.sink.cfg.Path) {
		c.add(connect.CheckFailed, what, "path", "give this user the right to write it", "this user may not write it")
		return nil
	}
	var mode string
	if err := db.run(func(r *stmt) error { mode = r.text(0); return nil }, "PRAGMA journal_mode"); err != nil {
		return err
	}
	bytes := uint64(0)
	if info, err := os.Stat(c.sink.cfg.Path); err == nil {
		bytes = uint64(info.Size()) //nolint:gosec // not negative
	}
	if strings.EqualFold(mode, "wal") {
		c.ok(what, "SQLite %s, %s, journal mode WAL", sqlite3.SQLITE_VERSION, size(bytes))
	} else {
		c.add(connect.CheckWarning, what, "path", "nothing, if all that reads the file can read WAL (SQLite 3.7 and later, on this machine)",
			"SQLite %s, %s, journal mode %s: the flow changes it to WAL, for good", sqlite3.SQLITE_VERSION, size(bytes), mode)
	}
	if err := c.locks(db); err != nil {
		return err
	}
	return c.integrity(ctx, db)
}

// locks looks who writes the file now. The write lock is taken to find out, and given back.
func (c *checker) locks(db *conn) error {
	if err := db.pragma("query_only = off"); err != nil {
		return err
	}
	err := db.exec("BEGIN IMMEDIATE")
	db.rollback()
	switch {
	case isBusy(err):
		c.add(connect.CheckWarning, "write lock of "+c.sink.cfg.Path, "path", "find it with: fuser "+c.sink.cfg.Path,
			"another process holds it now: the flow waits while it does, and tries again (busy_timeout %s)", c.sink.cfg.BusyTimeout)
	case err != nil:
		return err
	}
	c.running()
	return db.pragma("query_only = on")
}

// running looks whether a process runs the flow.
func (c *checker) running() {
	path := c.sink.lockPath(c.setup.Flow)
	if _, err := os.Stat(path); err != nil {
		return
	}
	l, err := filelock.Take(path)
	if held, ok := errors.AsType[*filelock.HeldError](err); ok {
		c.add(connect.CheckWarning, "flow "+c.setup.Flow, "", "stop it before you start it elsewhere", "runs: %s has %s", held.Holder, path)
	}
	l.Release()
}

// integrity looks for damage, for a few seconds.
func (c *checker) integrity(ctx context.Context, db *conn) error {
	ctx, cancel := context.WithTimeout(ctx, quickCheck)
	defer cancel()
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		sqlite3.Xsqlite3_interrupt(db.tls, db.db)
	})
	found := ""
	err := db.run(func(r *stmt) error { found = r.text(0); return nil }, "PRAGMA quick_check(1)")
	if !stop() {
		<-done
	}
	what := "integrity of " + c.sink.cfg.Path
	var e *Error
	switch {
	case errors.As(err, &e) && e.Code&0xff == sqlite3.SQLITE_INTERRUPT:
		c.ok(what, "no damage was found within %s; to look at all of it: sqlite3 %s 'PRAGMA quick_check'", quickCheck, c.sink.cfg.Path)
	case errors.As(err, &e) && e.Code&0xff == sqlite3.SQLITE_CORRUPT:
		found = e.Message
	case err != nil:
		return err
	}
	switch found {
	case "":
	case "ok":
		c.ok(what, "no damage")
	default:
		c.add(connect.CheckFailed, what, "path", fmt.Sprintf("restore a backup, or save what is left: sqlite3 %s .recover", c.sink.cfg.Path), "%s", found)
	}
	return nil
}

// tables looks at the tables of the flow, and at those that Penstock keeps.
func (c *checker) tables(db *conn) error {
	for i, t := range c.sink.cfg.tables() {
		at := ""
		if len(c.sink.cfg.Routes) > 0 {
			at = fmt.Sprintf("routes.%d.", i)
		}
		to := &target{TableConfig: t, fields: c.setup.Fields}
		if i < len(c.setup.Routes) {
			to.fields = c.setup.Routes[i]
		}
		if err := c.target(db, to, at); err != nil {
			return err
		}
	}
	if db == nil {
		return nil
	}
	return c.ownTables(db)
}

func (c *checker) target(db *conn, t *target, at string) error {
	what := "table " + t.String()
	if f := t.keyFault(); f != nil {
		c.failFault(what, at+"key", f)
	}
	if db != nil {
		var err error
		if t.cols, err = tableColumns(db, t.Table); err != nil {
			return err
		}
	}
	if len(t.cols) == 0 {
		if t.CreateTable {
			c.ok(what, "not there yet; made at the first start")
		} else {
			c.failFault(what, at+"table", t.absent(&c.sink.cfg, createTable(t, c.sink.cfg.Strict)))
		}
		return nil
	}
	faults := t.faults()
	for _, f := range faults {
		c.failFault(fmt.Sprintf("column %q of %s", f.column, what), at+"columns."+f.column, f)
	}
	for i := range t.fields {
		c.stored(t, &t.fields[i], at)
	}
	if len(faults) > 0 || t.keyFault() != nil {
		return nil
	}
	if err := t.checkStatement(db); err != nil {
		f, ok := errors.AsType[*fault](err)
		if !ok {
			return err
		}
		c.failFault(what, at+"key", f)
		return nil
	}
	indexes, triggers := int64(0), []string(nil)
	err := db.run(func(r *stmt) error {
		if r.text(0) == "trigger" {
			triggers = append(triggers, r.text(1))
		} else {
			indexes++
		}
		return nil
	}, "SELECT type, name FROM sqlite_master WHERE type IN ('index', 'trigger') AND tbl_name = ? COLLATE NOCASE", t.Table)
	if err != nil {
		return err
	}
	c.ok(what, "%d of its %d columns are written, in mode %s; indexes: %d", len(t.fields), len(t.cols), t.Mode, indexes)
	if len(triggers) > 0 {
		c.add(connect.CheckWarning, what, at+"table", "", "it has triggers (%s), which run for each row and can take more time than the writing; an error that one raises makes the record a dead letter", strings.Join(triggers, ", "))
	}
	if indexes >= manyIndexes {
		c.add(connect.CheckWarning, what, at+"table", "drop those that no query uses", "%d indexes: the time for a row grows with each", indexes)
	}
	return nil
}

// stored warns of values that the column's declared type does not mean.
func (c *checker) stored(t *target, f *flow.Field, at string) {
	col := t.column(f.Name)
	if col == nil {
		return
	}
	declared := strings.ToUpper(col.declared)
	number := strings.Contains(declared, "INT") || strings.Contains(declared, "REAL") || strings.Contains(declared, "FLOA") || strings.Contains(declared, "DOUB")
	why := ""
	switch f.Kind {
	case flow.KindString, flow.KindJSON, flow.KindBytes, flow.KindList:
		if number {
			why = "SQLite keeps what is no number as text or bytes all the same, and refuses it in a STRICT table"
		}
	case flow.KindDecimal:
		if number {
			why = "SQLite rounds it to 15 digits"
		}
	case flow.KindBool, flow.KindInt64, flow.KindFloat64, flow.KindTimestamp, flow.KindDate:
	}
	if why != "" {
		c.add(connect.CheckWarning, fmt.Sprintf("column %q of table %s", f.Name, t), at+"columns."+f.Name,
			fmt.Sprintf("decode it as %s, or declare the column %s", col.field().Type, storageType(f.Kind)), "is declared %s, and the flow has %s: %s", col.declared, f.Type, why)
	}
}

// ownTables compiles the statements that the flow will run.
func (c *checker) ownTables(db *conn) error {
	dead := c.sink.cfg.DeadLetterTable
	there := map[string]bool{}
	for _, own := range []struct{ table, sql, field string }{
		{flowTable, "SELECT format_version, cluster_id, source, target FROM " + flowTable, "path"},
		{checkpointTable, swapSQL, "path"},
		{dead, deadLetterSQL(dead), "dead_letter_table"},
	} {
		cols, err := tableColumns(db, own.table)
		if err != nil {
			return err
		}
		what := "table " + own.table
		if there[own.table] = len(cols) > 0; !there[own.table] {
			c.ok(what, "not there yet; made at the first start")
			continue
		}
		s, err := db.prepare(own.sql)
		if err != nil {
			there[own.table] = false
			c.add(connect.CheckFailed, what, own.field, "rename it, or give dead_letter_table or path another name", "is not the table that Penstock keeps under this name: %v", err)
			continue
		}
		s.finalize()
		c.ok(what, "there")
	}
	if c.setup.ClusterID == "" || !there[flowTable] || !there[checkpointTable] {
		return nil
	}
	what := "flow " + c.setup.Flow
	if err := c.sink.refuseOther(db, c.setup); err != nil {
		if flow.ClassOf(err) != flow.ClassFatal {
			return err
		}
		found, next, _ := strings.Cut(err.Error(), "; ")
		c.add(connect.CheckFailed, what, "", next, "%s", found)
		return nil
	}
	n := int64(0)
	err := db.run(func(r *stmt) error { n = r.int(0); return nil }, "SELECT count(*) FROM "+checkpointTable+" WHERE flow = ?", c.setup.Flow)
	if n == 0 {
		c.ok(what, "has not run into this file yet")
	} else {
		c.ok(what, "goes on at the positions that it has here (partitions: %d)", n)
	}
	return err
}
