package main

import (
	"testing"
	"time"
)

// curveOf makes a curve of one sample every 100 ms.
func curveOf(start time.Time, ns ...int64) curve {
	c := make(curve, len(ns))
	for i, n := range ns {
		c[i].at, c[i].n = start.Add(time.Duration(i)*100*time.Millisecond), n
	}
	return c
}

func TestRateLeavesTheStartOut(t *testing.T) {
	start := time.Now()
	if got := curveOf(start, 0, 0, 0, 100, 200, 300).rate(); got < 999 || got > 1001 {
		t.Errorf("%v records/s, want 1000", got)
	}
}

func TestBackAtFullSpeed(t *testing.T) {
	const rate = 1000 // a second; 100 in each step
	start := time.Now()
	steps := func(growth ...int64) curve {
		ns := []int64{250}
		for _, g := range growth {
			ns = append(ns, ns[len(ns)-1]+g)
		}
		return curveOf(start, ns...)
	}
	seconds := func(n int, growth int64) []int64 {
		out := make([]int64, 10*n)
		for i := range out {
			out[i] = growth
		}
		return out
	}
	for _, c := range []struct {
		name        string
		growth      []int64
		first, full float64
	}{
		{"at once", seconds(3, 100), 0.1, 0},
		{"after two seconds of nothing", append(seconds(2, 0), seconds(3, 100)...), 2.1, 1.8}, // eight tenths of a second is enough
		{"slowly at first", append(seconds(2, 10), seconds(3, 100)...), 0.1, 1.8},
		{"to the end of what there is", append(seconds(1, 0), 100, 100, 100), 1.1, 1},
	} {
		first, full := steps(c.growth...).after(start, rate)
		if diff := first - c.first; diff > 0.001 || diff < -0.001 {
			t.Errorf("%s: first after %v, want %v", c.name, first, c.first)
		}
		if diff := full - c.full; diff > 0.11 || diff < -0.11 {
			t.Errorf("%s: full speed after %v, want %v", c.name, full, c.full)
		}
	}
}

func TestBytesRead(t *testing.T) {
	if procNumber(1<<30, "io", "rchar:") != 0 {
		t.Error("a process that does not exist has read something")
	}
}
