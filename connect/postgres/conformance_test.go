package postgres_test

import (
	"context"
	"encoding/json"
	"net"
	"runtime"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockdev/penstock/connect/postgres"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	databases := newDatabases(t)
	for mode, features := range map[string]flowtest.SinkFeatures{
		// A violation in the merge of a staging table has no line.
		postgres.ModeAppend: {LocatesBadRows: true},
		postgres.ModeIgnore: {},
		postgres.ModeUpsert: {Upsert: true, Tombstones: true},
	} {
		features.ExactlyOnce, features.Columns, features.StoresDeadLetters = true, true, true
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			flowtest.RunSink(t, flowtest.SinkHarness{
				Features: features,
				New:      func(t testing.TB) *flowtest.Target { return newTarget(t, databases.take(t), mode) },
			})
		})
	}
}

// databases are used by one case after the other: to create and drop one takes longer
// than most cases.
type databases chan string

func newDatabases(t testing.TB) databases {
	t.Helper()
	n := min(runtime.GOMAXPROCS(0), 8) // that many cases run at a time, by default
	d := make(databases, n)
	for range n {
		d <- testservice.Postgres(t)
	}
	return d
}

// take returns an empty database, which is the test's until it ends.
func (d databases) take(t testing.TB) string {
	t.Helper()
	url := <-d
	t.Cleanup(func() {
		defer func() { d <- url }()
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
			DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
			t.Error(err)
		}
	})
	return url
}

// target is a database behind a proxy that can take the database away.
type target struct {
	url   string
	proxy *testservice.TCPProxy
	cfg   postgres.SinkConfig
}

func newTarget(t testing.TB, url, mode string) *flowtest.Target {
	t.Helper()
	// Defaults are taken in the order of insertion.
	ddl := "CREATE TABLE item (key text, seq int8 NOT NULL, payload text CHECK (payload <> 'poison'), n int8 GENERATED ALWAYS AS IDENTITY)"
	if mode != postgres.ModeAppend {
		ddl += "; ALTER TABLE item ADD PRIMARY KEY (key)"
	}
	d := &target{url: url}
	conn := d.connect(t)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), ddl); err != nil {
		t.Fatal(err)
	}
	pg := conn.Config()
	d.proxy = testservice.Proxy(t, net.JoinHostPort(pg.Host, strconv.Itoa(int(pg.Port))))
	d.cfg = postgres.SinkConfig{URL: testservice.WithAddr(t, d.url, d.proxy.Addr()), TableConfig: postgres.TableConfig{Table: "item", Mode: mode}}
	if mode != postgres.ModeAppend {
		d.cfg.Key = []string{"key"}
	}
	return &flowtest.Target{
		Sink: d.sink, Rows: d.rows, Dead: d.dead,
		Poison: func(it flowtest.Item) flowtest.Item {
			it.Payload = "poison"
			return it
		},
		Break: func(testing.TB) { d.proxy.Cut() },
		Mend:  func(testing.TB) { d.proxy.Restore() },
	}
}

func (d *target) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), d.url)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (d *target) sink(t testing.TB) flow.Sink {
	t.Helper()
	s, err := postgres.NewSink(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *target) rows(t testing.TB) []flowtest.Item {
	t.Helper()
	conn := d.connect(t)
	defer conn.Close(context.Background())
	rows, err := conn.Query(context.Background(), "SELECT key, seq, payload FROM item ORDER BY n")
	if err != nil {
		t.Fatal(err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByPos[flowtest.Item])
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func (d *target) dead(t testing.TB) []flowtest.DeadRow {
	t.Helper()
	conn := d.connect(t)
	defer conn.Close(context.Background())
	rows, err := conn.Query(context.Background(), `SELECT flow, cluster_id, topic, topic_id, partition, "offset", (extract(epoch FROM "timestamp") * 1000000)::int8,
		key, value, headers::text, stage, class, column_name, message FROM penstock_dead_letter ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (flowtest.DeadRow, error) {
		row := flowtest.DeadRow{DeadLetter: flow.DeadLetter{Record: &flow.Record{}}}
		var headers string
		err := r.Scan(&row.Flow, &row.ClusterID, &row.Topic, &row.TopicID, &row.ID, &row.Record.Offset, &row.Record.Timestamp,
			&row.Record.Key, &row.Record.Value, &headers, &row.Stage, &row.Class, &row.Column, &row.Message)
		if err == nil {
			err = json.Unmarshal([]byte(headers), &row.Record.Headers)
		}
		return row, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
