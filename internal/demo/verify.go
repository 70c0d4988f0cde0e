package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// audit compares what was produced with what is in the database, record by
// record. It is pure: the database only feeds it.
type audit struct {
	ledger *ledger
	index  map[string]int // vehicle by id

	seen       [][]uint8 // by partition and offset: how often
	lastOffset []int64   // by partition, in the order of insertion
	lastSeq    []int64   // by vehicle, likewise

	rows, dead                              int64
	doubled, strange, misplaced, outOfOrder int64
	classes                                 map[string]int64
}

func newAudit(l *ledger) *audit {
	a := &audit{ledger: l, index: map[string]int{}, classes: map[string]int64{}, lastSeq: make([]int64, len(l.ids))}
	for i, id := range l.ids {
		a.index[id] = i
	}
	for _, p := range l.partitions {
		a.seen = append(a.seen, make([]uint8, len(p)))
		a.lastOffset = append(a.lastOffset, -1)
	}
	return a
}

// found looks a position up, and counts it.
func (a *audit) found(partition int32, offset int64) (sent, bool) {
	if partition < 0 || int(partition) >= len(a.seen) || offset < 0 || offset >= int64(len(a.seen[partition])) {
		a.strange++
		return sent{}, false
	}
	if a.seen[partition][offset]++; a.seen[partition][offset] > 1 {
		a.doubled++
	}
	return a.ledger.partitions[partition][offset], true
}

// row takes the rows in the order in which they were inserted.
func (a *audit) row(partition int32, offset int64, vehicle string, seq int64) {
	a.rows++
	s, ok := a.found(partition, offset)
	if !ok {
		return
	}
	v, known := a.index[vehicle]
	switch {
	case !known || v != s.vehicle || seq != s.seq:
		a.strange++
		return
	case s.malformed:
		a.misplaced++
	}
	if offset <= a.lastOffset[partition] || seq <= a.lastSeq[v] {
		a.outOfOrder++
	}
	a.lastOffset[partition], a.lastSeq[v] = offset, seq
}

func (a *audit) deadLetter(partition int32, offset int64, class string) {
	a.dead++
	a.classes[class]++
	if s, ok := a.found(partition, offset); ok && !s.malformed {
		a.misplaced++
	}
}

func (a *audit) lost() int64 {
	var n int64
	for p := range a.seen {
		for o := range a.seen[p] {
			if a.seen[p][o] == 0 && a.ledger.partitions[p][o].vehicle >= 0 {
				n++
			}
		}
	}
	return n
}

// verdict is nil if everything is as it must be.
func (a *audit) verdict() error {
	var errs []error
	for _, c := range []struct {
		n    int64
		what string
	}{
		{a.lost(), "records lost"},
		{a.doubled, "records doubled"},
		{a.outOfOrder, "rows out of order"},
		{a.misplaced, "good records among the dead letters, or malformed ones among the rows"},
		{a.strange, "rows that nobody produced"},
		{int64(a.ledger.records) - a.rows - a.dead, "records more than rows and dead letters"},
	} {
		if c.n != 0 {
			errs = append(errs, fmt.Errorf("%s %s", comma(c.n), c.what))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("the database does not hold what was produced: %w", errors.Join(errs...))
	}
	return nil
}

func (a *audit) classList() string {
	var names []string
	for c := range a.classes {
		names = append(names, c)
	}
	slices.Sort(names)
	for i, c := range names {
		names[i] = c + " " + comma(a.classes[c])
	}
	return strings.Join(names, ", ")
}

// readDatabase feeds the audit.
func (a *audit) readDatabase(ctx context.Context, path string) (err error) {
	db, err := openReadOnly(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var (
		partition   int32
		offset, seq int64
		text        string
	)
	err = each(ctx, db, "SELECT kafka_partition, kafka_offset, vehicle_id, seq FROM "+table+" ORDER BY rowid", func(rows *sql.Rows) error {
		err := rows.Scan(&partition, &offset, &text, &seq)
		a.row(partition, offset, text, seq)
		return err
	})
	if err == nil {
		err = each(ctx, db, `SELECT partition, "offset", class FROM penstock_dead_letter WHERE flow = '`+flowName+`'`, func(rows *sql.Rows) error {
			err := rows.Scan(&partition, &offset, &text)
			a.deadLetter(partition, offset, text)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func each(ctx context.Context, db *sql.DB, query string, row func(*sql.Rows) error) (err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
