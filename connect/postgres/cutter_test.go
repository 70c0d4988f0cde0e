package postgres

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
)

// cutter is a TCP proxy that, once armed, closes the client's side at the first
// request that contains the marker, and refuses new connections while it is
// armed to stay away. Where the request is not passed on, the server's side
// stays open, as when a network is cut: the server does not know.
type cutter struct {
	l      net.Listener
	target string
	marker []byte
	pass   bool // the request reaches the server
	away   bool // new connections are refused after the cut, until disarmed

	mu    sync.Mutex
	armed bool
	cut   bool
	conns []net.Conn
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, target, marker string, pass bool, away chan struct{}) *cutter {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, target: target, marker: []byte(marker), pass: pass, away: away != nil}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for _, x := range c.conns {
			_ = x.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) addr() string { return c.l.Addr().String() }

func (c *cutter) arm(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.cut = on, false
}

func (c *cutter) accept() {
	for {
		client, err := c.l.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		refuse := c.cut && c.away
		c.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp4", c.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, client, server)
		c.mu.Unlock()
		c.wg.Go(func() { c.requests(client, server) })
		c.wg.Go(func() { c.answers(client, server) })
	}
}

func (c *cutter) requests(client, server net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			_ = server.Close()
			return
		}
		c.mu.Lock()
		cut := c.armed && !c.cut && bytes.Contains(buf[:n], c.marker)
		c.cut = c.cut || cut
		c.mu.Unlock()
		if !cut {
			_, _ = server.Write(buf[:n])
			continue
		}
		// No answer reaches the client any more.
		if tcp, ok := client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = client.Close()
		if c.pass { // only now: the answer must not overtake the close
			_, _ = server.Write(buf[:n])
		}
		return // the server's side is closed at the end of the test
	}
}

func (c *cutter) answers(client, server net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			_ = client.Close()
			return
		}
		_, _ = client.Write(buf[:n])
	}
}
