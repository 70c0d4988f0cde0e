package all

import (
	"strings"
	"testing"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

func TestRegistryHoldsAllRoles(t *testing.T) {
	r, err := Registry()
	if err != nil {
		t.Fatal(err)
	}
	for role, names := range map[connect.Role][]string{
		connect.RoleSource: {"kafka"}, connect.RoleDecode: {"json"}, connect.RoleSink: {"postgres", "sqlite", "stdout"},
		connect.RoleDeadLetters: {"kafka"},
	} {
		for _, name := range names {
			if r.Find(role, name) == nil {
				t.Errorf("there is no %s %s", role, name)
			}
		}
	}
}

const shop = `flow: shop
source: {kafka: {brokers: ["a:9092"], topics: [orders, users]}}
routes:
  orders:
    topics: [orders]
    decode: {json: {columns: {id: int8}}}
    sink: {table: orders, create_table: true}
  users:
    pattern: ^users
    decode: {json: {columns: {id: int8}}}
    sink: {table: users, mode: upsert, key: [id]}
`

func TestSinksTakeRoutes(t *testing.T) {
	r, err := Registry()
	if err != nil {
		t.Fatal(err)
	}
	for _, sink := range []string{`postgres: {url: "postgres://db/x"}`, "sqlite: {path: x.db}"} {
		load := func(set ...string) (*config.Flow, error) {
			return config.Load("shop.yaml", []byte(shop+"sink: {"+sink+"}\n"), config.Options{Registry: r, Set: set})
		}
		f, err := load()
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := f.Build(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := cfg.Sink.(flow.Router); !ok || s.Routes() != 2 || len(cfg.Routes) != 2 {
			t.Errorf("%s: %T for %d routes", sink, cfg.Sink, len(cfg.Routes))
		}
		for set, want := range map[string]string{
			"routes.users.sink.table=orders":              "routes.users.sink.table: orders is the table of another route, too, and its mode is append there and upsert here",
			"routes.users.sink.table=penstock_checkpoint": "routes.users.sink.table: ",
			"routes.users.sink.key=nope":                  "routes.users.sink.key.0: there is no column \"nope\"",
		} {
			if _, err := load(set); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("%s, %s: %v", sink, set, err)
			}
		}
	}
}

// Two fields with one variable could not be told apart.
func TestEveryFieldHasAVariableOfItsOwn(t *testing.T) {
	r, err := Registry()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := config.SettablePaths(r)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, p := range paths {
		if other, ok := seen[config.EnvName(p)]; ok {
			t.Errorf("%s and %s are both set by %s", p, other, config.EnvName(p))
		}
		seen[config.EnvName(p)] = p
	}
	if len(seen) < 50 {
		t.Errorf("%d fields only", len(seen))
	}
}
