package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/penstockdev/penstock/test/rig"
)

// freeze stops all processes of the target's server, which must be this test's
// own, where they are: it accepts connections and answers nothing. thaw lets
// them go on.
func freeze(t *testing.T, d *rig.Target) (thaw func()) {
	t.Helper()
	postmaster := parent(t, d.Count("SELECT pg_backend_pid()"))
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil { // it makes no more
		t.Fatal(err)
	}
	frozen := append(children(t, postmaster), postmaster)
	for _, pid := range frozen {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // one may have ended
	}
	thaw = func() {
		for _, pid := range frozen {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// parent is the parent of a process.
func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatalf("the server's processes: %v", err)
	}
	// pid (name) state ppid …, and the name may have anything in it.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatalf("the server's processes: %v", err)
	}
	return ppid
}

func children(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		t.Fatalf("the children of process %d cannot be found: %v", pid, err)
	}
	var all []int
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for field := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}
