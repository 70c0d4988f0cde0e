package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   [5]float64 // min, q1, median, q3, max
	}{
		{[]float64{3}, [5]float64{3, 3, 3, 3, 3}},
		{[]float64{4, 1, 3, 2}, [5]float64{1, 1.75, 2.5, 3.25, 4}},
		{[]float64{7, 1, 2, 6, 3, 5, 4}, [5]float64{1, 2.5, 4, 5.5, 7}},
	} {
		s := spreadOf(c.values)
		if diff := cmp.Diff(c.want, [5]float64{s.Min, s.Q1, s.Median, s.Q3, s.Max}); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.values, diff)
		}
	}
}

func TestGoal(t *testing.T) {
	for _, c := range []struct {
		goal  Goal
		value float64
		want  string
	}{
		{Goal{}, 1, ""},
		{Goal{AtLeast: 0.9}, 0.9, "met"},
		{Goal{AtLeast: 0.9}, 0.89, "missed"},
		{Goal{AtMost: 1.1}, 1.1, "met"},
		{Goal{AtMost: 1.1}, 1.11, "missed"},
	} {
		if got := c.goal.Verdict(c.value); got != c.want {
			t.Errorf("%v of %v: %q, want %q", c.goal, c.value, got, c.want)
		}
	}
}

// The pairs are made within rounds, also where rounds ran in reverse.
func TestPairsAreOfOneRound(t *testing.T) {
	ms := []Measurement{
		{Side: "a", Round: 0, Rate: 10},
		{Side: "b", Round: 0, Rate: 20},
		{Side: "b", Round: 1, Rate: 400},
		{Side: "a", Round: 1, Rate: 100},
	}
	got := paired(bySide(ms, "a", rate), bySide(ms, "b", rate))
	if diff := cmp.Diff([]float64{0.5, 0.25}, got); diff != "" {
		t.Error(diff)
	}
}
