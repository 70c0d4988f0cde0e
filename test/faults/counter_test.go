package faults

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// counter is a proxy that counts the bytes of the answers.
type counter struct {
	listener net.Listener
	answers  atomic.Int64
	wg       sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  []net.Conn
	closed bool
}

// startCounter starts one in front of addr. It ends with the test.
func startCounter(t *testing.T, addr string) *counter {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{listener: l}
	c.wg.Go(func() { c.accept(addr) })
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		c.closed = true
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

// addr is where it listens.
func (c *counter) addr() string { return c.listener.Addr().String() }

func (c *counter) accept(addr string) {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", addr) //nolint:noctx // loopback: it connects, or is refused, at once
		if err != nil {
			_ = client.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, client, server)
		if c.closed { // while we dialled
			_, _ = client.Close(), server.Close()
		}
		c.mu.Unlock()
		c.wg.Go(func() { pump(server, client) })
		c.wg.Go(func() { pump(countingWriter{client, &c.answers}, server) })
	}
}

// pump copies until either end is closed, and closes both.
func pump(dst io.WriteCloser, src io.ReadCloser) {
	_, _ = io.Copy(dst, src)
	_, _ = dst.Close(), src.Close()
}

// countingWriter counts what it passes on.
type countingWriter struct {
	io.WriteCloser
	n *atomic.Int64
}

func (w countingWriter) Write(b []byte) (int, error) {
	n, err := w.WriteCloser.Write(b)
	w.n.Add(int64(n))
	return n, err
}
