package postgres

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

func TestInspectCreatesNothing(t *testing.T) {
	t.Parallel()
	d := newDB(t)
	setup := flow.Setup{
		Flow: "inspected", ClusterID: "c1", Source: "group g, topics t", Lanes: 1,
		Fields: []flow.Field{{Name: "id", Type: "int8", Kind: flow.KindInt64}},
	}
	inspect := func(setup flow.Setup) ([]flow.Position, error) {
		s, err := NewSink(SinkConfig{URL: d.url, TableConfig: TableConfig{Table: "t", CreateTable: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(context.Background()) }()
		return s.Inspect(t.Context(), setup)
	}
	if got, err := inspect(setup); err != nil || len(got) > 0 {
		t.Errorf("before the first start: %v, %v", got, err)
	}
	if tables := d.rows("SELECT relname FROM pg_class WHERE relname LIKE 'penstock_%' OR relname = 't'"); len(tables) > 0 {
		t.Errorf("made %v", tables)
	}

	s, err := NewSink(SinkConfig{URL: d.url, TableConfig: TableConfig{Table: "t", CreateTable: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	if err := s.Open(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	want := []flow.Position{{Partition: flow.Partition{Topic: "t", ID: 3}, TopicID: "id", Offset: 77, LeaderEpoch: 2}}
	if err := s.Init(t.Context(), func(context.Context) ([]flow.Position, error) { return want, nil }); err != nil {
		t.Fatal(err)
	}
	if got, err := inspect(setup); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	// One that has looked claims under its own name.
	used, err := NewSink(SinkConfig{URL: d.url, TableConfig: TableConfig{Table: "t"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = used.Close(context.Background()) }()
	if err := used.Open(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	if _, err := used.Inspect(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	if used.appName != "penstock:inspected" {
		t.Errorf("the application name is %s after Inspect", used.appName)
	}
	d.eventually("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'penstock:%'", "penstock:inspected")
	setup.Source = "group g, topics u"
	if _, err := inspect(setup); err == nil || !strings.Contains(err.Error(), "its source was") {
		t.Errorf("another source: %v", err)
	}
}
