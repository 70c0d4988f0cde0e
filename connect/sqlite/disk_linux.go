package sqlite

import "syscall"

// Where SQLite's locks and its shared memory do not work: NFS, SMB, CIFS.
var networkFiles = []int64{0x6969, 0x517b, 0xff534d42, 0xfe534d42}

// disk is what is known of the file system of a folder.
func disk(folder string) (free uint64, network, known bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(folder, &st); err != nil {
		return 0, false, false
	}
	for _, t := range networkFiles {
		network = network || int64(st.Type)&0xffffffff == t //nolint:unconvert // its type depends on the architecture
	}
	return st.Bavail * uint64(st.Bsize), network, true //nolint:gosec,unconvert // sizes are positive
}

// writable says whether this process may make or change files there.
func writable(path string) bool { return syscall.Access(path, 2) == nil }
