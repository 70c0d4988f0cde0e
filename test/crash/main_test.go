package crash

import (
	"flag"
	"testing"

	"github.com/penstockdev/penstock/test/rig"
)

var kills = flag.Int("kills", 100, "kills of the PostgreSQL runs; SQLite gets two fifths")

func TestMain(m *testing.M) { rig.Main(m) }
