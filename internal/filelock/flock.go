//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package filelock

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Supported says whether the lock excludes anybody on this system.
const Supported = true

// Lock is a lock that is held.
type Lock struct{ f *os.File }

// Take locks the file, which it creates if it does not exist, or returns a
// *HeldError at once. The file stays when the lock is released: removing it would let
// two processes lock two files of the same name.
func Take(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making the lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		held := &HeldError{Path: path, Holder: "another process"}
		var b [32]byte
		if n, _ := f.ReadAt(b[:], 0); n > 0 {
			held.Holder = "process " + string(bytes.TrimSpace(b[:n]))
		}
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, held
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The number is for people who find the lock held; nothing depends on it.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return &Lock{f}, nil
}

// Release gives the lock up. Nil and released locks are legal.
func (l *Lock) Release() {
	if l != nil && l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}
