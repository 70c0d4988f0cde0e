package crash

import (
	"flag"
	"testing"

	"github.com/penstockdev/penstock/test/rig"
)

var kills = flag.Int("kills", 100, "kills at named failpoints, for PostgreSQL and for copies; SQLite gets two fifths")

func TestMain(m *testing.M) { rig.Main(m) }
