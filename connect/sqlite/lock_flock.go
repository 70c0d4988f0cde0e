//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// claim is the exclusive right of this process to write a flow. The kernel
// takes it back when the process ends, however it ends.
type claim struct{ f *os.File }

// errClaimed says that another process has the claim.
type errClaimed struct{ holder string }

func (e *errClaimed) Error() string { return "held by " + e.holder }

// takeClaim locks the file. The file stays when the claim is released: removing it
// would let two processes lock two files of the same name.
func takeClaim(path string) (*claim, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making the lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := "another process"
		var b [32]byte
		if n, _ := f.ReadAt(b[:], 0); n > 0 {
			holder = "process " + string(bytes.TrimSpace(b[:n]))
		}
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &errClaimed{holder}
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The number is for people who find the lock held; nothing depends on it.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return &claim{f}, nil
}

func (c *claim) release() {
	if c != nil && c.f != nil {
		_ = c.f.Close()
		c.f = nil
	}
}
