package flow

import "time"

func init() {
	// The tests cannot wait for seconds.
	idleCheck = 100 * time.Millisecond
	lookEvery = 150 * time.Millisecond
}
