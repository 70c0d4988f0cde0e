package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is one run of a program under test.
type process struct {
	t      *testing.T
	label  string
	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{}
	err    error // valid once exited is closed
}

// spawn starts a program with failpoints armed. It is killed with the test.
func spawn(t *testing.T, label, failpoints string, args ...string) (*process, error) {
	p := &process{t: t, label: label, log: newLogBuffer(), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), "PENSTOCK_FAILPOINTS="+failpoints)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	dieWithParent(p.cmd)
	started := make(chan error, 1)
	go func() {
		// What ends with its parent ends with the thread that started it: this
		// one lives until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		p.log.close()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", label, err)
	}
	t.Cleanup(func() {
		p.kill()
		p.keepLog()
	})
	return p, nil
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// wait waits for the process to end by itself.
func (p *process) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

// killed says whether SIGKILL ended the process.
func (p *process) killed() bool {
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// stop is SIGTERM, which must end the process in order, with exit code 0.
func (p *process) stop(limit time.Duration) {
	p.t.Helper()
	// A process that has not got as far as to listen for signals just dies.
	p.waitLine("metrics and health", 10*time.Second)
	p.signal(syscall.SIGTERM)
	if !p.wait(limit) {
		p.t.Fatalf("%s still runs %s after SIGTERM:\n%s", p.label, limit, p.log.tail())
	}
	if p.err != nil {
		p.t.Fatalf("%s ended with %v after SIGTERM:\n%s", p.label, p.err, p.log.tail())
	}
}

// waitLine waits until the log contains the text.
func (p *process) waitLine(text string, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		found, more, changed := p.log.contains(text)
		if found || !more {
			return found
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// failpoints counts the failpoints that acted.
func (p *process) failpoints() map[string]int {
	hits := map[string]int{}
	for line := range strings.Lines(p.log.String()) {
		if name, ok := strings.CutPrefix(line, "failpoint "); ok {
			hits[strings.TrimSpace(name)]++
		}
	}
	return hits
}

func (p *process) keepLog() {
	if *keepLogs == "" {
		return
	}
	name := strings.ReplaceAll(p.t.Name(), "/", "-") + "-" + p.label + fmt.Sprintf("-%d.log", p.cmd.Process.Pid)
	_ = os.WriteFile(filepath.Join(*keepLogs, name), []byte(p.log.String()), 0o600)
}

// logBuffer collects a process's output and tells who waits for it.
type logBuffer struct {
	mu      sync.Mutex // guards what follows
	buf     bytes.Buffer
	closed  bool
	changed chan struct{}
}

func newLogBuffer() *logBuffer { return &logBuffer{changed: make(chan struct{})} }

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *logBuffer) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	close(l.changed)
	l.changed = make(chan struct{})
}

// contains says whether the text is there, whether more may come, and what to
// wait for.
func (l *logBuffer) contains(text string) (found, more bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes(), []byte(text)), !l.closed, l.changed
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) tail() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
