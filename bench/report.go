package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Report is everything that a run of the benchmark has found.
type Report struct {
	Started  time.Time         `json:"started"`
	Took     float64           `json:"took_seconds"`
	Commit   string            `json:"commit,omitempty"`
	Quick    bool              `json:"quick,omitempty"`
	Records  int               `json:"records"`
	Pairs    int               `json:"pairs"`
	Host     Host              `json:"host"`
	Load     [2]string         `json:"load_average"` // at the start and at the end
	Database map[string]string `json:"database,omitempty"`
	Figures  []Figure          `json:"figures"`
	Runs     []Run             `json:"runs"`
}

// Run is a measurement and the part of the benchmark that it belongs to.
type Run struct {
	Part string `json:"part"`
	Measurement
}

func (r *Report) add(part string, ms []Measurement, figures ...Figure) {
	for _, m := range ms {
		r.Runs = append(r.Runs, Run{part, m})
	}
	r.Figures = append(r.Figures, figures...)
}

// WriteFile writes the report as JSON.
func (r *Report) WriteFile(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// printRun prints one line for a run that has just ended.
func printRun(w io.Writer, m Measurement) {
	fmt.Fprintf(w, "  %2d  %-28s %8.2f s %9.0f/s  cpu %6.2f", m.Round+1, m.Side, m.Seconds, m.Rate, m.CPU)
	if m.ServerCPU > 0 {
		fmt.Fprintf(w, "  server %6.2f", m.ServerCPU)
	}
	if m.Peak > 0 {
		fmt.Fprintf(w, "  rss %5.0f MiB", peakMiB(m))
	}
	if m.Read > 0 {
		fmt.Fprintf(w, "  read %.0f MiB", readMiB(m))
	}
	if m.FirstCommit > 0 {
		fmt.Fprintf(w, "  ready %.2f s  first %.2f s  from ready %.0f/s  allocs %.3f (steady %.3f)", m.Ready, m.FirstCommit, m.RateFromReady, m.Allocs, m.SteadyAllocs)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Values)) {
		fmt.Fprintf(w, "  %s %s", name, number(m.Values[name]))
	}
	fmt.Fprintf(w, "  load %s\n", m.Load)
}

// Print prints the figures as a table.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s, %d cores, %s, %s, %s\n", r.Host.CPU, r.Host.Cores, r.Host.Memory, r.Host.OS, r.Host.Go)
	if len(r.Database) > 0 {
		fmt.Fprintf(w, "PostgreSQL %s: shared_buffers %s, wal_level %s, max_wal_size %s, fsync %s, synchronous_commit %s\n", r.Database["server_version"],
			r.Database["shared_buffers"], r.Database["wal_level"], r.Database["max_wal_size"], r.Database["fsync"], r.Database["synchronous_commit"])
	}
	fmt.Fprintf(w, "commit %s, %d records a side, %d rounds, load average %s at the start, %s at the end\n\n", r.Commit, r.Records, r.Pairs, r.Load[0], r.Load[1])
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tmedian\tunit\tmin … max\tquartiles\tgoal\t")
	part := ""
	for _, f := range r.Figures {
		if f.Part != part {
			part = f.Part
			fmt.Fprintf(t, "%s\t\t\t\t\t\t\n", part)
		}
		span, quartiles := "", ""
		if len(f.Values) > 1 {
			span = number(f.Min) + " … " + number(f.Max)
			quartiles = number(f.Q1) + " … " + number(f.Q3)
		}
		verdict := f.Verdict
		if r.Quick {
			verdict = ""
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Median), f.Unit, span, quartiles, f.Goal, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Quick {
		fmt.Fprintln(w, "\n-quick checks that the benchmark works; its figures mean nothing.")
	}
	return nil
}

// number writes a figure with as many digits as mean something.
func number(v float64) string {
	switch {
	case v >= 1000:
		s := strconv.FormatFloat(v, 'f', 0, 64)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v == 0:
		return "0"
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}
