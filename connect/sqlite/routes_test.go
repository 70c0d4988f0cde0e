package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

// shop is a flow of three topics into three tables, in the three modes.
func shop(t *testing.T, log *flowtest.Log, path string, tables ...TableConfig) flow.Config {
	t.Helper()
	sink, err := NewSink(SinkConfig{Path: path, Routes: tables})
	if err != nil {
		t.Fatal(err)
	}
	cfg := flow.Config{
		Name: "shop", Sink: sink, Batch: flow.BatchLimits{Records: 100},
		Source: log.Source(flowtest.LogOptions{Topics: []string{"orders", "events", "users"}, Group: "shop"}),
	}
	columns := []decode.Column{{Name: "id", Type: "int8"}, {Name: "name", Type: "text"}}
	for _, r := range tables {
		cfg.Routes = append(cfg.Routes, flow.Route{
			Name: r.Route, Match: func(topic string) bool { return topic == r.Route },
			Transforms: func(int) ([]flow.Transform, error) {
				d, err := decode.NewJSON(decode.JSONConfig{Columns: columns})
				return []flow.Transform{d}, err
			},
		})
	}
	return cfg
}

func shopTables() []TableConfig {
	id := []string{"id"}
	return []TableConfig{
		{Route: "orders", Table: "orders", CreateTable: true},
		{Route: "events", Table: "events", Mode: ModeIgnore, Key: id, CreateTable: true},
		{Route: "users", Table: "users", Mode: ModeUpsert, Key: id, CreateTable: true},
	}
}

// runUntil runs the flow until n records are durable, or it ends by itself.
func runUntil(t *testing.T, cfg flow.Config, n int64) error {
	t.Helper()
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.Status().Records < n {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
	}
	stop()
	return <-done
}

func newLog() *flowtest.Log {
	log := flowtest.NewLog()
	for _, topic := range []string{"orders", "events", "users"} {
		log.Create(topic, 2)
	}
	return log
}

func TestRoutesWriteEachTopicIntoItsTable(t *testing.T) {
	log := newLog()
	path := filepath.Join(t.TempDir(), "x.db")
	const n = 1000
	for i := range n {
		for _, topic := range []string{"orders", "events", "users"} {
			log.Append(topic, int32(i%2), flow.Record{Value: fmt.Appendf(nil, `{"id":%d,"name":"n%d"}`, i%500, i)})
		}
	}
	log.Append("events", 0, flow.Record{Value: []byte("{")})
	cfg := shop(t, log, path, shopTables()...)
	cfg.ShutdownGrace = time.Nanosecond // what is under way is abandoned
	if err := runUntil(t, cfg, n); err != nil {
		t.Fatal(err)
	}
	// As many as the first run has left; and one that is in doubt may be counted twice.
	if err := runUntil(t, shop(t, log, path, shopTables()...), remaining(t, path, 3*n+1)); err != nil {
		t.Fatal(err)
	}
	db := openFile(t, path)
	for query, want := range map[string]string{
		"SELECT count(*) || ' ' || count(DISTINCT name) FROM orders":                                                    "1000 1000",
		"SELECT count(*) || ' ' || sum(name = 'n' || id) FROM events":                                                   "500 500",
		"SELECT count(*) || ' ' || sum(name = 'n' || (id + 500)) FROM users":                                            "500 500",
		"SELECT group_concat(topic || ' ' || class) FROM penstock_dead_letter":                                          "events malformed",
		"SELECT target FROM penstock_flow":                                                                              "events, orders, users",
		"SELECT group_concat(next_offset) FROM (SELECT next_offset FROM penstock_checkpoint ORDER BY topic, partition)": "501,500,500,500,500,500",
	} {
		if got := db(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// openFile returns a function that runs a query of one text.
func openFile(t *testing.T, path string) func(query string) string {
	t.Helper()
	c, err := open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return func(query string) (got string) {
		t.Helper()
		if err := c.run(func(s *stmt) error { got = s.text(0); return nil }, query); err != nil {
			t.Fatal(err)
		}
		return got
	}
}

// remaining is how many of n records are not in the checkpoint.
func remaining(t *testing.T, path string, n int64) int64 {
	t.Helper()
	var done int64
	if _, err := fmt.Sscan(openFile(t, path)("SELECT sum(next_offset) FROM penstock_checkpoint"), &done); err != nil {
		t.Fatal(err)
	}
	return n - done
}

func TestEveryTableThatDoesNotFitIsNamedAtOnce(t *testing.T) {
	log := newLog()
	path := filepath.Join(t.TempDir(), "x.db")
	c, err := open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.exec("CREATE TABLE users (id INTEGER PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	c.close()
	tables := shopTables()
	tables[1].CreateTable = false
	err = runUntil(t, shop(t, log, path, tables...), 1)
	for _, want := range []string{`no table "events" (route events): set create_table`, `table "users" (route users) has no column "name"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if n := openFile(t, path)("SELECT count(*) FROM sqlite_master WHERE name = 'orders'"); n != "0" {
		t.Error("a table was made for a flow that is refused")
	}
}

func TestRoutesOfOneTableMustFit(t *testing.T) {
	tables := shopTables()
	tables[1].Table = "Orders"
	_, err := NewSink(SinkConfig{Path: "x.db", Routes: tables})
	if err == nil || !strings.Contains(err.Error(), "routes.1.table: Orders is the table of another route, too, and its mode is append there and ignore here") {
		t.Error(err)
	}
	_, err = NewSink(SinkConfig{Path: "x.db", Routes: tables, TableConfig: TableConfig{Table: "t"}})
	if err == nil || !strings.Contains(err.Error(), "every route has a table of its own") {
		t.Error(err)
	}
}
