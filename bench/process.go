package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Usage is what one process cost.
type Usage struct {
	Wall time.Duration
	// CPU is user and system time of the whole process, its start and its end included.
	CPU time.Duration
	// Peak is the largest resident set in bytes; 0 if not known.
	Peak int64
	// Read is how much a flow has read, from files and from the network, before
	// it was told to stop; 0 if not known.
	Read int64
}

// process is a running side.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	out     *tail
	exited  chan struct{}
	err     error // of Wait; read after exited
	usage   Usage // read after exited

	mu   sync.Mutex
	peak int64 // guarded by mu
}

// startProcess starts the command with exactly this environment. When ctx
// ends it is terminated, and killed if it does not go.
func startProcess(ctx context.Context, env []string, name string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	return start(cmd)
}

func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, out: &tail{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait()
	return p, nil
}

// wait samples the peak until the process has exited.
func (p *process) wait() {
	defer close(p.exited)
	done := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			p.Peak()
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	p.err = p.cmd.Wait()
	p.usage.Wall = time.Since(p.started)
	close(done)
	sampler.Wait()
	p.usage.CPU = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	p.mu.Lock()
	p.usage.Peak = p.peak
	p.mu.Unlock()
}

// Peak reads the peak of the resident set now. It comes from /proc and not
// from getrusage, because a child's ru_maxrss begins at that of its parent:
// Linux counts the memory that the two share between vfork and exec.
func (p *process) Peak() int64 {
	kb := procStatus(p.cmd.Process.Pid, "VmHWM:")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peak = max(p.peak, kb<<10)
	return p.peak
}

// Wait returns the usage, and an error with the last lines of output if the
// process failed.
func (p *process) Wait() (Usage, error) {
	<-p.exited
	if p.err != nil {
		return p.usage, fmt.Errorf("%s: %w\n%s", p.cmd.Args[0], p.err, p.out)
	}
	return p.usage, nil
}

// Stop asks the process to end and waits for it; it must exit with 0.
func (p *process) Stop(sig os.Signal) (Usage, error) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return Usage{}, err
	}
	return p.Wait()
}

// BytesRead is how much the process has read so far, from files and from the
// network; 0 if not known.
func (p *process) BytesRead() int64 { return procNumber(p.cmd.Process.Pid, "io", "rchar:") }

// procStatus returns a number from /proc/PID/status, 0 if there is none.
func procStatus(pid int, key string) int64 { return procNumber(pid, "status", key) }

func procNumber(pid int, file, key string) int64 {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			f := strings.Fields(rest)
			if len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64) // not a number: not known
				return n
			}
		}
	}
	return 0
}

// tail keeps the last output of a process for an error message.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf); n > tailSize {
		t.buf = append(t.buf[:0], t.buf[n-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
