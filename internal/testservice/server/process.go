package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one server process. It runs in a process group of its own, so
// that Ctrl-C reaches the command that owns the servers and not the servers,
// which are still needed until the tests have ended.
type process struct {
	name    string
	cmd     *exec.Cmd
	logPath string
	exited  chan struct{}
	pidFile string
}

// startProcess starts args with its output appended to dir/log. With a
// credential the process runs as that user.
func startProcess(name, dir string, cred *syscall.Credential, env []string, args ...string) (*process, error) {
	logPath := filepath.Join(dir, "log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()                         //nolint:errcheck // the child holds its own descriptor
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // the server outlives any context; stop ends it
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	dieWithParent(cmd.SysProcAttr)
	p := &process{name: name, cmd: cmd, logPath: logPath, exited: make(chan struct{}), pidFile: filepath.Join(dir, pidFileName)}
	started := make(chan error, 1)
	go func() {
		// What ends with its parent ends with the thread that started it: this
		// one lives until the server has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()
		_ = os.Remove(p.pidFile)
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := os.WriteFile(p.pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		_ = cmd.Process.Kill()
		<-p.exited
		return nil, err
	}
	return p, nil
}

const pidFileName = "server.pid"

// ready polls check until it succeeds, the process has died, ctx has ended or
// the time is up.
func (p *process) ready(ctx context.Context, limit time.Duration, check func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = check(); last == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended while starting; the end of %s:\n%s", p.name, p.logPath, tail(p.logPath))
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("%s is not ready after %s: %w; the end of %s:\n%s", p.name, limit, last, p.logPath, tail(p.logPath))
		case <-tick.C:
		}
	}
}

// stop sends sig and waits; what has not ended after the limit is killed.
func (p *process) stop(sig syscall.Signal, limit time.Duration) {
	_ = p.cmd.Process.Signal(sig)
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.exited:
	case <-t.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// StopLeftovers kills the servers below dir whose owner died before it could
// stop them (a test binary that ran into its timeout), and unmounts their disks.
func StopLeftovers(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*", pidFileName))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			continue
		}
		// The number may belong to another process by now: only one that
		// works in our directory is ours.
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil || !strings.HasPrefix(cwd, filepath.Dir(f)) {
			continue
		}
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	data, _ := filepath.Glob(filepath.Join(dir, "*", "data"))
	for _, d := range data {
		unmountDisk(d)
	}
}
