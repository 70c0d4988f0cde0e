// Package filelock makes sure that one process at a time does something: it
// holds a lock on a file that the kernel takes back when the process ends, however it
// ends.
//
// What belongs here: the lock, per system. Where a system has no flock, Take
// always succeeds (Supported is false), and callers need a second line of defence.
package filelock

import "fmt"

// HeldError says that another process has the lock.
type HeldError struct {
	Path string
	// Holder is the process as it wrote itself into the file, "process 123".
	Holder string
}

func (e *HeldError) Error() string { return fmt.Sprintf("%s is held by %s", e.Path, e.Holder) }
