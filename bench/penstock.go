package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// buildPenstock builds the binary and returns its path. A release is built
// without the machine's paths, which means compiling everything once more.
func buildPenstock(ctx context.Context, dir string, release bool) (string, error) {
	path := filepath.Join(dir, "penstock")
	args := []string{"build", "-ldflags=-s -w", "-o", path}
	if release {
		args = append(args, "-trimpath")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/penstockdev/penstock/cmd/penstock")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building penstock: %w\n%s", err, out)
	}
	return path, nil
}

// Penstock runs the binary on a topic.
type Penstock struct {
	Binary string
	Dir    string
	Topic  *Topic
	ports  *ports
	// runs counts the flows: each run is a flow of its own.
	runs int
}

// flowSink is the part of a flow file that differs between runs.
type flowSink struct {
	YAML string
	// Env are variables that the file refers to.
	Env []string
	// Progress returns how many records the flow's checkpoint has passed.
	Progress func(ctx context.Context, flow string) (int64, error)
}

// flowFile writes a flow file. What it does not say is Penstock's default:
// the defaults are what is measured.
func (p *Penstock) flowFile(flow, sink, admin string, lanes int) (string, error) {
	yaml := fmt.Sprintf(`flow: %s
source:
  kafka:
    brokers: [%s]
    topics: [%s]
decode:
  json:
    columns:
      device_id: text
      seq: int8
      ts: timestamptz
      temp: float8
      payload: text
sink:
%s
lanes: %d
admin: {address: %q}
`, flow, strings.Join(p.Topic.Brokers, ", "), p.Topic.Name, indent(sink, "  "), lanes, admin)
	path := filepath.Join(p.Dir, flow+".yaml")
	return path, os.WriteFile(path, []byte(yaml), 0o600)
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by)
}

// progressAt is a point of the run: so many records were durable after so long.
type progressAt struct {
	after   time.Duration
	records int64
}

// Run runs a new flow from the beginning of the topic until all its records
// are committed, and stops it then.
func (p *Penstock) Run(ctx context.Context, sink flowSink, lanes int) (m Measurement, err error) {
	p.runs++
	flow := p.Topic.Name + "-" + strconv.Itoa(p.runs)
	admin, err := p.ports.free()
	if err != nil {
		return m, err
	}
	file, err := p.flowFile(flow, sink.YAML, admin, lanes)
	if err != nil {
		return m, err
	}
	proc, err := startProcess(ctx, childEnv(sink.Env...), p.Binary, "run", file)
	if err != nil {
		return m, err
	}
	first, last, mallocs, err := p.watch(ctx, proc, func(ctx context.Context) (int64, error) { return sink.Progress(ctx, flow) }, admin)
	proc.Peak()
	usage, stopErr := proc.Stop(syscall.SIGTERM)
	if err := errors.Join(err, stopErr); err != nil {
		return m, fmt.Errorf("penstock run %s: %w", file, err)
	}
	m = measured(p.Topic.Records, usage)
	m.Seconds = last.after.Seconds()
	m.FirstCommit = first.after.Seconds()
	if rest := last.records - first.records; rest > 0 {
		m.SteadyRate = float64(rest) / (last.after - first.after).Seconds()
		m.SteadyAllocs = float64(mallocs.last-mallocs.first) / float64(rest)
	}
	m.Allocs = float64(mallocs.last) / float64(p.Topic.Records)
	return m, nil
}

// mallocs are the numbers of heap allocations of the process at the first
// commit and at the last.
type mallocs struct{ first, last int64 }

// watch follows a run by the flow's checkpoint, which is what a commit is. It
// looks often where a moment counts, at the first and at the last commit, and
// seldom in between: looking costs the database.
func (p *Penstock) watch(ctx context.Context, proc *process, progress func(context.Context) (int64, error), admin string) (first, last progressAt, m mallocs, err error) {
	const often, seldom = 5 * time.Millisecond, 50 * time.Millisecond
	total := int64(p.Topic.Records)
	timer := time.NewTimer(often)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-proc.exited:
			return first, last, m, errors.New("it ended before all records were committed")
		case <-ctx.Done():
			return first, last, m, context.Cause(ctx)
		}
		n, err := progress(ctx)
		if err != nil {
			return first, last, m, fmt.Errorf("reading the checkpoint: %w", err)
		}
		at := progressAt{time.Since(proc.started), n}
		if n > 0 && first.records == 0 {
			first = at
			if m.first, err = allocations(ctx, admin); err != nil {
				return first, last, m, err
			}
		}
		if n >= total {
			m.last, err = allocations(ctx, admin)
			return first, at, m, err
		}
		if n == 0 || n > total-total/10 {
			timer.Reset(often)
		} else {
			timer.Reset(seldom)
		}
	}
}

// allocations asks a running Penstock how many heap objects it has made.
func allocations(ctx context.Context, admin string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			n, err := strconv.ParseFloat(v, 64)
			return int64(n), err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%s has no go_memstats_mallocs_total", req.URL)
}
