package ring_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/penstockdev/penstock/ring"
)

// Readings of several sensors are summed by one goroutine, as many at a time as
// there are.
func Example() {
	ctx := context.Background()
	readings, err := ring.NewMPSC[int](1024)
	if err != nil {
		fmt.Println(err)
		return
	}
	var sensors sync.WaitGroup
	for range 4 {
		sensors.Go(func() {
			for range 1000 {
				if _, err := readings.Push(ctx, 1, 2, 3); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	go func() {
		sensors.Wait()
		readings.Close()
	}()

	sum := 0
	batch := make([]int, 64)
	for {
		n, err := readings.Drain(ctx, batch)
		if errors.Is(err, ring.ErrClosed) {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, v := range batch[:n] {
			sum += v
		}
	}
	fmt.Println(sum)
	// Output: 24000
}
