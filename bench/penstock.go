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

// Penstock runs the binary.
type Penstock struct {
	Binary  string
	Dir     string
	Brokers []string
	ports   *ports
	// runs counts the flows: each run is a flow of its own.
	runs int
}

// flowSpec is what differs between flows. What it does not say is Penstock's
// default: the defaults are what is measured.
type flowSpec struct {
	Topic string
	// Sink is YAML, Env the variables that it refers to.
	Sink string
	Env  []string
	// Lanes is the number of lanes; 0 leaves it to Penstock.
	Lanes int
	// Raw flows decode nothing.
	Raw bool
	// Fetch is YAML of the source's fetch, Settings of the flow file's top level.
	Fetch, Settings string
	// Progress returns how many records the flow's checkpoint has passed.
	Progress func(ctx context.Context, flow string) (int64, error)
}

const columnsYAML = `decode:
  json:
    columns:
      device_id: text
      seq: int8
      ts: timestamptz
      temp: float8
      payload: text
`

// runningFlow is a flow in a process of its own.
type runningFlow struct {
	*process
	spec  flowSpec
	Name  string
	file  string
	admin string
}

// Start starts a new flow at the beginning of its topic.
func (p *Penstock) Start(ctx context.Context, spec flowSpec) (*runningFlow, error) {
	p.runs++
	f := &runningFlow{spec: spec, Name: spec.Topic + "-" + strconv.Itoa(p.runs)}
	f.file = filepath.Join(p.Dir, f.Name+".yaml")
	var err error
	if f.admin, err = p.ports.free(); err != nil {
		return nil, err
	}
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "flow: %s\nsource:\n  kafka:\n    brokers: [%s]\n    topics: [%s]\n", f.Name, strings.Join(p.Brokers, ", "), spec.Topic)
	if spec.Fetch != "" {
		fmt.Fprintf(&yaml, "    fetch: %s\n", spec.Fetch)
	}
	if !spec.Raw {
		yaml.WriteString(columnsYAML)
	}
	fmt.Fprintf(&yaml, "sink:\n%s\n", indent(spec.Sink, "  "))
	if spec.Lanes > 0 {
		fmt.Fprintf(&yaml, "lanes: %d\n", spec.Lanes)
	}
	fmt.Fprintf(&yaml, "admin: {address: %q}\n%s", f.admin, spec.Settings)
	if err := os.WriteFile(f.file, []byte(yaml.String()), 0o600); err != nil {
		return nil, err
	}
	f.process, err = startProcess(ctx, childEnv(spec.Env...), p.Binary, "run", f.file)
	return f, err
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by)
}

// Progress is how many records the flow has committed.
func (f *runningFlow) Progress(ctx context.Context) (int64, error) {
	n, err := f.spec.Progress(ctx, f.Name)
	if err != nil {
		return 0, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return n, nil
}

// Finish stops the flow. It is not started again. An error is joined to what
// has gone wrong before, err.
func (f *runningFlow) Finish(err error) (Usage, error) {
	f.Peak()
	read := f.BytesRead()
	usage, stopErr := f.Stop(syscall.SIGTERM)
	usage.Read = read
	if err := errors.Join(err, stopErr); err != nil {
		return usage, fmt.Errorf("penstock run %s: %w", f.file, err)
	}
	return usage, nil
}

// Until looks every so often until done says that it is, and fails when the
// flow ends before, or after a limit.
func (f *runningFlow) Until(ctx context.Context, what string, every, limit time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %s for %s", limit, what))
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-f.exited:
			return fmt.Errorf("it ended while it was waited for %s", what)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// idle waits, and fails when the flow ends before.
func (f *runningFlow) idle(ctx context.Context, d time.Duration) error {
	began := time.Now()
	return f.Until(ctx, "time to pass", 10*time.Millisecond, 2*d, func() (bool, error) { return time.Since(began) >= d, nil })
}

// Ready waits until the flow has its partitions.
func (f *runningFlow) Ready(ctx context.Context) error {
	return f.Until(ctx, "the flow to be ready", 5*time.Millisecond, time.Minute, func() (bool, error) { return isReady(ctx, f.admin), nil })
}

// Run runs a new flow from the beginning of the topic until all its records
// are committed, and stops it then.
func (p *Penstock) Run(ctx context.Context, topic *Topic, spec flowSpec) (m Measurement, err error) {
	spec.Topic = topic.Name
	f, err := p.Start(ctx, spec)
	if err != nil {
		return m, err
	}
	seen, err := f.watch(ctx, int64(topic.Records))
	usage, err := f.Finish(err)
	if err != nil {
		return m, err
	}
	m = measured(topic.Records, usage)
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
func (f *runningFlow) watch(ctx context.Context, total int64) (s sightings, err error) {
	const often, seldom = 5 * time.Millisecond, 50 * time.Millisecond
	timer := time.NewTimer(often)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-f.exited:
			return s, errors.New("it ended before all records were committed")
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
		if s.ready == 0 && isReady(ctx, f.admin) {
			s.ready = time.Since(f.started)
		}
		n, err := f.Progress(ctx)
		if err != nil {
			return s, err
		}
		at := time.Since(f.started)
		if n > 0 && s.first == 0 {
			s.first, s.recordsAtFirst = at, n
			if s.ready == 0 {
				s.ready = at // it was, for less than a look
			}
			if s.mallocsAtFirst, err = allocations(ctx, f.admin); err != nil {
				return s, err
			}
		}
		if n >= total {
			s.last = at
			s.mallocsAtLast, err = allocations(ctx, f.admin)
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
	const name = "go_memstats_mallocs_total"
	all, err := metrics(ctx, admin)
	if err != nil {
		return 0, err
	}
	n, ok := all[name]
	if !ok {
		return 0, errors.New("/metrics has no " + name)
	}
	return int64(n), nil
}

// metrics asks a running Penstock for its metrics. Those with labels beside the
// flow's are added up.
func metrics(ctx context.Context, admin string) (map[string]float64, error) {
	resp, err := get(ctx, "http://"+admin+"/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			all[name] += v
		}
	}
	return all, lines.Err()
}
