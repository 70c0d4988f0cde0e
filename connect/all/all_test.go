package all

import (
	"testing"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
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
