package flow

import "time"

func init() {
	// The tests cannot wait for seconds.
	idleCheck = 100 * time.Millisecond
}
