package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// binary is the built command.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "penstock-operate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "penstock")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "github.com/penstockdev/penstock/cmd/penstock")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the command: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// flowFile is a flow from the topic into the target. A killed member costs its group 1.5 s. More is
// added at the end.
func flowFile(topic *rig.Topic, url, table, more string) string {
	return fmt.Sprintf(`flow: %[1]s
source:
  kafka: {brokers: [%[2]s], topics: [%[1]s], start: earliest, session_timeout: 1500ms, heartbeat_interval: 300ms, rebalance_timeout: 3s}
decode:
  json:
    columns:
      device_id: {type: text, required: true}
      seq: {type: int8, required: true}
      part: {type: int4, from: partition}
      off: {type: int8, from: offset}
sink:
  postgres: {url: %[3]q, table: %[4]s}
retry: {initial: 20ms, max: 500ms}
shutdown: {grace: 10s}
%[5]s`, topic.Name, topic.Brokers, url, table, more)
}

// write replaces a file at once, as careful editors do.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// process is a penstock that runs, and its admin API.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	admin string
	ended chan struct{}

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs penstock run with a free admin address. It is killed with the test.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, admin: "http://127.0.0.1:" + strconv.Itoa(testservice.Port(t)), ended: make(chan struct{})}
	args = append([]string{"run", "--set", "admin.address=" + strings.TrimPrefix(p.admin, "http://")}, args...)
	p.cmd = exec.CommandContext(context.Background(), binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its state says more
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			lines := strings.Split(p.said(), "\n")
			t.Logf("the log ends with:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	p.until("the admin server answers", func() bool { _, body := p.get("/healthz"); return body != "" })
	return p
}

// until polls for at most a minute.
func (p *process) until(what string, ok func() bool) {
	p.t.Helper()
	if !rig.Poll(p.t.Context(), time.Minute, ok) {
		p.t.Fatalf("waited in vain until %s", what)
	}
}

// stop is SIGTERM; it returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.t.Fatal("the process does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// get reads a page; no body where nobody answers.
func (p *process) get(path string) (status int, body string) {
	return p.ask(http.MethodGet, path, "")
}

func (p *process) ask(method, path, request string) (status int, body string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.admin+path, strings.NewReader(request))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

// view is what the API says of a flow.
type view struct {
	State       string `json:"state"`
	Error       string `json:"error"`
	ReloadError string `json:"reload_error"`
	Restarts    int    `json:"restarts"`
	Records     int64  `json:"records"`
}

func (p *process) flow(name string) (v view) {
	p.t.Helper()
	status, body := p.get("/v1/flows/" + name)
	if status == http.StatusOK {
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			p.t.Fatalf("%v: %s", err, body)
		}
	}
	return v
}

// metric is the value of a metric; -1 where there is none.
func (p *process) metric(name string) float64 {
	p.t.Helper()
	_, body := p.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// settled waits until the target has all of the topic, and checks every record.
func (p *process) settled(topic *rig.Topic, target *rig.Target) {
	p.t.Helper()
	rows, dead := topic.Expected()
	p.until(fmt.Sprintf("there are %d rows and %d dead letters", rows, dead), func() bool {
		return target.RowCount() >= rows && target.DeadCount() >= dead
	})
	if v := topic.Verify(target.Rows(), target.Dead()); !v.OK() {
		p.t.Errorf("%s", v)
	}
}
