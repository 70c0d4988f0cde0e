package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/filelock"
)

// Sink writes into one table of one SQLite file, or into one for each route.
// Make it with NewSink.
type Sink struct {
	cfg SinkConfig

	// mu guards what follows. Control statements (claims, reads) have a
	// connection of their own, beside the writer's.
	mu      sync.Mutex
	claim   *filelock.Lock
	control *conn
	setup   flow.Setup
	targets []target // by route
	backend string
}

var (
	_ flow.Sink            = (*Sink)(nil)
	_ flow.Checkpointer    = (*Sink)(nil)
	_ flow.DeadLetterStore = (*Sink)(nil)
	_ flow.LaneLimiter     = (*Sink)(nil)
	_ flow.Router          = (*Sink)(nil)
	_ flow.Writer          = (*writer)(nil)
)

// NewSink makes a sink. It opens nothing.
func NewSink(cfg SinkConfig) (*Sink, error) {
	connect.Defaults(&cfg)
	cfg.Routes = slices.Clone(cfg.Routes)
	for i := range cfg.Routes {
		connect.Defaults(&cfg.Routes[i])
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg}, nil
}

// StoresDeadLetters is true: they go into SinkConfig.DeadLetterTable in the
// transaction of their batch.
func (s *Sink) StoresDeadLetters() bool { return true }

// Routes is the number of routes; 0: there is one table for all records.
func (s *Sink) Routes() int { return len(s.cfg.Routes) }

// MaxLanes is 1: a SQLite database has one writer at a time.
func (s *Sink) MaxLanes() int { return 1 }

// Open takes the right to write the flow, opens the database, and checks or
// creates the tables.
func (s *Sink) Open(ctx context.Context, setup flow.Setup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	if len(setup.Routes) != len(s.cfg.Routes) {
		return flow.Fatal(fmt.Errorf("the flow has %d routes and the SQLite sink has tables for %d", len(setup.Routes), len(s.cfg.Routes)))
	}
	if err := s.checkDir(); err != nil {
		return err
	}
	claim, err := s.waitForClaim(ctx, setup.Flow)
	if err != nil {
		return err
	}
	s.claim = claim
	s.setup = setup
	s.backend = backendName()
	if err := s.openDatabase(ctx); err != nil {
		s.closeLocked()
		return err
	}
	return nil
}

func (s *Sink) checkDir() error {
	if dir := filepath.Dir(s.cfg.Path); !isDir(dir) {
		return flow.Fatal(fmt.Errorf("the database %s cannot be opened: %s is not a directory; create it first", s.cfg.Path, dir))
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func backendName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return strconv.Itoa(os.Getpid()) + "@" + host
}

// lockPath is the file whose lock is the right to write the flow.
func (s *Sink) lockPath(flowName string) string {
	return s.cfg.Path + "-penstock-" + flowName + ".lock"
}

// waitForClaim gives a predecessor that is about to end BusyTimeout to do so.
func (s *Sink) waitForClaim(ctx context.Context, flowName string) (*filelock.Lock, error) {
	path := s.lockPath(flowName)
	deadline := time.Now().Add(s.cfg.BusyTimeout)
	for {
		c, err := filelock.Take(path)
		if err == nil {
			return c, nil
		}
		var held *filelock.HeldError
		if !errors.As(err, &held) {
			return nil, s.lockError(err)
		}
		if time.Now().After(deadline) {
			return nil, flow.Fatal(fmt.Errorf("flow %s is being written to %s by %s already (it holds %s): "+
				"a flow into SQLite runs in one process; stop the other one", flowName, s.cfg.Path, held.Holder, path))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockError is for a lock file that cannot be made: without the right to make
// it, no retry helps.
func (s *Sink) lockError(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return flow.Fatal(fmt.Errorf("opening %s: %w; its directory must be writable by this user", s.cfg.Path, err))
	}
	return fmt.Errorf("opening %s: %w", s.cfg.Path, err)
}

func (s *Sink) openDatabase(ctx context.Context) error {
	c, err := s.dial(true)
	if err != nil {
		return err
	}
	s.control = c
	return c.transaction(ctx, s.cfg.BusyTimeout, func() error {
		for _, ddl := range ownTables(s.cfg.DeadLetterTable) {
			if err := c.exec(ddl); err != nil {
				return fmt.Errorf("creating the tables of the checkpoint: %w", err)
			}
		}
		s.targets, err = prepareTargets(c, &s.cfg, s.setup)
		return err
	})
}

// dial opens a connection with the settings of this sink.
func (s *Sink) dial(create bool) (*conn, error) {
	c, err := open(s.cfg.Path, create)
	if err != nil {
		return nil, err
	}
	if err := s.configure(c); err != nil {
		c.close()
		return nil, s.notDatabase(fmt.Errorf("opening %s: %w", s.cfg.Path, err))
	}
	return c, nil
}

// notDatabase says so if that is what is wrong with the file: SQLite notices at
// the first statement that reads it.
func (s *Sink) notDatabase(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Code&0xff == sqlite3.SQLITE_NOTADB {
		return flow.Fatal(fmt.Errorf("%s is not a SQLite database; give path another file, or move this one away", s.cfg.Path))
	}
	return err
}

// busyStep is how long SQLite itself waits for a lock before it lets us look
// at the context.
const busyStep = 50 * time.Millisecond

func (s *Sink) configure(c *conn) error {
	// The first statement that touches the file may find its lock taken.
	if err := c.pragma("busy_timeout = " + strconv.Itoa(int(max(busyStep, s.cfg.BusyTimeout).Milliseconds()))); err != nil {
		return err
	}
	var mode string
	err := c.run(func(r *stmt) error { mode = r.text(0); return nil }, "PRAGMA journal_mode = WAL")
	if err != nil {
		return err
	}
	if !strings.EqualFold(mode, "wal") {
		return flow.Fatal(fmt.Errorf("the database stays in journal mode %s, and WAL is needed: is it on a network file system?", mode))
	}
	for _, p := range []string{
		"synchronous = " + s.cfg.Synchronous,
		"foreign_keys = on",
		"temp_store = memory",
		"cache_size = -" + strconv.FormatInt(max(1, int64(s.cfg.Cache)/1024), 10),
		"wal_autocheckpoint = " + strconv.Itoa(walPages),
		"busy_timeout = " + strconv.FormatInt(busyStep.Milliseconds(), 10),
	} {
		if err := c.pragma(p); err != nil {
			return err
		}
	}
	return nil
}

// walPages is after how many pages of WAL (of 4 KiB) a commit also moves them
// into the database: with SQLite's own 1,000 it would follow every batch, and write the
// index pages that all batches touch over and over.
const walPages = 8192

func (c *conn) pragma(p string) error { return c.exec("PRAGMA " + p) }

// transaction runs fn in one that holds the write lock from its start. An
// error rolls back.
func (c *conn) transaction(ctx context.Context, patience time.Duration, fn func() error) error {
	if err := c.begin(ctx, patience); err != nil {
		return err
	}
	err := fn()
	if err == nil {
		err = c.exec("COMMIT")
	}
	if err != nil {
		c.rollback()
	}
	return err
}

// begin waits for the write lock.
func (c *conn) begin(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := c.exec("BEGIN IMMEDIATE")
		if err == nil || !isBusy(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// rollback ends the transaction, if SQLite has not done so itself.
func (c *conn) rollback() {
	if c.inTransaction() {
		_ = c.exec("ROLLBACK") // can only fail when there is no transaction
	}
}

// Writer makes the writer. There is only lane 0.
func (s *Sink) Writer(lane int) (flow.Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == nil {
		return nil, errors.New("the SQLite sink is not open")
	}
	if lane != 0 {
		return nil, fmt.Errorf("lane %d: a SQLite database has one writer, lane 0", lane)
	}
	w := &writer{sink: s, cfg: &s.cfg, setup: s.setup}
	for i := range s.targets {
		w.routes = append(w.routes, routeWriter{target: &s.targets[i], enc: newEncoder(&s.targets[i])})
	}
	return w, nil
}

// Close closes the database and gives up the right to write the flow.
func (s *Sink) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	return nil
}

func (s *Sink) closeLocked() {
	if s.control != nil {
		// Otherwise the rows stay in the WAL while anybody reads, and whoever copies
		// the file alone misses them. A reader in the way is no error.
		_ = s.control.pragma("wal_checkpoint(TRUNCATE)")
		s.control.close()
		s.control = nil
	}
	s.claim.Release()
	s.claim = nil
}
