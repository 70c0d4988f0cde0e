package flow

import (
	"testing"
	"time"
)

func TestTheTimeOfDayFollowsOnlyJumpsThatLast(t *testing.T) {
	var c clock
	start := time.Now()
	offset := time.Duration(0)
	at := func(s time.Duration) time.Duration { // what the clock is ahead of the true time then
		now := start.Add(s)
		return c.read(now.Add(offset).Round(0), now).Sub(now.Round(0)).Round(time.Millisecond)
	}
	for _, step := range []struct {
		at     time.Duration // seconds
		offset time.Duration // of the machine's clock
		want   time.Duration
	}{
		{0, 0, 0},
		{1, 500 * time.Millisecond, 500 * time.Millisecond}, // slewed
		{2, 6 * time.Hour, 500 * time.Millisecond},          // set forward
		{30, 500 * time.Millisecond, 500 * time.Millisecond},
		{31, -6 * time.Hour, 500 * time.Millisecond}, // and back
		{80, -6 * time.Hour, 500 * time.Millisecond},
		{92, -6 * time.Hour, -6 * time.Hour}, // it stays there
		{93, -6 * time.Hour, -6 * time.Hour},
	} {
		offset = step.offset
		if got := at(step.at * time.Second); got != step.want {
			t.Fatalf("after %d s: ahead by %s, want %s", step.at, got, step.want)
		}
	}
}
