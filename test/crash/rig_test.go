package crash

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
)

// rig is one flow: a topic, a database, and the processes between them.
type rig struct {
	t      *testing.T
	topic  *topicLog
	target *target
	// naive runs the negative control with these arguments in place of Penstock.
	naive   []string
	columns string // below decode.json.columns
	started atomic.Int32
}

func newRig(t *testing.T, topic *topicLog, d *target) *rig {
	t.Helper()
	return &rig{t: t, topic: topic, target: d, columns: plainColumns}
}

// control makes the rig run the naive loop, with positions in the group or in
// the database.
func (r *rig) control(positions string) *rig {
	r.naive = []string{"-positions=" + positions}
	return r
}

// start starts a process of the flow.
func (r *rig) start(failpoints string) *process {
	r.t.Helper()
	p, _ := r.startWithAdmin(failpoints)
	return p
}

// startWithAdmin also returns the address of /metrics.
func (r *rig) startWithAdmin(failpoints string) (p *process, admin string) {
	r.t.Helper()
	admin = "127.0.0.1:" + strconv.Itoa(testservice.Port(r.t))
	p, err := r.launch(failpoints, admin)
	if err != nil {
		r.t.Fatal(err)
	}
	return p, admin
}

// launch starts a process. Unlike start it may be called from any goroutine.
func (r *rig) launch(failpoints, admin string) (*process, error) {
	label := fmt.Sprintf("process-%d", r.started.Add(1))
	if r.naive != nil {
		program, err := binary("naive")
		if err != nil {
			return nil, err
		}
		args := []string{
			program, "-broker=" + r.topic.broker, "-topic=" + r.topic.name, "-group=" + r.topic.name,
			"-driver=" + r.target.driver, "-database=" + r.target.url,
		}
		return spawn(r.t, label, failpoints, append(args, r.naive...)...)
	}
	program, err := binary("penstock")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.t.TempDir(), "flow.yaml")
	if err := os.WriteFile(file, []byte(r.yaml(admin)), 0o600); err != nil {
		return nil, err
	}
	return spawn(r.t, label, failpoints, program, "run", file)
}

const plainColumns = `      device_id: {type: text, required: true}
      seq: {type: int8, required: true}
      part: {type: int4, from: partition}
      off: {type: int8, from: offset}
`

// yaml is the flow's file. A killed member costs the group 1.5 s.
func (r *rig) yaml(admin string) string {
	return fmt.Sprintf(`flow: %[1]s
source:
  kafka:
    brokers: [%[2]q]
    topics: [%[1]s]
    start: earliest
    session_timeout: 1500ms
    heartbeat_interval: 300ms
    rebalance_timeout: 3s
decode:
  json:
    columns:
%[5]ssink:
%[3]sbatch: {records: 150, wait: 5ms, timeout: 10s}
lanes: 2
retry: {initial: 20ms, max: 500ms}
shutdown: {grace: 10s}
admin: {address: %[4]q}
`, r.topic.name, r.topic.broker, r.target.sink(), admin, r.columns)
}

// settle waits until everything that was produced is a row or a dead letter.
func (r *rig) settle(limit time.Duration, ps ...*process) {
	r.t.Helper()
	rows, dead := r.topic.expected()
	ok := poll(r.t.Context(), limit, func() bool {
		for _, p := range ps {
			if !p.alive() {
				r.t.Fatalf("%s ended while there was work: %v\n%s", p.label, p.err, p.log.tail())
			}
		}
		return r.target.rowCount() >= rows && (r.naive != nil || r.target.deadCount() >= dead)
	})
	if !ok {
		r.t.Logf("%s", r.verify())
		for _, p := range ps {
			r.t.Logf("%s:\n%s", p.label, p.log.tail())
		}
		r.t.Fatalf("after %s there are %d of %d rows and %d of %d dead letters", limit, r.target.rowCount(), rows, r.target.deadCount(), dead)
	}
}

func (r *rig) verify() *verdict {
	r.t.Helper()
	if r.naive == nil {
		return r.topic.verify(r.target.rows(), r.target.dead())
	}
	// The naive loop has no dead letters; it is not blamed for that here.
	r.topic.mu.Lock()
	dead := make([]place, 0, len(r.topic.bad))
	for p := range r.topic.bad {
		dead = append(dead, p)
	}
	r.topic.mu.Unlock()
	return r.topic.verify(r.target.rows(), dead)
}

// finish settles what is left with clean processes, stops them in order, and
// checks everything.
func (r *rig) finish(ps ...*process) {
	r.t.Helper()
	if len(ps) == 0 {
		ps = append(ps, r.start(""))
	}
	r.settle(60*time.Second, ps...)
	for _, p := range ps {
		p.stop(15 * time.Second)
	}
	v := r.verify()
	if !v.ok() {
		r.t.Errorf("%s", v)
		return
	}
	r.t.Logf("%s", v)
}

// doubled says whether the control has doubled a row by now.
func (r *rig) doubled() bool {
	return r.target.count("SELECT count(*) FROM (SELECT 1 FROM t GROUP BY part, off HAVING count(*) > 1) AS d") > 0
}

// wantCaught waits for the control's first duplicate, and checks that the
// verification finds it.
func (r *rig) wantCaught(limit time.Duration) bool {
	r.t.Helper()
	if !poll(r.t.Context(), limit, r.doubled) {
		return false
	}
	v := r.verify()
	if v.doubled == 0 {
		r.t.Fatalf("the table holds a duplicate, and the check does not see it: %s", v)
	}
	r.t.Logf("the control was caught: %d doubled", v.doubled)
	return true
}

// fenced reads how many writes a process was refused.
func (r *rig) fenced(admin string) int {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
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

// poll calls check until it says yes or the time is up.
func poll(ctx context.Context, limit time.Duration, check func() bool) bool {
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

// pause waits for a time that is part of the test's plan, not of its hopes.
func pause(ctx context.Context, d time.Duration) { poll(ctx, d, func() bool { return false }) }
