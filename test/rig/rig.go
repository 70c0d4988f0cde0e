package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
)

// Rig is one flow: a topic, a database, and the processes between them.
type Rig struct {
	T      *testing.T
	Topic  *Topic
	Target *Target
	// Brokers is how the processes reach Kafka, which may be through proxies.
	Brokers string
	// Group is the naive loop's; that of a flow is the topic's name.
	Group string
	// Source is added to the source's section, in YAML.
	Source string
	// naive runs the negative control with these arguments in Place of Penstock.
	naive   []string
	Columns string // below decode.json.columns
	started atomic.Int32
}

// New makes a rig whose flow writes the topic's records to the target.
func New(t *testing.T, topic *Topic, d *Target) *Rig {
	t.Helper()
	return &Rig{T: t, Topic: topic, Target: d, Brokers: topic.Brokers, Group: topic.Name, Columns: plainColumns}
}

// Control makes the rig run the naive loop, with positions in the group, in the
// database, or counted from its rows. More are further flags of package naive.
func (r *Rig) Control(positions string, more ...string) *Rig {
	r.naive = append([]string{"-positions=" + positions}, more...)
	return r
}

// Start starts a process of the flow.
func (r *Rig) Start(failpoints string) *Process {
	r.T.Helper()
	p, _ := r.StartWithAdmin(failpoints)
	return p
}

// StartWithAdmin also returns the address of /metrics.
func (r *Rig) StartWithAdmin(failpoints string) (p *Process, admin string) {
	r.T.Helper()
	admin = "127.0.0.1:" + strconv.Itoa(testservice.Port(r.T))
	p, err := r.Launch(failpoints, admin)
	if err != nil {
		r.T.Fatal(err)
	}
	return p, admin
}

// Launch starts a process. Unlike Start it may be called from any goroutine.
func (r *Rig) Launch(failpoints, admin string) (*Process, error) {
	label := fmt.Sprintf("process-%d", r.started.Add(1))
	if r.naive != nil {
		program, err := binary("naive")
		if err != nil {
			return nil, err
		}
		args := []string{
			program, "-brokers=" + r.Brokers, "-topic=" + r.Topic.Name, "-group=" + r.Group,
			"-driver=" + r.Target.Driver, "-database=" + r.Target.URL,
		}
		return spawn(r.T, label, failpoints, append(args, r.naive...)...)
	}
	program, err := binary("penstock")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.T.TempDir(), "flow.yaml")
	if err := os.WriteFile(file, []byte(r.yaml(admin)), 0o600); err != nil {
		return nil, err
	}
	return spawn(r.T, label, failpoints, program, "run", file)
}

const plainColumns = `      device_id: {type: text, required: true}
      seq: {type: int8, required: true}
      part: {type: int4, from: partition}
      off: {type: int8, from: offset}
`

// yaml is the flow's file. A killed member costs the group 1.5 s.
func (r *Rig) yaml(admin string) string {
	return fmt.Sprintf(`flow: %[1]s
source:
  kafka:
    brokers: [%[2]s]
    topics: [%[1]s]
    start: earliest
    session_timeout: 1500ms
    heartbeat_interval: 300ms
    rebalance_timeout: 3s
%[6]sdecode:
  json:
    columns:
%[5]ssink:
%[3]sbatch: {records: 150, wait: 5ms, timeout: 10s}
lanes: 2
retry: {initial: 20ms, max: 500ms}
shutdown: {grace: 10s}
admin: {address: %[4]q}
`, r.Topic.Name, r.Brokers, r.Target.sink(), admin, r.Columns, r.Source)
}

// Settle waits until everything that was produced is a row or a dead letter.
func (r *Rig) Settle(limit time.Duration, ps ...*Process) {
	r.T.Helper()
	rows, dead := r.Topic.Expected()
	ok := Poll(r.T.Context(), limit, func() bool {
		for _, p := range ps {
			if !p.Alive() {
				r.T.Fatalf("%s ended while there was work: %v\n%s", p.Label, p.Err, p.Log.Tail())
			}
		}
		return r.Target.RowCount() >= rows && (r.naive != nil || r.Target.DeadCount() >= dead)
	})
	if !ok {
		r.T.Logf("%s", r.Verify())
		for _, p := range ps {
			r.T.Logf("%s:\n%s", p.Label, p.Log.Tail())
		}
		r.T.Fatalf("after %s there are %d of %d rows and %d of %d dead letters", limit, r.Target.RowCount(), rows, r.Target.DeadCount(), dead)
	}
}

// Verify checks every row and dead letter.
func (r *Rig) Verify() *Verdict {
	r.T.Helper()
	if r.naive == nil {
		return r.Topic.Verify(r.Target.Rows(), r.Target.Dead())
	}
	// The naive loop has no dead letters; it is not blamed for that here.
	r.Topic.mu.Lock()
	dead := make([]Place, 0, len(r.Topic.bad))
	for p := range r.Topic.bad {
		dead = append(dead, p)
	}
	r.Topic.mu.Unlock()
	return r.Topic.Verify(r.Target.Rows(), dead)
}

// Finish settles what is left with clean processes, stops them in order, and
// checks everything.
func (r *Rig) Finish(ps ...*Process) {
	r.T.Helper()
	if len(ps) == 0 {
		ps = append(ps, r.Start(""))
	}
	r.Settle(60*time.Second, ps...)
	for _, p := range ps {
		p.Stop(15 * time.Second)
	}
	v := r.Verify()
	if !v.OK() {
		r.T.Errorf("%s", v)
		return
	}
	r.T.Logf("%s", v)
}

// WantCaught waits for the control's first duplicate, and checks that the
// verification finds it.
func (r *Rig) WantCaught(limit time.Duration) bool {
	r.T.Helper()
	if !Poll(r.T.Context(), limit, r.Target.Doubled) {
		return false
	}
	v := r.Verify()
	if v.Doubled == 0 {
		r.T.Fatalf("the target holds a duplicate, and the check does not see it: %s", v)
	}
	r.T.Logf("the control was caught: %d doubled", v.Doubled)
	return true
}

// WantProgress waits until there are so many rows more.
func (r *Rig) WantProgress(rows int, limit time.Duration, ps ...*Process) {
	r.T.Helper()
	before := r.Target.RowCount()
	ended := func(p *Process) bool { return !p.Alive() }
	Poll(r.T.Context(), limit, func() bool { return r.Target.RowCount() >= before+rows || slices.ContainsFunc(ps, ended) })
	if more := r.Target.RowCount() - before; more < rows {
		for _, p := range ps {
			r.T.Logf("%s, alive: %t:\n%s", p.Label, p.Alive(), p.Log.Tail())
		}
		r.T.Fatalf("%d rows more in %s, want %d", more, limit, rows)
	}
}

// Fenced reads how many writes a process was refused.
func (r *Rig) Fenced(admin string) int {
	ctx, cancel := context.WithTimeout(r.T.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		r.T.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "penstock_fenced_writes_total") {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err == nil {
				return int(n)
			}
		}
	}
	return 0
}

// Poll calls check until it says yes or the time is up.
func Poll(ctx context.Context, limit time.Duration, check func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if check() {
			return true
		}
		select {
		case <-tick.C:
		case <-timer.C:
			return check()
		case <-ctx.Done():
			return false
		}
	}
}

// Pause waits for a time that is part of the test's plan, not of its hopes.
func Pause(ctx context.Context, d time.Duration) { Poll(ctx, d, func() bool { return false }) }
