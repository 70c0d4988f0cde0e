package doctor

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// openFiles is the limit of this process; the Go runtime has raised the soft one to the
// hard one.
func openFiles() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return l.Cur
}

// readClock asks the kernel, changing nothing. A container may forbid it.
func readClock() clock {
	const unsynchronized = 0x40 // STA_UNSYNC
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return clock{}
	}
	return clock{known: true, synchronized: t.Status&unsynchronized == 0, maxError: time.Duration(t.Maxerror) * time.Microsecond}
}

// diskSpace is what is left for this user below a folder, in bytes.
func diskSpace(dir string) (free, size uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("looking at the disk: %w", &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	block := uint64(s.Frsize) //nolint:gosec // the size of a block is positive
	return s.Bavail * block, s.Blocks * block, nil
}
