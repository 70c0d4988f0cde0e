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
	const module = "github.com/penstockdev/penstock"
	// Penstock is built in its own module: this one's go.sum knows only what
	// the benchmark needs.
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("looking for the module %s (run the benchmark in its folder, bench/): %w", module, err)
	}
	path := filepath.Join(dir, "penstock")
	args := []string{"build", "-C", strings.TrimSpace(string(out)), "-ldflags=-s -w", "-o", path}
	if release {
		args = append(args, "-trimpath")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/penstock")...)
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
	seen, err := p.watch(ctx, proc, func(ctx context.Context) (int64, error) { return sink.Progress(ctx, flow) }, admin)
	proc.Peak()
	usage, stopErr := proc.Stop(syscall.SIGTERM)
	if err := errors.Join(err, stopErr); err != nil {
		return m, fmt.Errorf("penstock run %s: %w", file, err)
	}
	m = measured(p.Topic.Records, usage)
	m.Seconds = seen.last.Seconds()
	m.FirstCommit = seen.first.Seconds()
	m.Ready = seen.ready.Seconds()
	m.RateFromReady = float64(m.Records) / (seen.last - seen.ready).Seconds()
	m.Allocs = float64(seen.mallocsAtLast) / float64(m.Records)
	if rest := int64(m.Records) - seen.recordsAtFirst; rest > 0 {
		m.SteadyAllocs = float64(seen.mallocsAtLast-seen.mallocsAtFirst) / float64(rest)
	}
	return m, nil
}

// sightings are the moments of a run, since the start of the process, and the
// heap allocations that it had made by then.
type sightings struct {
	ready, first, last            time.Duration
	recordsAtFirst                int64
	mallocsAtFirst, mallocsAtLast int64
}

// watch follows a run by the flow's checkpoint, which is what a commit is. It
// looks often where a moment counts, at the first and at the last commit, and
// seldom in between: looking costs the database.
func (p *Penstock) watch(ctx context.Context, proc *process, progress func(context.Context) (int64, error), admin string) (s sightings, err error) {
	const often, seldom = 5 * time.Millisecond, 50 * time.Millisecond
	total := int64(p.Topic.Records)
	timer := time.NewTimer(often)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-proc.exited:
			return s, errors.New("it ended before all records were committed")
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
		if s.ready == 0 && isReady(ctx, admin) {
			s.ready = time.Since(proc.started)
		}
		n, err := progress(ctx)
		if err != nil {
			return s, fmt.Errorf("reading the checkpoint: %w", err)
		}
		at := time.Since(proc.started)
		if n > 0 && s.first == 0 {
			s.first, s.recordsAtFirst = at, n
			if s.ready == 0 {
				s.ready = at // it was, for less than a look
			}
			if s.mallocsAtFirst, err = allocations(ctx, admin); err != nil {
				return s, err
			}
		}
		if n >= total {
			s.last = at
			s.mallocsAtLast, err = allocations(ctx, admin)
			return s, err
		}
		if n == 0 || n > total-total/10 {
			timer.Reset(often)
		} else {
			timer.Reset(seldom)
		}
	}
}

// isReady asks a Penstock that may not listen yet.
func isReady(ctx context.Context, admin string) bool {
	resp, err := get(ctx, "http://"+admin+"/readyz")
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

func get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// allocations asks a running Penstock how many heap objects it has made.
func allocations(ctx context.Context, admin string) (int64, error) {
	resp, err := get(ctx, "http://"+admin+"/metrics")
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
	return 0, errors.New("/metrics has no go_memstats_mallocs_total")
}
