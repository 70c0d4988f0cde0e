package main

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestRunActorsStopsTheOthersInOrder(t *testing.T) {
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		var order []string
		waiting := func(name string) actor {
			return func(ctx context.Context) error {
				<-ctx.Done()
				order = append(order, name) // one at a time: that is what is tested
				return nil
			}
		}
		err := runActors(t.Context(), waiting("flow"), waiting("admin"), func(context.Context) error { return want })
		if !errors.Is(err, want) || !slices.Equal(order, []string{"flow", "admin"}) {
			t.Errorf("%v, stopped in the order %v", err, order)
		}
	}
}

func TestRunActorsReportsAFailureDuringTheStop(t *testing.T) {
	broken := errors.New("broken")
	err := runActors(t.Context(),
		func(ctx context.Context) error { <-ctx.Done(); return broken },
		func(context.Context) error { return nil },
	)
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
