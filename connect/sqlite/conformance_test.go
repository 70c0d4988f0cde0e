package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/coljson"
)

func harness(mode string) flowtest.SinkHarness {
	features := flowtest.SinkFeatures{
		ExactlyOnce: true, SingleProcess: true, Columns: true, StoresDeadLetters: true, LocatesBadRows: true,
		Upsert: mode == ModeUpsert, Tombstones: mode == ModeUpsert,
		MaxRecord: 2 << 20, // SQLite under the race detector is some twenty times slower
	}
	return flowtest.SinkHarness{Features: features, New: func(t testing.TB) *flowtest.Target { return newTarget(t, mode) }}
}

func TestConformance(t *testing.T) {
	// ignore differs from upsert in one clause, and the race detector makes SQLite
	// slow: TestIgnoreAndUpsert has to do.
	for _, mode := range []string{ModeAppend, ModeUpsert} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			flowtest.RunSink(t, harness(mode))
		})
	}
}

// TestFlows runs the engine from a log in memory into a file.
func TestFlows(t *testing.T) {
	t.Parallel()
	source := flowtest.SourceHarness{
		Features: flowtest.SourceFeatures{
			Group: true, Commit: true, Pause: true, Seek: true, Latest: true,
			Keys: true, Headers: true, Timestamps: true, Tombstones: true, MaxRecord: 2 << 20,
		},
		New: func(_ testing.TB, partitions int) *flowtest.Topic {
			log := flowtest.NewLog()
			log.Create("t", partitions)
			return &flowtest.Topic{
				Name: "t",
				Source: func(_ testing.TB, s flowtest.SourceStart) flow.Source {
					return log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: s.Group, MaxRecords: 70, MaxPartitions: 2})
				},
				Produce: func(_ testing.TB, id int32, records ...flow.Record) { log.Append("t", id, records...) },
				Gap:     func(_ testing.TB, id int32) { log.Skip("t", id, 3) },
				Break:   func(testing.TB) { log.Break() },
				Mend:    func(testing.TB) { log.Mend() },
			}
		},
	}
	flowtest.RunFlow(t, flowtest.FlowHarness{Source: source, Sink: harness(ModeAppend)})
}

// target is a file that can be taken away by locking it.
type database struct {
	cfg SinkConfig
	// blocker is the connection that holds the lock; nil while nobody does.
	blocker *conn
}

func newTarget(t testing.TB, mode string) *flowtest.Target {
	t.Helper()
	d := &database{cfg: SinkConfig{Path: filepath.Join(t.TempDir(), "x.db"), BusyTimeout: 200 * time.Millisecond, TableConfig: TableConfig{Table: "item", Mode: mode}}}
	key := ""
	if mode != ModeAppend {
		d.cfg.Key, key = []string{"key"}, ", UNIQUE (key)"
	}
	create(t, d.cfg.Path, "PRAGMA journal_mode = WAL",
		"CREATE TABLE item (key TEXT NOT NULL, seq INTEGER NOT NULL, payload TEXT CHECK (payload <> 'poison')"+key+")")
	return &flowtest.Target{
		Sink: func(t testing.TB) flow.Sink {
			s, err := NewSink(d.cfg)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Rows: d.rows, Dead: d.dead, Break: d.lock, Mend: d.unlock,
		Poison: func(it flowtest.Item) flowtest.Item {
			it.Payload = "poison"
			return it
		},
	}
}

func (d *database) lock(t testing.TB) {
	t.Helper()
	c, err := open(d.cfg.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.pragma("busy_timeout = 20000"); err != nil {
		t.Fatal(err)
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	d.blocker = c
}

func (d *database) unlock(testing.TB) {
	d.blocker.rollback()
	d.blocker.close()
	d.blocker = nil
}

// read runs a query as another program would.
func (d *database) read(t testing.TB, query string, row func(*sql.Rows) error) {
	t.Helper()
	ctx := context.Background() // it is called in cleanups, too
	db, err := sql.Open("sqlite", "file:"+d.cfg.Path+"?mode=ro&_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(ctx, query)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return // nobody has opened the sink yet
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := row(rows); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func (d *database) rows(t testing.TB) []flowtest.Item {
	t.Helper()
	var out []flowtest.Item
	d.read(t, "SELECT key, seq, payload FROM item ORDER BY rowid", func(r *sql.Rows) error {
		var it flowtest.Item
		err := r.Scan(&it.Key, &it.Seq, &it.Payload)
		out = append(out, it)
		return err
	})
	return out
}

func (d *database) dead(t testing.TB) []flowtest.DeadRow {
	t.Helper()
	var out []flowtest.DeadRow
	d.read(t, `SELECT flow, cluster_id, topic, topic_id, partition, "offset", timestamp, "key", value, value NOTNULL, headers, stage, class, column_name, message
		FROM penstock_dead_letter ORDER BY id`, func(r *sql.Rows) error {
		row := flowtest.DeadRow{DeadLetter: flow.DeadLetter{Record: &flow.Record{}}}
		var at, headers string
		var hasValue bool
		if err := r.Scan(&row.Flow, &row.ClusterID, &row.Topic, &row.TopicID, &row.ID, &row.Record.Offset, &at,
			&row.Record.Key, &row.Record.Value, &hasValue, &headers, &row.Stage, &row.Class, &row.Column, &row.Message); err != nil {
			return err
		}
		if hasValue && row.Record.Value == nil {
			row.Record.Value = []byte{} // the driver makes nil of an empty blob
		}
		out = append(out, row)
		when, err := time.Parse(coljson.LayoutTimestamptz, at)
		if err != nil {
			return err
		}
		row.Record.Timestamp = when.UnixMicro()
		return json.Unmarshal([]byte(headers), &row.Record.Headers)
	})
	return out
}
