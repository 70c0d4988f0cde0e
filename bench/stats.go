package main

import (
	"fmt"
	"slices"
)

// Spread is the distribution of one figure over the rounds.
type Spread struct {
	Values []float64 `json:"values"` // by round
	Min    float64   `json:"min"`
	Q1     float64   `json:"q1"`
	Median float64   `json:"median"`
	Q3     float64   `json:"q3"`
	Max    float64   `json:"max"`
}

func spreadOf(values []float64) Spread {
	s := slices.Sorted(slices.Values(values))
	return Spread{
		Values: values,
		Min:    quantile(s, 0), Q1: quantile(s, 0.25), Median: quantile(s, 0.5), Q3: quantile(s, 0.75), Max: quantile(s, 1),
	}
}

// quantile interpolates between the two nearest of sorted values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := min(int(at), len(sorted)-1)
	j := min(i+1, len(sorted)-1)
	return sorted[i] + (sorted[j]-sorted[i])*(at-float64(i))
}

// Goal is what a figure is to reach: AtLeast or AtMost, whichever is not 0.
// Without either the figure is for information.
type Goal struct {
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
}

// Verdict is "met", "missed", or "" without a goal.
func (g Goal) Verdict(v float64) string {
	switch {
	case g.AtLeast == 0 && g.AtMost == 0:
		return ""
	case g.AtLeast != 0 && v < g.AtLeast, g.AtMost != 0 && v > g.AtMost:
		return "missed"
	}
	return "met"
}

func (g Goal) String() string {
	switch {
	case g.AtLeast != 0:
		return fmt.Sprintf("≥ %.4g", g.AtLeast)
	case g.AtMost != 0:
		return fmt.Sprintf("≤ %.4g", g.AtMost)
	}
	return ""
}

// Figure is a result: a figure over the rounds, and what it is to reach.
type Figure struct {
	Part string `json:"part"`
	Name string `json:"name"`
	Unit string `json:"unit"`
	Spread
	Goal Goal `json:"goal,omitzero"`
	// Judged is the value that the goal is held against: the median, or the
	// worst round where every round counts (memory).
	Judged  float64 `json:"judged"`
	Verdict string  `json:"verdict,omitempty"`
}

// figure judges by the median.
func figure(part, name, unit string, goal Goal, values ...float64) Figure {
	s := spreadOf(values)
	return Figure{Part: part, Name: name, Unit: unit, Spread: s, Goal: goal, Judged: s.Median, Verdict: goal.Verdict(s.Median)}
}

// worst judges by the largest value.
func worst(f Figure) Figure {
	f.Judged = f.Max
	f.Verdict = f.Goal.Verdict(f.Max)
	return f
}

// bySide returns one value per round of a side, in the order of the rounds.
func bySide(ms []Measurement, side string, value func(Measurement) float64) []float64 {
	var out []float64
	for _, m := range ms {
		if m.Side == side {
			out = append(out, value(m))
		}
	}
	return out
}

// paired returns, for every round, the ratio a:b. A round is one pair: what
// disturbs the machine for minutes disturbs both.
func paired(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

// larger is the larger of both, round by round.
func larger(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = max(a[i], b[i])
	}
	return out
}

func seconds(m Measurement) float64      { return m.Seconds }
func rate(m Measurement) float64         { return m.Rate }
func readyRate(m Measurement) float64    { return m.RateFromReady }
func firstCommit(m Measurement) float64  { return m.FirstCommit }
func cpu(m Measurement) float64          { return m.CPU }
func serverCPU(m Measurement) float64    { return m.ServerCPU }
func peakMiB(m Measurement) float64      { return float64(m.Peak) / (1 << 20) }
func readMiB(m Measurement) float64      { return float64(m.Read) / (1 << 20) }
func allocs(m Measurement) float64       { return m.Allocs }
func steadyAllocs(m Measurement) float64 { return m.SteadyAllocs }

// value is one of a measurement's Values.
func value(name string) func(Measurement) float64 {
	return func(m Measurement) float64 { return m.Values[name] }
}
