//go:build !failpoint

package failpoint

import "time"

// Enabled says whether this binary can fail on purpose.
const Enabled = false

// Hit does nothing in this build.
func Hit(string) {}

// WallClock is time.Now in this build.
func WallClock() time.Time { return time.Now() }
