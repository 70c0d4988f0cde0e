package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A record's latency is from its own acknowledgement to the first look that saw
// it; what was seen before it was acknowledged took no time, and what was
// acknowledged before the warm-up ended does not count.
func TestLatencies(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	load := &feed{}
	load.acked[0] = []time.Time{at(5), at(20), at(30), at(40)}
	load.acked[3] = []time.Time{at(50)}
	w := &watcher{}
	w.seen[0] = []sighting{{1, at(6)}, {3, at(34)}, {4, at(39)}}
	w.seen[3] = []sighting{{1, at(57)}}
	if diff := cmp.Diff([]float64{0, 4, 7, 14}, w.latencies(load, at(10))); diff != "" {
		t.Errorf("milliseconds (-want +got):\n%s", diff)
	}
}
