package rig

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

// Process is one run of a program under test.
type Process struct {
	T      *testing.T
	Label  string
	cmd    *exec.Cmd
	Log    *Log
	exited chan struct{}
	Err    error // of the process's end; valid once Alive is false
}

// spawn starts a program with failpoints armed. It is killed with the test.
func spawn(t *testing.T, label, failpoints string, args ...string) (*Process, error) {
	p := &Process{T: t, Label: label, Log: newLog(), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), "PENSTOCK_FAILPOINTS="+failpoints)
	p.cmd.Stdout, p.cmd.Stderr = p.Log, p.Log
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
		p.Err = p.cmd.Wait()
		p.Log.close()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", label, err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.keepLog()
	})
	return p, nil
}

// Signal sends sig.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// Kill is kill -9; it returns when the process is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Alive says whether the process runs, or is frozen.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Wait waits for the process to end by itself.
func (p *Process) Wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

// Killed says whether SIGKILL ended the process.
func (p *Process) Killed() bool {
	var exit *exec.ExitError
	if !errors.As(p.Err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Stop is SIGTERM, which must end the process in order, with exit code 0.
func (p *Process) Stop(limit time.Duration) {
	p.T.Helper()
	// A process that has not got as far as to listen for signals just dies.
	p.WaitLine("metrics and health", 10*time.Second)
	p.Signal(syscall.SIGTERM)
	if !p.Wait(limit) {
		p.T.Fatalf("%s still runs %s after SIGTERM:\n%s", p.Label, limit, p.Log.Tail())
	}
	if p.Err != nil {
		p.T.Fatalf("%s ended with %v after SIGTERM:\n%s", p.Label, p.Err, p.Log.Tail())
	}
}

// WaitLine waits until the log contains the text.
func (p *Process) WaitLine(text string, limit time.Duration) bool {
	return p.WaitLineAfter(0, text, limit)
}

// WaitLineAfter waits until the log contains the text after its first n bytes:
// what Log.Len was before something happened.
func (p *Process) WaitLineAfter(n int, text string, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		found, more, changed := p.Log.contains(n, text)
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

// Failpoints counts the failpoints that acted.
func (p *Process) Failpoints() map[string]int {
	hits := map[string]int{}
	for line := range strings.Lines(p.Log.String()) {
		if name, ok := strings.CutPrefix(line, "failpoint "); ok {
			hits[strings.TrimSpace(name)]++
		}
	}
	return hits
}

func (p *Process) keepLog() {
	if *keepLogs == "" {
		return
	}
	name := strings.ReplaceAll(p.T.Name(), "/", "-") + "-" + p.Label + fmt.Sprintf("-%d.log", p.cmd.Process.Pid)
	_ = os.WriteFile(filepath.Join(*keepLogs, name), []byte(p.Log.String()), 0o600)
}

// Log collects a process's output and tells who waits for it.
type Log struct {
	mu      sync.Mutex // guards what follows
	buf     bytes.Buffer
	closed  bool
	changed chan struct{}
}

func newLog() *Log { return &Log{changed: make(chan struct{})} }

// Write adds output.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	close(l.changed)
	l.changed = make(chan struct{})
}

// Len is how many bytes there are.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Len()
}

// contains says whether the text is there, whether more may come, and what to
// wait for.
func (l *Log) contains(after int, text string) (found, more bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes()[after:], []byte(text)), !l.closed, l.changed
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Tail is its last lines.
func (l *Log) Tail() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
