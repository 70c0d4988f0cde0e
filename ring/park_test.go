//go:build unix

package ring

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A producer and a consumer that wait use no processor time; a loop that asks
// again and again for as long does.
func TestWaitingUsesNoProcessor(t *testing.T) {
	const wait = 400 * time.Millisecond
	full, empty := mpsc[int](t, 1), mpsc[int](t, 1)
	if _, err := full.TryPush(0); err != nil {
		t.Fatal(err)
	}
	parked := processorTime(t, wait, func(ctx context.Context) {
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := full.Push(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Push: %v", err)
			}
		})
		if _, err := empty.Drain(ctx, make([]int, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain: %v", err)
		}
		waiting.Wait()
	})
	spinning := processorTime(t, wait, func(ctx context.Context) {
		for dst := make([]int, 1); ctx.Err() == nil; {
			if _, err := empty.TryDrain(dst); err != nil {
				t.Error(err)
			}
		}
	})
	if parked > wait/40 || parked > spinning/4 {
		t.Errorf("%v of processor time in %v of waiting; a spinning loop uses %v", parked, wait, spinning)
	}
}

// processorTime is what this process uses while f runs under a context of so long.
func processorTime(t *testing.T, wait time.Duration, f func(context.Context)) time.Duration {
	t.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	before := used()
	f(ctx)
	return used() - before
}
