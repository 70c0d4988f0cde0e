package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// Measurement is one run of one side. Zero means not measured.
type Measurement struct {
	Side    string `json:"side"`
	Round   int    `json:"round"`
	Records int    `json:"records"`
	// Seconds from the start of the process to the commit of the last record;
	// for a side that ends by itself, to its end.
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"records_per_second"`
	// FirstCommit is the time from the start of the process to the first
	// committed row.
	FirstCommit float64 `json:"first_commit_seconds,omitempty"`
	// Ready is the time from the start of the process until it says that it is
	// ready: connected, its partitions assigned, nothing read yet. RateFromReady
	// is that from there to the last commit.
	Ready         float64 `json:"ready_seconds,omitempty"`
	RateFromReady float64 `json:"records_per_second_from_ready,omitempty"`
	// CPU and ServerCPU are seconds of processor time, user and system, per
	// million records: of the side's processes, and of the database server.
	CPU       float64 `json:"cpu_seconds_per_million"`
	ServerCPU float64 `json:"server_cpu_seconds_per_million,omitempty"`
	Peak      int64   `json:"peak_rss_bytes"`
	// Read is what a flow has read from files and from the network.
	Read int64 `json:"read_bytes,omitempty"`
	// Allocs are heap allocations per record over the whole run, SteadyAllocs
	// between the first and the last commit.
	Allocs       float64 `json:"allocations_per_record,omitempty"`
	SteadyAllocs float64 `json:"steady_allocations_per_record,omitempty"`
	Load         string  `json:"load_average"`
	// Values are what a part measures besides, by name and unit.
	Values map[string]float64 `json:"values,omitempty"`
}

func measured(records int, u Usage) Measurement {
	return Measurement{Records: records, Seconds: u.Wall.Seconds(), CPU: u.CPU.Seconds() / float64(records) * 1e6, Peak: u.Peak, Read: u.Read}
}

// Side is one way to do the work.
type Side struct {
	Name string
	// Prepare makes the target as it must be before Run, unmeasured.
	Prepare func(context.Context) error
	Run     func(context.Context) (Measurement, error)
	// Verify says whether the work was done.
	Verify func(context.Context) error
	// Server reads the processor time of the database server; may be nil.
	Server func() time.Duration
}

// measure runs one side once.
func (s *Side) measure(ctx context.Context, round int) (Measurement, error) {
	load := loadAverage()
	fail := func(err error) (Measurement, error) { return Measurement{}, fmt.Errorf("%s: %w", s.Name, err) }
	if err := s.Prepare(ctx); err != nil {
		return fail(fmt.Errorf("preparing: %w", err))
	}
	var before time.Duration
	if s.Server != nil {
		before = s.Server()
	}
	m, err := s.Run(ctx)
	if err != nil {
		return fail(err)
	}
	if s.Server != nil {
		m.ServerCPU = (s.Server() - before).Seconds() / float64(m.Records) * 1e6
	}
	m.Side, m.Round, m.Load = s.Name, round, load
	m.Rate = float64(m.Records) / m.Seconds
	if err := s.Verify(ctx); err != nil {
		return fail(err)
	}
	return m, nil
}

// alternate runs every side once a round, in order in even rounds and in
// reverse in odd ones, so that no side always comes after the same other.
func alternate(ctx context.Context, w io.Writer, sides []Side, rounds int) ([]Measurement, error) {
	var all []Measurement
	for round := range rounds {
		order := slices.Clone(sides)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for i := range order {
			m, err := order[i].measure(ctx, round)
			if err != nil {
				return all, err
			}
			printRun(w, m)
			all = append(all, m)
		}
	}
	return all, nil
}
