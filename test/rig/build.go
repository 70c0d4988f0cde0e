package rig

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var keepLogs = flag.String("logs", "", "directory to keep the processes' logs in")

// Main runs the tests of a package that uses rigs. Its TestMain calls it.
func Main(m *testing.M) {
	flag.Parse()
	// The tests wait far more than they work: a kill costs the group's session
	// timeout. How many run at once has nothing to do with the number of cores.
	if err := flag.Set("test.parallel", "10"); err != nil {
		panic(err)
	}
	code := m.Run()
	if binDir != "" {
		_ = os.RemoveAll(binDir)
	}
	os.Exit(code)
}

var binDir string

// The programs are compiled once, with failpoints and without the race
// detector: what is tested is the binary that people run.
var (
	mkBinDir = sync.OnceValue(func() (err error) {
		binDir, err = os.MkdirTemp("", "penstock-crash-")
		return err
	})
	programs = map[string]func() error{
		"penstock": sync.OnceValue(func() error { return compile("cmd/penstock") }),
		"naive":    sync.OnceValue(func() error { return compile("test/rig/naive") }),
	}
)

const module = "github.com/penstockdev/penstock/"

func compile(pkg string) error {
	if err := mkBinDir(); err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-tags=failpoint", "-o", binDir+string(filepath.Separator), module+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

func binary(name string) (string, error) {
	err := programs[name]()
	return filepath.Join(binDir, name), err
}
