package connect

import (
	"errors"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

func TestRegistry(t *testing.T) {
	var r Registry
	refused := errors.New("refused")
	src := Source[tlsConfig]{
		Name: "test", Doc: "A test.",
		New: func(c tlsConfig) (flow.Source, error) {
			if c.File == "" {
				return (*nilSource)(nil), refused
			}
			return &nilSource{}, nil
		},
		Complete: func(c *tlsConfig, with Context) error {
			c.File = with.Flow
			return nil
		},
	}
	if err := r.Add(src); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(src); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("second add: %v", err)
	}
	c := r.Find(RoleSource, "test")
	if c == nil || r.Find(RoleSink, "test") != nil {
		t.Fatalf("found %v", c)
	}
	cfg := c.NewConfig()
	if s, err := c.NewSource(cfg); s != nil || !errors.Is(err, refused) {
		t.Errorf("a failed constructor gives %v, %v", s, err)
	}
	if _, err := c.NewSink(cfg); err == nil {
		t.Error("a source made a sink")
	}
	if err := c.Complete(cfg, Context{Flow: "f"}); err != nil {
		t.Fatal(err)
	}
	if s, err := c.NewSource(cfg); s == nil || err != nil {
		t.Errorf("constructor gives %v, %v", s, err)
	}
	for name, e := range map[string]Source[tlsConfig]{
		"no name": {Doc: "d", New: src.New},
		"no doc":  {Name: "n", New: src.New},
		"no new":  {Name: "n", Doc: "d"},
	} {
		if err := r.Add(e); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRegistryWantsEveryFieldDocumented(t *testing.T) {
	type bare struct {
		In struct {
			A string `yaml:"a"`
		} `yaml:"in" doc:"x"`
	}
	var r Registry
	err := r.Add(Source[bare]{Name: "bare", Doc: "d", New: func(bare) (flow.Source, error) { return nil, nil }})
	if err == nil || !strings.Contains(err.Error(), "in.a has no doc") {
		t.Errorf("error %v", err)
	}
}

type ownTable struct {
	Table string `yaml:"table" required:"true" doc:"Table."`
}

type tableSink struct {
	URL string `yaml:"url" doc:"Address."`
	ownTable
	Routes []string `yaml:"-"`
}

func TestRoutedSinkGetsWhatItsRoutesHave(t *testing.T) {
	sink := RoutedSink[tableSink, ownTable]{
		Sink: Sink[tableSink]{Name: "table", Doc: "d", New: func(tableSink) (flow.Sink, error) { return nil, nil }},
		SetRoutes: func(c *tableSink, names []string, routes []ownTable) {
			for i, r := range routes {
				c.Routes = append(c.Routes, names[i]+" into "+r.Table)
			}
		},
		CompleteRoute: func(c *ownTable, with Context) error {
			c.Table = with.Flow + "_" + c.Table
			return nil
		},
	}
	var r Registry
	if err := r.Add(sink); err != nil {
		t.Fatal(err)
	}
	c := r.Find(RoleSink, "table")
	if got := c.Route.FieldNames(); len(got) != 1 || got[0] != "table" {
		t.Fatalf("a route has %v", got)
	}
	route, cfg := c.NewRoute(), c.NewConfig()
	route.(*ownTable).Table = "orders" //nolint:errcheck // a wrong type is to panic
	if err := c.CompleteRoute(route, Context{Flow: "shop"}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetRoutes(cfg, []string{"a"}, []any{route}); err != nil {
		t.Fatal(err)
	}
	if got := cfg.(*tableSink).Routes; len(got) != 1 || got[0] != "a into shop_orders" { //nolint:errcheck // likewise
		t.Errorf("routes %v", got)
	}
	if c.SetRoutes(cfg, []string{"a"}, []any{cfg}) == nil || c.CompleteRoute(cfg, Context{}) == nil {
		t.Error("the configuration of something else is taken for a route's")
	}

	sink.SetRoutes = nil
	if err := new(Registry).Add(sink); err == nil || !strings.Contains(err.Error(), "there is no SetRoutes") {
		t.Errorf("error %v", err)
	}
	err := new(Registry).Add(RoutedSink[ownTable, tableSink]{
		Sink:      Sink[ownTable]{Name: "table", Doc: "d", New: func(ownTable) (flow.Sink, error) { return nil, nil }},
		SetRoutes: func(*ownTable, []string, []tableSink) {},
	})
	if err == nil || !strings.Contains(err.Error(), "field url is none of the sink") {
		t.Errorf("error %v", err)
	}
}

type nilSource struct{ flow.Source }
