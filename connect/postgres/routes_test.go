package postgres

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
	"github.com/penstockdev/penstock/internal/testservice"
)

// shop is a flow of three topics into three tables, in the three modes.
type shop struct {
	*db
	log *flowtest.Log
	url string // that the flow connects to
}

const shopPartitions = 3

func newShop(t *testing.T, statements ...string) *shop {
	t.Helper()
	s := &shop{db: newDB(t, statements...), log: flowtest.NewLog()}
	s.url = s.db.url
	for _, topic := range []string{"orders", "events", "users"} {
		s.log.Create(topic, shopPartitions)
	}
	return s
}

func (s *shop) tables() []TableConfig {
	return []TableConfig{
		{Route: "orders", Table: "orders", CreateTable: true},
		{Route: "events", Table: "log.events", Mode: ModeIgnore, Key: []string{"id"}},
		{Route: "users", Table: "users", Mode: ModeUpsert, Key: []string{"id"}, CreateTable: true},
	}
}

const shopTables = `CREATE SCHEMA log; CREATE TABLE log.events (kind text NOT NULL, id int8 PRIMARY KEY, seen timestamptz DEFAULT now())`

func decoded(name, typ string) decode.Column { return decode.Column{Name: name, Type: typ} }

func (s *shop) config(tables ...TableConfig) flow.Config {
	s.t.Helper()
	sink, err := NewSink(SinkConfig{URL: s.url, Routes: tables})
	if err != nil {
		s.t.Fatal(err)
	}
	columns := map[string][]decode.Column{
		"orders": {decoded("id", "int8"), decoded("amount", "numeric")},
		"events": {decoded("id", "int8"), decoded("kind", "text")},
		"users":  {{Name: "id", Type: "text", From: "key"}, decoded("name", "text"), decoded("seq", "int8")},
	}
	cfg := flow.Config{
		Name: "shop", Sink: sink, Lanes: 2, Batch: flow.BatchLimits{Records: 100},
		Source: s.log.Source(flowtest.LogOptions{Topics: []string{"orders", "events", "users"}, Group: "shop"}),
		Retry:  flow.Retry{Initial: time.Millisecond, Max: 20 * time.Millisecond},
	}
	for _, t := range tables {
		cfg.Routes = append(cfg.Routes, flow.Route{
			Name: t.Route, Match: func(topic string) bool { return topic == t.Route },
			Transforms: func(int) ([]flow.Transform, error) {
				d, err := decode.NewJSON(decode.JSONConfig{Columns: columns[t.Route]})
				return []flow.Transform{d}, err
			},
		})
	}
	return cfg
}

// produce appends n records to every topic, numbered from first.
func (s *shop) produce(first, n int) {
	for i := first; i < first+n; i++ {
		p := int32(i % shopPartitions)
		s.log.Append("orders", p, flow.Record{Value: fmt.Appendf(nil, `{"id":%d,"amount":%d.50}`, i, i)})
		// Every event comes twice.
		for range 2 {
			s.log.Append("events", p, flow.Record{Value: fmt.Appendf(nil, `{"id":%d,"kind":"click"}`, i)})
		}
		// 30 users, each in one partition.
		s.log.Append("users", p, flow.Record{Key: fmt.Appendf(nil, "u%d", i%30), Value: fmt.Appendf(nil, `{"name":"n%d","seq":%d}`, i, i)})
	}
}

// run starts the flow and waits until it runs, or has ended; the function that it
// returns stops it.
func (s *shop) run(cfg flow.Config) (stop func() error) {
	s.t.Helper()
	f, err := flow.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.Status().State == flow.StateStarting {
		<-tick.C
	}
	return func() error {
		cancel()
		return <-done
	}
}

func (s *shop) awaitAll() {
	s.t.Helper()
	want := []string{}
	for _, topic := range []string{"events", "orders", "users"} {
		for p := range int32(shopPartitions) {
			_, end := s.log.Bounds(topic, p)
			want = append(want, fmt.Sprintf("%s|%d|%d", topic, p, end))
		}
	}
	s.eventually("SELECT topic, partition, next_offset FROM penstock_checkpoint ORDER BY 1, 2", want...)
}

// The table in mode append has no key: a record that is written twice is there twice.
func TestRoutesWriteExactlyOnceThroughOutagesAndRestarts(t *testing.T) {
	t.Parallel()
	s := newShop(t, shopTables)
	pg := s.conn.Config()
	proxy := testservice.Proxy(t, net.JoinHostPort(pg.Host, strconv.Itoa(int(pg.Port))))
	s.url = testservice.WithAddr(t, s.db.url, proxy.Addr())
	const rounds, each = 4, 900
	for round := range rounds {
		s.produce(round*each, each)
		cfg := s.config(s.tables()...)
		cfg.ShutdownGrace = time.Nanosecond // what is under way is abandoned
		stop := s.run(cfg)
		if round == 0 {
			s.awaitAll()
		} else {
			// In the middle of the round, the connections break, and then the flow ends.
			s.reaches("orders", round*each+each/3)
			proxy.CloseConnections()
			s.reaches("orders", round*each+each/2)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	s.log.Append("users", 0, flow.Record{Key: []byte("u0")}) // a tombstone
	stop := s.run(s.config(s.tables()...))
	s.awaitAll()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	n := strconv.Itoa(rounds * each)
	s.want("SELECT count(*), count(DISTINCT id), sum(amount - id) FROM orders", n+"|"+n+"|"+strconv.Itoa(rounds*each/2)+".00")
	s.want("SELECT count(*), min(kind) FROM log.events", n+"|click")
	s.want("SELECT count(*), min(seq), count(*) FILTER (WHERE name = 'n' || seq) FROM users", fmt.Sprintf("29|%d|29", rounds*each-29))
	s.want("SELECT count(*) FROM penstock_dead_letter", "0")
	s.want("SELECT target FROM penstock_flow", "log.events, public.orders, public.users")
}

// reaches waits until about so many records of the topic are in the checkpoint.
func (s *shop) reaches(topic string, records int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("SELECT sum(next_offset) >= %d FROM penstock_checkpoint WHERE topic = '%s'", records, topic), "t")
}

func TestABadRecordOfOneRouteIsItsOwnDeadLetter(t *testing.T) {
	t.Parallel()
	s := newShop(t, shopTables, "ALTER TABLE log.events ADD CHECK (kind <> 'poison')")
	s.produce(0, 300)
	s.log.Append("orders", 1, flow.Record{Value: []byte(`{"id":`)}, flow.Record{Value: []byte(`{"id":1000}`)})
	s.log.Append("events", 1, flow.Record{Value: []byte(`{"id":1000,"kind":"poison"}`)}, flow.Record{Value: []byte(`{"id":1001,"kind":"view"}`)})
	stop := s.run(s.config(s.tables()...))
	s.awaitAll()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT topic, partition, stage, class FROM penstock_dead_letter ORDER BY 1", "events|1|write|constraint", "orders|1|decode|malformed")
	s.want("SELECT count(*) FROM orders", "301")
	s.want("SELECT count(*) FROM log.events", "301")
	s.want("SELECT count(*) FROM users", "30")
}

func TestEveryTableThatDoesNotFitIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, "CREATE TABLE users (id text, name text)")
	open := func(tables ...TableConfig) error {
		cfg := s.config(tables...)
		return s.run(cfg)()
	}
	tables := s.tables()
	err := open(tables...)
	for _, want := range []string{
		"there is no table log.events (route events): set create_table: true, or run:\n", "CREATE TABLE IF NOT EXISTS log.events (\n    id int8 NOT NULL,\n    kind text,\n    PRIMARY KEY (id)\n)",
		"table public.users (route users) does not fit the flow:", "there is no column seq",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	s.want(ownTables, "public.users") // and nothing was made

	s.exec("CREATE SCHEMA log; CREATE TABLE log.events (id int8, must int8 NOT NULL)")
	err = open(tables...)
	for _, want := range []string{
		"table log.events (route events) does not fit the flow:", "there is no column kind: ALTER TABLE log.events ADD COLUMN kind text;", "column must is NOT NULL",
		"table public.users (route users) does not fit the flow:", "there is no column seq", "CREATE UNIQUE INDEX ON public.users (id);",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}

func TestRoutesMayShareATableThatBothFit(t *testing.T) {
	t.Parallel()
	s := newShop(t, "CREATE TABLE journal (id int8, kind text, amount numeric)")
	s.produce(0, 100)
	tables := []TableConfig{{Route: "orders", Table: "journal"}, {Route: "events", Table: "public.journal"}, s.tables()[2]}
	stop := s.run(s.config(tables...))
	s.awaitAll()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT count(amount), count(kind), count(*) FROM journal", "100|200|300")

	tables[1].Mode, tables[1].Key = ModeIgnore, []string{"id"}
	err := s.run(s.config(tables...))()
	if err == nil || !strings.Contains(err.Error(), "table public.journal of route events is that of route orders, too, and its mode is append there and ignore here") {
		t.Error(err)
	}
	tables[1].Table = "journal"
	if _, err := NewSink(SinkConfig{Routes: tables}); err == nil || !strings.Contains(err.Error(), "routes.1.table: journal is the table of another route, too") {
		t.Error(err)
	}
}

// A flow that gets a route goes on; the positions do not hold for one that loses a
// table, or whose table is gone.
func TestRoutesAreAdded(t *testing.T) {
	t.Parallel()
	s := newShop(t, shopTables)
	s.produce(0, 50)
	run := func(tables ...TableConfig) error {
		cfg := s.config(tables...)
		if len(tables) < 3 {
			cfg.Routes[1].Match = func(topic string) bool { return topic != "orders" }
		}
		return s.run(cfg)()
	}
	tables := s.tables()
	if err := run(tables[0], tables[1]); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT target FROM penstock_flow", "log.events, public.orders")
	if err := run(tables...); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT target FROM penstock_flow", "log.events, public.orders, public.users")
	err := run(tables[0], tables[1])
	if err == nil || !strings.Contains(err.Error(), `its target was "log.events, public.orders, public.users" and is "log.events, public.orders" now`) {
		t.Error(err)
	}
	s.exec("DROP TABLE users")
	err = run(tables...)
	if err == nil || !strings.Contains(err.Error(), "the table public.users (route users) is gone, but flow shop has positions") {
		t.Error(err)
	}
}
