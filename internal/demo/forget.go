package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// forget removes what an earlier demo left in the database: its table, and
// what its flow stored about itself. The file is the development database of
// whoever uses it, so nothing else is touched, and a table or a flow that only has the
// demo's name is an error. left says that there was something.
func forget(ctx context.Context, path string) (left bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	defer func() {
		if err != nil && strings.Contains(err.Error(), "file is not a database") {
			err = errors.New("it is not a SQLite database")
		}
		if err != nil {
			err = fmt.Errorf("removing the rows of the last demo from %s: %w; nothing was changed. "+
				"The demo can have a directory of its own: --dir", path, err)
		}
	}()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=rw&_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	stored, err := existing(ctx, tx, "penstock_flow", "penstock_checkpoint", "penstock_dead_letter")
	if err != nil {
		return false, err
	}
	if err := checkOurs(ctx, tx, len(stored) > 0); err != nil {
		return false, err
	}
	for _, t := range stored {
		result, err := tx.ExecContext(ctx, "DELETE FROM "+t+" WHERE flow = ?", flowName)
		if err != nil {
			return false, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return false, err
		}
		left = left || n > 0
	}
	if _, err := tx.ExecContext(ctx, "DROP TABLE IF EXISTS "+table); err != nil {
		return false, err
	}
	return left, tx.Commit()
}

// checkOurs refuses a flow of the demo's name that writes elsewhere, and rows
// in a table of its name that no such flow has written.
func checkOurs(ctx context.Context, tx *sql.Tx, stored bool) error {
	target := ""
	if stored {
		err := tx.QueryRowContext(ctx, "SELECT target FROM penstock_flow WHERE flow = ?", flowName).Scan(&target)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	switch {
	case target == table:
		return nil
	case target != "":
		return fmt.Errorf("the flow %s in it writes to table %s, so it is yours, not the demo's", flowName, target)
	}
	if found, err := existing(ctx, tx, table); err != nil || len(found) == 0 {
		return err
	}
	var rows bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+")").Scan(&rows); err != nil || !rows {
		return err
	}
	return fmt.Errorf("the rows in table %s are not of the demo's flow, so they are yours", table)
}

// existing returns those of the tables (or views) that exist.
func existing(ctx context.Context, tx *sql.Tx, names ...string) ([]string, error) {
	var out []string
	for _, n := range names {
		var found bool
		err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE)", n).Scan(&found)
		if err != nil {
			return nil, err
		}
		if found {
			out = append(out, n)
		}
	}
	return out, nil
}
