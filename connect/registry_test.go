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

type nilSource struct{ flow.Source }
