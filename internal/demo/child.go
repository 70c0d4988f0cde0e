package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is the process that runs the flow: one of its own, so that it can
// really be killed.
type child struct {
	cmd   *exec.Cmd
	log   *os.File
	admin string
	// done is closed when the process has ended; err is set before.
	done chan struct{}
	err  error
}

// stopWait is how long a process that was asked to stop may take.
const stopWait = 40 * time.Second

// startChild runs command with the flow file as its last argument.
func startChild(ctx context.Context, command []string, file, logPath string) (*child, error) {
	admin, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Clean(logPath), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) //nolint:gosec // for its user to read
	if err != nil {
		return nil, fmt.Errorf("the log of the flow: %w", err)
	}
	args := append(append([]string{}, command[1:]...), file)
	cmd := exec.CommandContext(ctx, command[0], args...) //nolint:gosec // our own program, and a file that we wrote
	cmd.Env = append(os.Environ(), "PENSTOCK_ADMIN_ADDRESS="+admin)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = stopWait
	if err := cmd.Start(); err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("starting %s: %w", strings.Join(cmd.Args, " "), err)
	}
	c := &child{cmd: cmd, log: log, admin: admin, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("a port for the flow's metrics: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// terminate asks for an orderly end, and where the system cannot ask, kills.
func terminate(p *os.Process) error {
	err := p.Signal(syscall.SIGTERM)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return p.Kill()
	}
	return err
}

// kill ends the process without warning.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing the flow: %w", err)
	}
	<-c.done
	return c.log.Close()
}

// stop asks the process to end, and waits. It may be called after it ended.
func (c *child) stop() error {
	_ = terminate(c.cmd.Process)
	select {
	case <-c.done:
	case <-time.After(stopWait):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	_ = c.log.Close()
	if c.err != nil {
		return fmt.Errorf("stopping the flow: %w\n%s", c.err, tail(c.log.Name()))
	}
	return nil
}

// ended is the error of a process that ended by itself.
func (c *child) ended() error {
	reason := "it exited without being told to"
	if c.err != nil {
		reason = c.err.Error()
	}
	return fmt.Errorf("the flow ended: %s; the end of %s:\n%s", reason, c.log.Name(), tail(c.log.Name()))
}

// tail is the last lines of a file.
func tail(path string) string {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
