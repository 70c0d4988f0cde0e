package server

import (
	"fmt"
	"syscall"
)

// mountDisk mounts a file system of so many MB, in memory.
func mountDisk(dir string, size int) error {
	return syscall.Mount("penstock-test", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%dm", size))
}

// unmountDisk does nothing where nothing is mounted.
func unmountDisk(dir string) { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }
