package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/coljson"
	"github.com/penstockdev/penstock/internal/timetext"
)

var _ flow.LetterLog = (*Sink)(nil)

// Letters are read this many rows, or bytes, at a time, so that nothing is kept from
// being checkpointed while somebody looks at one.
const (
	letterPage  = 1000
	letterBytes = 8 << 20
)

// redrivesOf is the last header that counts redrives, as it is stored: enough to tell letters apart.
func redrivesOf(alias string) string {
	return fmt.Sprintf(`(SELECT json_extract(h.value, '$.value') FROM json_each(iif(json_valid(%[1]s.headers), %[1]s.headers, '[]')) h
	WHERE json_extract(h.value, '$.key') = '%[2]s' ORDER BY h.key DESC LIMIT 1)`, alias, flow.HeaderRedrives)
}

// sameLetter is the condition that two rows are one letter. The table's index has the first four; a row is
// the same as itself without a look at its headers.
var sameLetter = `c.flow = l.flow AND c.topic = l.topic AND c.partition = l.partition AND c."offset" = l."offset"
	AND c.cluster_id = l.cluster_id AND c.topic_id = l.topic_id AND (c.id = l.id OR ` + redrivesOf("c") + ` IS ` + redrivesOf("l") + `)`

// Place implements flow.LetterLog.
func (s *Sink) Place() string { return "table " + s.cfg.DeadLetterTable }

// withLetters runs fn on a connection of its own, if there is a dead-letter table. One of an earlier
// version gets what jobs need.
func (s *Sink) withLetters(ctx context.Context, fn func(c *conn) error) (found bool, err error) {
	c, err := s.dialExisting()
	if err != nil || c == nil {
		return false, err
	}
	defer c.close()
	cols, err := tableColumns(c, s.cfg.DeadLetterTable)
	if err != nil || len(cols) == 0 {
		return false, err
	}
	if err := s.prepareLetters(ctx, c, cols); err != nil {
		return true, fmt.Errorf("preparing the dead letters in %s: %w", s.cfg.Path, err)
	}
	return true, fn(c)
}

// dialExisting is dial for a file that may not exist; nil: it does not.
func (s *Sink) dialExisting() (*conn, error) {
	if _, err := os.Stat(s.cfg.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return s.dial(false)
}

func (s *Sink) prepareLetters(ctx context.Context, c *conn, cols []tableColumn) error {
	isJob := func(c tableColumn) bool { return strings.EqualFold(c.name, "job") }
	indexes := 0
	err := c.run(func(*stmt) error { indexes++; return nil },
		"SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", positionIndex(s.cfg.DeadLetterTable))
	if err != nil || indexes > 0 && slices.ContainsFunc(cols, isJob) {
		return err
	}
	return c.transaction(ctx, s.cfg.BusyTimeout, func() error {
		cols, err := tableColumns(c, s.cfg.DeadLetterTable) // as it is now
		if err == nil && !slices.ContainsFunc(cols, isJob) {
			err = c.exec("ALTER TABLE " + quote(s.cfg.DeadLetterTable) + " ADD COLUMN job TEXT")
		}
		if err == nil {
			err = c.exec(positionIndexDDL(s.cfg.DeadLetterTable))
		}
		return err
	})
}

// Letters implements flow.LetterLog. It holds a page of letters at a time, and ends with the last
// row that there was at its beginning.
func (s *Sink) Letters(ctx context.Context, setup flow.Setup, fn func(*flow.Letter) error) error {
	_, err := s.withLetters(ctx, func(c *conn) error {
		end := int64(0)
		if err := c.run(func(r *stmt) error { end = r.int(0); return nil }, "SELECT max(id) FROM "+quote(s.cfg.DeadLetterTable)); err != nil {
			return err
		}
		// The + keeps SQLite from sorting all letters of the flow for every page.
		q, err := c.prepare(fmt.Sprintf(`SELECT id, EXISTS (SELECT 1 FROM %[1]s c WHERE %[2]s AND c.id < l.id),
	flow, cluster_id, topic, topic_id, partition, "offset", timestamp, "key", value, headers, stage, class, column_name, message, created_at, job
	FROM %[1]s l WHERE +l.flow = ?1 AND id > ?2 AND id <= ?3 ORDER BY id LIMIT %[3]d`, quote(s.cfg.DeadLetterTable), sameLetter, letterPage))
		if err != nil {
			return err
		}
		defer q.finalize()
		var page []flow.Letter
		for last := int64(math.MinInt64); ; {
			if err := ctx.Err(); err != nil {
				return err
			}
			if page, last, err = s.page(q, page[:0], setup.Flow, last, end); err != nil {
				return fmt.Errorf("reading dead letters from %s: %w", s.cfg.Path, err)
			}
			for i := range page {
				if err := fn(&page[i]); err != nil {
					return err
				}
			}
			if last == math.MaxInt64 {
				return nil
			}
		}
	})
	return err
}

// errPageFull ends the reading of a page.
var errPageFull = errors.New("the page is full")

// page appends the letters of the next rows up to the one with the id end, and returns the last row's
// id; MaxInt64: there are no more.
func (s *Sink) page(q *stmt, page []flow.Letter, name string, after, end int64) ([]flow.Letter, int64, error) {
	last, rows, size := after, 0, 0
	err := q.run(func(r *stmt) error {
		last = r.int(0)
		if rows++; r.int(1) != 0 {
			return nil // shown already
		}
		rec := &flow.Record{Key: r.blob(9), Value: r.blob(10), Offset: r.int(7)}
		if t, err := timetext.Parse(coljson.LayoutTimestamptz, r.text(8)); err == nil {
			rec.Timestamp = t.UnixMicro()
		}
		headers := r.text(11)
		if err := json.Unmarshal([]byte(headers), &rec.Headers); err != nil {
			return fmt.Errorf("the headers of the row with id %d are not a list of objects with key and value (base64): %w", last, err)
		}
		l := flow.Letter{
			DeadLetter: flow.DeadLetter{
				ClusterID: r.text(3), Partition: flow.Partition{Topic: r.text(4), ID: int32(r.int(6))}, TopicID: r.text(5), //nolint:gosec // it was stored from an int32
				Record: rec, Stage: flow.Stage(r.text(12)), Class: r.text(13), Column: r.text(14), Message: r.text(15),
			},
			Flow: r.text(2), Redrives: flow.Redrives(rec.Headers), Place: s.placeOf(last), Job: r.text(17),
		}
		l.Since, _ = time.Parse(coljson.LayoutTimestamptz, r.text(16))
		page = append(page, l)
		if size += len(rec.Key) + len(rec.Value) + len(headers); size >= letterBytes {
			return errPageFull
		}
		return nil
	}, name, after, end)
	switch {
	case errors.Is(err, errPageFull):
		err = nil
	case rows < letterPage:
		last = math.MaxInt64
	}
	return page, last, err
}

func (s *Sink) placeOf(id int64) flow.Position {
	return flow.Position{Partition: flow.Partition{Topic: s.cfg.DeadLetterTable}, Offset: id, LeaderEpoch: -1}
}

// ids are those of the places, in order.
func (s *Sink) ids(places []flow.Position) ([]int64, error) {
	ids := make([]int64, len(places))
	for i, p := range places {
		if p.Topic != s.cfg.DeadLetterTable || p.ID != 0 {
			return nil, flow.Fatal(fmt.Errorf("%s is no place in the dead-letter table %s", p.Partition, s.cfg.DeadLetterTable))
		}
		ids[i] = p.Offset
	}
	slices.Sort(ids)
	return ids, nil
}

// idArray is the JSON form of ids.
func idArray(ids []int64) string {
	b, _ := json.Marshal(ids) //nolint:errchkjson // numbers always can be
	return string(b)
}

// sameLetters are the rows c that are the same letters as the rows with the ids ?2.
func (s *Sink) sameLetters() string {
	dead := quote(s.cfg.DeadLetterTable)
	return "FROM json_each(?2) p CROSS JOIN " + dead + " l CROSS JOIN " + dead + " c WHERE l.id = p.value AND " + sameLetter
}

// Take implements flow.LetterLog. Rows that are the same letter are taken together.
func (s *Sink) Take(ctx context.Context, _ flow.Setup, job string, places []flow.Position) error {
	if job == "" {
		return flow.Fatal(errors.New("take dead letters: a job needs a name"))
	}
	ids, err := s.ids(places)
	if err != nil || len(ids) == 0 {
		return err
	}
	found, err := s.withLetters(ctx, func(c *conn) error {
		return c.transaction(ctx, s.cfg.BusyTimeout, func() error {
			var all []int64
			err := c.run(func(r *stmt) error {
				id, other := r.int(0), r.text(1)
				if other != "" && other != job {
					return &flow.TakenError{Place: s.placeOf(id), Job: other}
				}
				all = append(all, id)
				return nil
			}, "SELECT c.id, c.job "+s.sameLetters()+" ORDER BY c.id", nil, idArray(ids))
			if err != nil {
				return err
			}
			for _, id := range ids {
				if _, ok := slices.BinarySearch(all, id); !ok {
					return &flow.TakenError{Place: s.placeOf(id)}
				}
			}
			return c.exec("UPDATE "+quote(s.cfg.DeadLetterTable)+" SET job = ?1 WHERE id IN (SELECT value FROM json_each(?2))", job, idArray(all))
		})
	})
	switch {
	case err != nil:
		return fmt.Errorf("taking dead letters in %s: %w", s.cfg.Path, err)
	case !found:
		return &flow.TakenError{Place: s.placeOf(ids[0])}
	}
	return nil
}

// Release implements flow.LetterLog.
func (s *Sink) Release(ctx context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return s.endTaking(ctx, "releasing", "UPDATE "+quote(s.cfg.DeadLetterTable)+" SET job = NULL WHERE job = ?1 AND id IN (SELECT c.id "+s.sameLetters()+")", job, places)
}

// Remove implements flow.LetterLog. What has become a row since, and is the same letter, goes with it.
func (s *Sink) Remove(ctx context.Context, _ flow.Setup, job string, places []flow.Position) error {
	return s.endTaking(ctx, "removing", "DELETE FROM "+quote(s.cfg.DeadLetterTable)+" WHERE (job IS NULL OR job = ?1) AND id IN (SELECT c.id "+s.sameLetters()+" AND l.job = ?1)", job, places)
}

func (s *Sink) endTaking(ctx context.Context, doing, sql, job string, places []flow.Position) error {
	ids, err := s.ids(places)
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = s.withLetters(ctx, func(c *conn) error {
		return c.transaction(ctx, s.cfg.BusyTimeout, func() error { return c.exec(sql, job, idArray(ids)) })
	})
	if err != nil {
		return fmt.Errorf("%s dead letters in %s: %w", doing, s.cfg.Path, err)
	}
	return nil
}

// Put implements flow.LetterLog.
func (s *Sink) Put(ctx context.Context, setup flow.Setup, letters []flow.Letter) error {
	if len(letters) == 0 {
		return nil
	}
	found, err := s.withLetters(ctx, func(c *conn) error {
		return c.transaction(ctx, s.cfg.BusyTimeout, func() error {
			q, err := c.prepare(deadLetterSQL(s.cfg.DeadLetterTable))
			if err != nil {
				return err
			}
			defer q.finalize()
			for i := range letters {
				l := &letters[i]
				name, cluster := l.Flow, l.ClusterID
				if name == "" {
					name = setup.Flow
				}
				if cluster == "" {
					cluster = setup.ClusterID
				}
				if err := insertDeadLetter(q, name, cluster, &l.DeadLetter); err != nil {
					return err
				}
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return fmt.Errorf("keeping dead letters in %s: %w", s.cfg.Path, err)
	case !found:
		return flow.Fatal(fmt.Errorf("%s has no table %s to keep dead letters in: start the flow once", s.cfg.Path, s.cfg.DeadLetterTable))
	}
	return nil
}
