package ring

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is after how long a test that hangs fails.
const patience = time.Minute

func spsc[T any](t testing.TB, capacity int) *Ring[T] {
	t.Helper()
	r, err := NewSPSC[T](capacity)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mpsc[T any](t testing.TB, capacity int) *Ring[T] {
	t.Helper()
	r, err := NewMPSC[T](capacity)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// both runs a test with a ring of either kind.
func both(t *testing.T, capacity int, test func(t *testing.T, r *Ring[int])) {
	t.Helper()
	t.Run("SPSC", func(t *testing.T) { test(t, spsc[int](t, capacity)) })
	t.Run("MPSC", func(t *testing.T) { test(t, mpsc[int](t, capacity)) })
}

func TestCapacityIsAPowerOfTwo(t *testing.T) {
	for _, capacity := range []int{1, 2, 4096} {
		if got := mpsc[int](t, capacity).Cap(); got != capacity {
			t.Errorf("Cap of a ring of %d: %d", capacity, got)
		}
	}
	for capacity, want := range map[int]string{
		-8:              "at least 1",
		0:               "at least 1",
		3:               "such as 2 or 4",
		1000:            "such as 512 or 1024",
		MaxCapacity - 1: "such as 536870912 or 1073741824",
		MaxCapacity + 1: "at most 1073741824",
	} {
		for _, make := range []func(int) (*Ring[int], error){NewSPSC[int], NewMPSC[int]} {
			if r, err := make(capacity); r != nil || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("capacity %d: error %v, want one with %q", capacity, err, want)
			}
		}
	}
}

func TestTryPushTakesWhatThereIsRoomFor(t *testing.T) {
	both(t, 4, func(t *testing.T, r *Ring[int]) {
		for _, step := range []struct{ push, pushed, length int }{{3, 3, 3}, {3, 1, 4}, {1, 0, 4}, {0, 0, 4}} {
			if n, err := r.TryPush(make([]int, step.push)...); n != step.pushed || err != nil || r.Len() != step.length {
				t.Errorf("TryPush of %d: %d, %v, Len %d; want %+v", step.push, n, err, r.Len(), step)
			}
		}
	})
}

func TestAnEmptyDestinationIsNotWaitedFor(t *testing.T) {
	both(t, 4, func(t *testing.T, r *Ring[int]) {
		if n, err := r.Drain(t.Context(), nil); n != 0 || err != nil {
			t.Errorf("Drain into nothing: %d, %v", n, err)
		}
	})
}

func TestWhatIsThereNeedsNoLivingContext(t *testing.T) {
	both(t, 4, func(t *testing.T, r *Ring[int]) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := r.Push(ctx, 1, 2, 3, 4, 5); n != 4 || !errors.Is(err, context.Canceled) {
			t.Errorf("Push beyond the room: %d, %v; want 4 and that it was canceled", n, err)
		}
		dst := make([]int, 8)
		if n, err := r.Drain(ctx, dst); n != 4 || err != nil {
			t.Errorf("Drain of a full ring: %d, %v", n, err)
		}
		if n, err := r.Drain(ctx, dst); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("Drain of an empty ring: %d, %v; want that it was canceled", n, err)
		}
	})
}

func TestCloseKeepsWhatIsInTheRing(t *testing.T) {
	both(t, 4, func(t *testing.T, r *Ring[int]) {
		if _, err := r.Push(t.Context(), 1, 2, 3); err != nil {
			t.Fatal(err)
		}
		r.Close()
		r.Close()
		if n, err := r.Push(t.Context(), 4); n != 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("Push: %d, %v; want ErrClosed", n, err)
		}
		dst := make([]int, 2)
		for _, want := range [][]int{{1, 2}, {3}} {
			if n, err := r.Drain(t.Context(), dst); err != nil || !slices.Equal(dst[:n], want) {
				t.Errorf("Drain: %v, %v; want %v", dst[:n], err, want)
			}
		}
		if n, err := r.Drain(t.Context(), dst); n != 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("Drain at the end: %d, %v; want ErrClosed", n, err)
		}
	})
}

func TestCloseAwaitsARunThatIsBeingCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mpsc[int](t, 4)
		at, n, err := r.reserve(2)
		if n != 2 || err != nil {
			t.Fatal(n, err)
		}
		r.Close()
		dst := make([]int, 4)
		drained := -1
		go func() {
			drained, err = r.Drain(t.Context(), dst)
		}()
		synctest.Wait()
		if drained != -1 {
			t.Fatalf("Drain returned %d, %v before the run was published", drained, err)
		}
		if err := r.publish(at, []int{7, 8}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if drained != 2 || err != nil || dst[0] != 7 || dst[1] != 8 {
			t.Fatalf("Drain: %d, %v, %v", drained, err, dst)
		}
	})
}

func TestCloseWakesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, empty := mpsc[int](t, 1), mpsc[int](t, 1)
		if _, err := full.Push(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 4)
		for range 3 {
			go func() {
				_, err := full.Push(t.Context(), 1)
				errs <- err
			}()
		}
		go func() {
			_, err := empty.Drain(t.Context(), make([]int, 1))
			errs <- err
		}()
		synctest.Wait()
		full.Close()
		empty.Close()
		for range 4 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("error %v, want ErrClosed", err)
			}
		}
	})
}

// Many goroutines, few slots: whoever is not woken lets the test hang.
func TestHammeredRingLosesNothing(t *testing.T) {
	const total = 200_000
	for _, test := range []struct {
		name                string
		producers, capacity int
	}{
		{"SPSC of 1", 1, 1},
		{"SPSC of 8", 1, 8},
		{"SPSC of 256", 1, 256},
		{"MPSC of 1", 3, 1},
		{"MPSC of 8", 3, 8},
		{"MPSC of 256", 8, 256},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := mpsc[message](t, test.capacity)
			if test.producers == 1 {
				r = spsc[message](t, test.capacity)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			each := total / test.producers
			var producing, consuming sync.WaitGroup
			received := make([]int, test.producers)
			consuming.Go(func() { hammerDrain(ctx, t, r, received) })
			for i := range test.producers {
				producing.Go(func() { hammerPush(ctx, t, r, i, each) })
			}
			producing.Wait()
			r.Close()
			consuming.Wait()
			for i, n := range received {
				if n != each {
					t.Errorf("producer %d: %d pushed, %d received", i, each, n)
				}
			}
		})
	}
}

// hammerPush pushes the messages 0 to total, some of them without waiting.
func hammerPush(ctx context.Context, t *testing.T, r *Ring[message], i, total int) {
	batch := make([]message, 2*r.Cap()+1)
	for sent := 0; sent < total; {
		k := min(total-sent, 1+rand.IntN(len(batch)))
		for j := range k {
			batch[j] = message{producer: i, n: sent + j}
		}
		push := r.Push
		if rand.IntN(4) == 0 {
			push = func(_ context.Context, ms ...message) (int, error) { return r.TryPush(ms...) }
		}
		n, err := push(ctx, batch[:k]...)
		if err != nil {
			t.Errorf("producer %d, %d sent, ring of %d holds %d: %v", i, sent, r.Cap(), r.Len(), err)
			return
		}
		sent += n
		if n == 0 {
			runtime.Gosched()
		}
	}
}

// hammerDrain drains until the end and counts what it received of each producer.
func hammerDrain(ctx context.Context, t *testing.T, r *Ring[message], received []int) {
	dst := make([]message, 2*r.Cap())
	for {
		n, err := r.Drain(ctx, dst[:1+rand.IntN(len(dst))])
		if errors.Is(err, ErrClosed) {
			return
		}
		if err != nil {
			t.Errorf("ring of %d holds %d: %v", r.Cap(), r.Len(), err)
			return
		}
		for _, m := range dst[:n] {
			if m.n != received[m.producer] {
				t.Errorf("producer %d: received %d, want %d", m.producer, m.n, received[m.producer])
				r.Close()
				return
			}
			received[m.producer]++
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	both(t, 64, func(t *testing.T, r *Ring[int]) {
		batch := make([]int, 48)
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := r.TryPush(batch...); err != nil {
				t.Error(err)
			}
			if _, err := r.TryPush(1); err != nil {
				t.Error(err)
			}
			if _, err := r.TryDrain(batch); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations a round without waiting", n)
		}
	})
}

func TestWaitingAllocatesNothing(t *testing.T) {
	there, back := spsc[int](t, 1), mpsc[int](t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var echo sync.WaitGroup
	echo.Go(func() {
		dst := make([]int, 1)
		for {
			n, err := there.Drain(ctx, dst)
			if err != nil {
				return
			}
			if _, err := back.Push(ctx, dst[:n]...); err != nil {
				t.Error(err)
			}
		}
	})
	batch := []int{1, 2, 3, 4}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := there.Push(ctx, batch[:2]...); err != nil {
			t.Error(err)
		}
		for got := 0; got < 2; {
			n, err := back.Drain(ctx, batch[:2])
			if err != nil {
				t.Error(err)
			}
			got += n
		}
	}); n != 0 {
		t.Errorf("%v allocations a round trip", n)
	}
	there.Close()
	echo.Wait()
	cancel()
}
