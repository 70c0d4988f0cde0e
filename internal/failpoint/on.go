//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Enabled says whether this binary can fail on purpose.
const Enabled = true

type point struct {
	action string
	sleep  time.Duration
	at     int64
	hits   atomic.Int64
}

var points = parse(os.Getenv("PENSTOCK_FAILPOINTS"))

func parse(s string) map[string]*point {
	m := map[string]*point{}
	for _, one := range strings.FieldsFunc(s, func(r rune) bool { return r == ';' }) {
		name, action, ok := strings.Cut(one, "=")
		if !ok {
			panic("PENSTOCK_FAILPOINTS: " + one + ": want name=action[@n]")
		}
		p := &point{at: 1}
		action, at, ok := strings.Cut(action, "@")
		if ok {
			n, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				panic("PENSTOCK_FAILPOINTS: " + one + ": " + err.Error())
			}
			p.at = n
		}
		if d, ok := strings.CutPrefix(action, "sleep:"); ok {
			dur, err := time.ParseDuration(d)
			if err != nil {
				panic("PENSTOCK_FAILPOINTS: " + one + ": " + err.Error())
			}
			action, p.sleep = "sleep", dur
		}
		switch action {
		case "kill", "stop", "sleep":
		default:
			panic("PENSTOCK_FAILPOINTS: " + one + ": unknown action")
		}
		p.action = action
		m[name] = p
	}
	return m
}

// Hit acts if the named point is armed.
func Hit(name string) {
	p := points[name]
	if p == nil {
		return
	}
	n := p.hits.Add(1)
	if n < p.at || (n > p.at && p.action != "sleep") {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint "+name)
	switch p.action {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way; no further instruction may run
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "sleep":
		time.Sleep(p.sleep)
	}
}

// clockJump is how far the wall clock jumps, back and forth; 0: it does not.
var clockJump = parseJump(os.Getenv("PENSTOCK_CLOCK_JUMP"))

func parseJump(s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic("PENSTOCK_CLOCK_JUMP: " + err.Error())
	}
	return d
}

// started is when WallClock was first asked.
var started = sync.OnceValue(time.Now)

// WallClock is the time of day as a machine shows it whose clock is right for a
// second, and then set forward and back every tenth of one. It has no monotonic part.
func WallClock() time.Time {
	now := time.Now().Round(0)
	if time.Since(started()) < time.Second {
		return now
	}
	switch now.UnixMilli() / 100 % 3 {
	case 0:
		return now.Add(clockJump)
	case 1:
		return now.Add(-clockJump)
	}
	return now
}
