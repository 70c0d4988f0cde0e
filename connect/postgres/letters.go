package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

var _ flow.LetterLog = (*Sink)(nil)

// jobColumn of the dead-letter table names the job that has taken the letter; NULL: it is
// open. Tables of earlier versions get it when the first job takes letters.
const jobColumn = "job"

// letterRights are what a job needs on the dead-letter table.
var letterRights = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}

const (
	// letterPage is how many rows, letterBytes how many bytes are read at a time, so that no snapshot
	// is held while somebody looks at a letter.
	letterPage  = 1000
	letterBytes = 8 << 20
	// placeChunk is how many letters one statement takes, releases or removes.
	placeChunk = 10_000
)

// letterTable is the dead-letter table and a connection to it.
type letterTable struct {
	penstockTable
	pg *pgconn.PgConn
	// has is nil if there is no such table.
	has  *table
	role string
}

// Place implements flow.LetterLog.
func (s *Sink) Place() string { return "table " + s.cfg.DeadLetterTable }

// withLetters runs fn with the dead-letter table, on a connection of its own.
func (s *Sink) withLetters(ctx context.Context, setup flow.Setup, rights []string, fn func(*letterTable) error) error {
	return s.withPlace(ctx, "penstock:letters", setup, func(pg *pgconn.PgConn, p *place) error {
		if err := p.check(ownDead); err != nil {
			return err
		}
		t := &letterTable{penstockTable: p.own[ownDead], pg: pg, has: p.tables[ownDead], role: p.role}
		if t.has == nil {
			return fn(t)
		}
		if err := p.checkOwnRights(ctx, pg, ownDead, rights); err != nil {
			return err
		}
		for _, c := range t.columns {
			if c.filled && c.name != jobColumn && t.has.column(c.name) == nil {
				return flow.Fatal(fmt.Errorf("the table %s has no column %s, which tells letters apart; as its owner, run:\nALTER TABLE %s ADD COLUMN %s %s %s;",
					t.name, c.name, t.name, c.name, c.typ, c.constraint))
			}
		}
		return fn(t)
	})
}

// withPlace runs fn with the tables of a flow as they are, on a connection of its own.
func (s *Sink) withPlace(ctx context.Context, appName string, setup flow.Setup, fn func(*pgconn.PgConn, *place) error) error {
	c, err := s.dialAs(ctx, appName)
	if err != nil {
		return err
	}
	defer s.hangUp(ctx, c.pg)
	facts, err := readFacts(ctx, c.pg)
	if err != nil {
		return classify("look at the server", err)
	}
	p, err := s.find(ctx, c.pg, facts, setup)
	if err != nil {
		return err
	}
	return fn(c.pg, p)
}

// transaction runs fn in one; it is rolled back if fn fails.
func (s *Sink) transaction(ctx context.Context, pg *pgconn.PgConn, lockTimeout time.Duration, fn func() error) error {
	_, err := exec(ctx, pg, begin+fmt.Sprintf("SET LOCAL lock_timeout = %d;SET LOCAL statement_timeout = %d",
		lockTimeout.Milliseconds(), s.cfg.StatementTimeout.Milliseconds()))
	if err != nil {
		return classify("begin a transaction", err)
	}
	if err := fn(); err != nil {
		_ = rollback(ctx, pg) // otherwise the connection is gone, and the transaction with it
		return err
	}
	res, err := exec(ctx, pg, "COMMIT")
	if err != nil {
		return classify("commit", err)
	}
	if tag := res[0].CommandTag.String(); tag != "COMMIT" {
		return flow.Transient(fmt.Errorf("the server answered COMMIT with %s", tag))
	}
	return nil
}

// redrivesOf is the last header that counts redrives, as it is stored: enough to tell letters apart.
func redrivesOf(alias string) string {
	return fmt.Sprintf(`(SELECT h.e->>'value' FROM jsonb_array_elements(CASE jsonb_typeof(%[1]s.headers) WHEN 'array' THEN %[1]s.headers ELSE '[]' END)
		WITH ORDINALITY h(e, n) WHERE h.e->>'key' = '%[2]s' ORDER BY h.n DESC LIMIT 1)`, alias, flow.HeaderRedrives)
}

// sameLetter is the condition that two rows are one letter. The table's index has the first four; a row is
// the same as itself without a look at its headers.
var sameLetter = `c.flow = l.flow AND c.topic = l.topic AND c.partition = l.partition AND c."offset" = l."offset"
	AND c.cluster_id = l.cluster_id AND c.topic_id = l.topic_id AND (c.id = l.id OR ` + redrivesOf("c") + ` IS NOT DISTINCT FROM ` + redrivesOf("l") + `)`

// Letters implements flow.LetterLog. It holds a page of letters at a time, and ends with the last
// row that there was at its beginning.
func (s *Sink) Letters(ctx context.Context, setup flow.Setup, fn func(*flow.Letter) error) error {
	return s.withLetters(ctx, setup, []string{"SELECT"}, func(t *letterTable) error {
		if t.has == nil {
			return nil
		}
		ends, err := query(ctx, t.pg, fmt.Sprintf("SELECT coalesce(max(id), 0) FROM %s", t.name))
		if err != nil {
			return classify("look for dead letters in "+t.name.String(), err)
		}
		for last := "-9223372036854775808"; ; {
			rows, err := t.page(ctx, setup.Flow, last, string(ends[0][0]))
			if err != nil {
				return classify("read dead letters from "+t.name.String(), err)
			}
			if len(rows) == 0 {
				return nil
			}
			for _, r := range rows {
				if isTrue(r[1]) {
					continue // shown already
				}
				l, err := t.letter(r)
				if err != nil {
					return err
				}
				if err := fn(l); err != nil {
					return err
				}
			}
			last = string(rows[len(rows)-1][0])
		}
	})
}

// page reads the rows of the next letters, up to that with the id end. Rows that are there twice have a mark, and no contents.
// The || keeps the server from sorting all letters of the flow for every page.
func (t *letterTable) page(ctx context.Context, name, after, end string) ([][][]byte, error) {
	job := "NULL::text"
	if t.has.column(jobColumn) != nil {
		job = "t.job"
	}
	sql := fmt.Sprintf(`
		SELECT id, again, flow, cluster_id, topic, topic_id, partition, "offset", micros, since, stage, class, column_name, message, job,
			CASE WHEN NOT again THEN headers END, CASE WHEN NOT again THEN key END, CASE WHEN NOT again THEN value END
		FROM (
			SELECT l.*, EXISTS (SELECT FROM %[1]s c WHERE %[2]s AND c.id < l.id) AS again, sum(l.size) OVER (ORDER BY l.id) - l.size AS before
			FROM (
				SELECT t.id, t.flow, t.cluster_id, t.topic, t.topic_id, t.partition, t."offset", t.stage, t.class, t.column_name, t.message,
					%[3]s AS job, t.headers, t.key, t.value, %[4]s AS micros, %[5]s AS since,
					octet_length(t.message) + pg_column_size(t.headers) + coalesce(octet_length(t.key), 0) + coalesce(octet_length(t.value), 0) AS size
				FROM %[1]s t WHERE t.flow || '' = $1 AND t.id > $2 AND t.id <= $3 ORDER BY t.id LIMIT %[6]d
			) l
		) p WHERE before < %[7]d ORDER BY id`,
		t.name, sameLetter, job, microsOf(`t."timestamp"`), microsOf("t.created_at"), letterPage, letterBytes)
	formats := make([]int16, 18)
	formats[16], formats[17] = 1, 1 // the text form of bytes is twice as long
	r := t.pg.ExecParams(ctx, sql, [][]byte{[]byte(name), []byte(after), []byte(end)}, nil, nil, formats).Read()
	return r.Rows, r.Err
}

func microsOf(column string) string {
	return fmt.Sprintf("CASE WHEN isfinite(%[1]s) THEN (extract(epoch FROM %[1]s) * 1000000)::int8 ELSE 0 END", column)
}

// letter makes a letter of a row of page.
func (t *letterTable) letter(r [][]byte) (*flow.Letter, error) {
	rec := &flow.Record{Key: r[16], Value: r[17], Offset: parseInt64(r[7]), Timestamp: parseInt64(r[8])}
	if err := json.Unmarshal(r[15], &rec.Headers); err != nil {
		return nil, fmt.Errorf("the dead letter with id %s in %s: its headers are not a list of objects with key and value (base64): %w", r[0], t.name, err)
	}
	return &flow.Letter{
		DeadLetter: flow.DeadLetter{
			ClusterID: string(r[3]), Partition: flow.Partition{Topic: string(r[4]), ID: parseInt32(r[6])}, TopicID: string(r[5]),
			Record: rec, Stage: flow.Stage(r[10]), Class: string(r[11]), Column: string(r[12]), Message: string(r[13]),
		},
		Flow: string(r[2]), Since: time.UnixMicro(parseInt64(r[9])), Redrives: flow.Redrives(rec.Headers),
		Place: t.placeOf(parseInt64(r[0])), Job: string(r[14]),
	}, nil
}

func (t *letterTable) placeOf(id int64) flow.Position {
	return flow.Position{Partition: flow.Partition{Topic: t.name.String()}, Offset: id, LeaderEpoch: -1}
}

// ids are those of the places, in order and each once.
func (t *letterTable) ids(places []flow.Position) ([]int64, error) {
	ids := make([]int64, len(places))
	for i, p := range places {
		if p.Topic != t.name.String() || p.ID != 0 {
			return nil, flow.Fatal(fmt.Errorf("%s is no place in the dead-letter table %s", p.Partition, t.name))
		}
		ids[i] = p.Offset
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// idArray is the text form of an int8[].
func idArray(ids []int64) string {
	b := []byte{'{'}
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, id, 10)
	}
	return string(append(b, '}'))
}

// Take implements flow.LetterLog. Rows that are the same letter are taken together.
func (s *Sink) Take(ctx context.Context, setup flow.Setup, job string, places []flow.Position) error {
	if job == "" {
		return flow.Fatal(errors.New("take dead letters: a job needs a name"))
	}
	return s.withLetters(ctx, setup, letterRights, func(t *letterTable) error {
		ids, err := t.ids(places)
		if err != nil || len(ids) == 0 {
			return err
		}
		if t.has == nil {
			return &flow.TakenError{Place: t.placeOf(ids[0])}
		}
		if err := s.addJobColumn(ctx, t); err != nil {
			return err
		}
		return s.transaction(ctx, t.pg, s.cfg.StatementTimeout, func() error {
			for chunk := range slices.Chunk(ids, placeChunk) {
				if err := t.take(ctx, job, chunk); err != nil {
					return classify("take dead letters in "+t.name.String(), err)
				}
			}
			return nil
		})
	})
}

// take locks the rows of the letters, and gives them to the job if none has another.
func (t *letterTable) take(ctx context.Context, job string, ids []int64) error {
	rows, err := query(ctx, t.pg, fmt.Sprintf("SELECT c.id, c.job FROM %[1]s l JOIN %[1]s c ON %[2]s WHERE l.id = ANY($1::int8[]) ORDER BY c.id FOR UPDATE OF c",
		t.name, sameLetter), idArray(ids))
	if err != nil {
		return err
	}
	all := make([]int64, len(rows))
	for i, r := range rows {
		all[i] = parseInt64(r[0])
		if other := string(r[1]); other != "" && other != job {
			return &flow.TakenError{Place: t.placeOf(all[i]), Job: other}
		}
	}
	for _, id := range ids {
		if _, ok := slices.BinarySearch(all, id); !ok {
			return &flow.TakenError{Place: t.placeOf(id)}
		}
	}
	_, err = query(ctx, t.pg, fmt.Sprintf("UPDATE %s SET job = $1 WHERE id = ANY($2::int8[]) AND job IS DISTINCT FROM $1", t.name), job, idArray(all))
	return err
}

// addJobColumn makes a table of an earlier version one that jobs can work with.
func (s *Sink) addJobColumn(ctx context.Context, t *letterTable) error {
	if c := t.has.column(jobColumn); c != nil {
		if c.oid != oidText || c.generated {
			return flow.Fatal(fmt.Errorf("the column %s of %s, in which Penstock notes the job that has taken a letter, is %s, not text: rename it", jobColumn, t.name, c.typ))
		}
		return nil
	}
	ddl := fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s text", t.name, jobColumn)
	err := s.transaction(ctx, t.pg, s.cfg.StatementTimeout, func() error {
		_, err := exec(ctx, t.pg, ddl)
		return err
	})
	if sqlState(err) == codeInsufficientRights {
		return flow.Fatal(fmt.Errorf("the table %s has no column for the job that has taken a letter, and the role %s may not add it; as its owner, run:\n%s;", t.name, t.role, ddl))
	}
	return classify("add the column "+jobColumn+" to "+t.name.String(), err)
}

// Release implements flow.LetterLog.
func (s *Sink) Release(ctx context.Context, setup flow.Setup, job string, places []flow.Position) error {
	return s.endTaking(ctx, setup, "release", job, places, "UPDATE %[1]s c SET job = NULL FROM %[1]s l WHERE c.job = $1 AND l.id = ANY($2::int8[]) AND %[2]s")
}

// Remove implements flow.LetterLog. What has become a row since, and is the same letter, goes with it.
func (s *Sink) Remove(ctx context.Context, setup flow.Setup, job string, places []flow.Position) error {
	return s.endTaking(ctx, setup, "remove", job, places,
		"DELETE FROM %[1]s c USING %[1]s l WHERE l.job = $1 AND l.id = ANY($2::int8[]) AND (c.job IS NULL OR c.job = $1) AND %[2]s")
}

func (s *Sink) endTaking(ctx context.Context, setup flow.Setup, doing, job string, places []flow.Position, sql string) error {
	return s.withLetters(ctx, setup, letterRights, func(t *letterTable) error {
		ids, err := t.ids(places)
		if err != nil || len(ids) == 0 || t.has == nil || t.has.column(jobColumn) == nil {
			return err
		}
		return s.transaction(ctx, t.pg, s.cfg.StatementTimeout, func() error {
			for chunk := range slices.Chunk(ids, placeChunk) {
				if _, err := query(ctx, t.pg, fmt.Sprintf(sql, t.name, sameLetter), job, idArray(chunk)); err != nil {
					return classify(doing+" dead letters in "+t.name.String(), err)
				}
			}
			return nil
		})
	})
}

// Put implements flow.LetterLog.
func (s *Sink) Put(ctx context.Context, setup flow.Setup, letters []flow.Letter) error {
	if len(letters) == 0 {
		return nil
	}
	return s.withLetters(ctx, setup, []string{"INSERT"}, func(t *letterTable) error {
		if t.has == nil {
			return flow.Fatal(fmt.Errorf("there is no table %s to keep dead letters in: start the flow once, or run:\n%s;", t.name, strings.Join(t.ddl(), ";\n")))
		}
		byFlow := map[string][]flow.DeadLetter{}
		for i := range letters {
			byFlow[letters[i].Flow] = append(byFlow[letters[i].Flow], letters[i].DeadLetter)
		}
		return s.transaction(ctx, t.pg, s.cfg.StatementTimeout, func() error {
			var r deadReader
			for name, dead := range byFlow {
				if name == "" {
					name = setup.Flow
				}
				r.reset(name, setup.ClusterID, dead)
				if err := r.store(ctx, t.pg, t.name); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
