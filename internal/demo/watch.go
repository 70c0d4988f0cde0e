package demo

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver with which the demo reads what the flow wrote
)

// state is how far the flow is, as the database says: what is not committed
// does not count.
type state struct {
	committed int64
	dead      int64
	batches   int64 // of the running process; -1 if it does not say
}

// watcher looks at the flow from outside: at its database, and for what is not
// in there at its metrics.
type watcher struct {
	path string
	db   *sql.DB // nil until the file exists
	http http.Client
}

func newWatcher(path string) *watcher {
	return &watcher{path: path, http: http.Client{Timeout: 500 * time.Millisecond}}
}

func openReadOnly(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func (w *watcher) close() {
	if w.db != nil {
		_ = w.db.Close()
		w.db = nil
	}
	w.http.CloseIdleConnections()
}

// look reads the state. A database that the flow has not made yet is at 0.
func (w *watcher) look(ctx context.Context, admin string) (state, error) {
	s := state{batches: w.batches(ctx, admin)}
	if w.db == nil {
		if _, err := os.Stat(w.path); errors.Is(err, fs.ErrNotExist) {
			return s, nil
		}
		db, err := openReadOnly(w.path)
		if err != nil {
			return s, err
		}
		w.db = db
	}
	err := w.db.QueryRowContext(ctx, `SELECT (SELECT coalesce(sum(next_offset), 0) FROM penstock_checkpoint WHERE flow = ?1), (SELECT count(*) FROM penstock_dead_letter WHERE flow = ?1)`, flowName).
		Scan(&s.committed, &s.dead)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading %s: %w", w.path, err)
	}
	return s, nil
}

// batches asks the flow's process how many it has written.
func (w *watcher) batches(ctx context.Context, admin string) int64 {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return -1
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return -1
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "penstock_batches_total"); ok {
			n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
			if err == nil {
				return int64(n)
			}
		}
	}
	return -1
}
