package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports come from below the ephemeral range (32768 and up): a port up there
// may be taken by any outgoing connection while its server restarts.
const (
	lowestPort  = 11000
	highestPort = 32000
)

var ports struct {
	sync.Mutex
	taken map[int]bool
}

// FreePort returns a port on 127.0.0.1 that nobody listens on, and that this
// process has not been given before.
func FreePort(ctx context.Context) (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.taken == nil {
		ports.taken = map[int]bool{}
	}
	for range 200 {
		p := lowestPort + rand.IntN(highestPort-lowestPort)
		if ports.taken[p] {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", addr(p))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, err
		}
		ports.taken[p] = true
		return p, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d on 127.0.0.1", lowestPort, highestPort)
}

func addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// startAttempts is how often a server is tried on other ports: between finding
// a port free and the server's bind somebody else may take it.
const startAttempts = 3
