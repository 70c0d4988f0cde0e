//go:build !linux

package sqlite

// disk is what is known of the file system of a folder.
func disk(string) (free uint64, network, known bool) { return 0, false, false }

// writable says whether this process may make or change files there: opening them will tell.
func writable(string) bool { return true }
