package redrive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

var dir string

// binary compiles the program once, with failpoints.
var binary = sync.OnceValues(func() (string, error) {
	var err error
	if dir, err = os.MkdirTemp("", "penstock-redrive-"); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "penstock")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-tags=failpoint", "-o", path, "github.com/penstockdev/penstock/cmd/penstock")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build penstock: %w\n%s", err, out)
	}
	return path, nil
})

// process is one run of the binary.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
	err            error // valid once ended is closed
}

// start starts the binary with failpoints armed. It ends with the test.
func start(t *testing.T, failpoints string, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, ended: make(chan struct{}), cmd: exec.CommandContext(context.Background(), path, args...)}
	p.cmd.Env = append(os.Environ(), "PENSTOCK_FAILPOINTS="+failpoints)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.ended
}

// stop is SIGTERM, after which the process ends with exit code 0.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if p.wait(); p.err != nil {
		p.t.Fatalf("%v ended with %v after SIGTERM:\n%s", p.cmd.Args, p.err, p.stderr.String())
	}
}

// wait waits for the end, and says whether SIGKILL was it.
func (p *process) wait() (killed bool) {
	p.t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // says where its goroutines are
		<-p.ended
		p.t.Fatalf("%v did not end:\n%s", p.cmd.Args, p.stderr.String())
	}
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// done runs the binary to a good end and returns what it has written.
func done(t *testing.T, args ...string) []byte {
	t.Helper()
	p := start(t, "", args...)
	if p.wait(); p.err != nil {
		t.Fatalf("%v: %v\n%s%s", args, p.err, p.stdout.String(), p.stderr.String())
	}
	return p.stdout.Bytes()
}

// poll calls check until it says yes.
func poll(t *testing.T, what string, check func() bool) {
	t.Helper()
	timer, tick := time.NewTimer(time.Minute), time.NewTicker(20*time.Millisecond)
	defer timer.Stop()
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-timer.C:
			t.Fatalf("in vain: %s", what)
		}
	}
}
