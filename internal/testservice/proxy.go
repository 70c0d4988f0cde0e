package testservice

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// TCPProxy stands between a client and a server and fails on command.
type TCPProxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   map[*link]struct{}
	refuse  bool
	held    chan struct{} // closed to release; nil while nothing is held
	lose    []byte
	loseN   int
	lost    int
	lostSig chan struct{}
	closed  bool
}

// link is one proxied connection.
type link struct {
	client, server net.Conn
	// dropAnswers is set once the request was seen whose answer is to be lost.
	// Guarded by TCPProxy.mu.
	dropAnswers bool
}

// Proxy starts a proxy in front of addr. It ends with the test.
func Proxy(t testing.TB, addr string) *TCPProxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &TCPProxy{listener: l, target: addr, conns: map[*link]struct{}{}, lostSig: make(chan struct{}, 1)}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is host:port to connect to.
func (p *TCPProxy) Addr() string { return p.listener.Addr().String() }

// Cut closes all connections, and refuses new ones until Restore.
func (p *TCPProxy) Cut() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.CloseConnections()
}

// Hold passes nothing on in either direction, and closes nothing, until Restore.
func (p *TCPProxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Restore ends Cut and Hold.
func (p *TCPProxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// CloseConnections closes all connections; new ones are welcome.
func (p *TCPProxy) CloseConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

// LoseAnswers makes the proxy lose the answers to the next n requests that
// contain the bytes: a request is passed on, the server's answer is waited for
// and dropped, and the connection is closed. The server has done what was
// asked, and the client cannot know.
func (p *TCPProxy) LoseAnswers(request []byte, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.loseN = bytes.Clone(request), n
}

// Lost is how many answers were lost so far. Changed is signalled after each.
func (p *TCPProxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Changed receives after answers were lost.
func (p *TCPProxy) Changed() <-chan struct{} { return p.lostSig }

func (p *TCPProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse || p.closed
		p.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		if p.refuse || p.closed { // while we dialled
			l.close()
		} else {
			p.conns[l] = struct{}{}
			p.wg.Go(func() { p.pump(l, server, client, p.request) })
			p.wg.Go(func() { p.pump(l, client, server, p.answer) })
		}
		p.mu.Unlock()
	}
}

var errDropped = errors.New("dropped")

// pump copies from src to dst until either ends. look may forbid a chunk.
func (p *TCPProxy) pump(l *link, dst, src net.Conn, look func(*link, []byte) error) {
	defer func() {
		l.close()
		p.mu.Lock()
		delete(p.conns, l)
		p.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.waitHeld()
			if look(l, buf[:n]) != nil {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *TCPProxy) waitHeld() {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (p *TCPProxy) request(l *link, chunk []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loseN > 0 && bytes.Contains(chunk, p.lose) {
		p.loseN--
		l.dropAnswers = true
	}
	return nil
}

func (p *TCPProxy) answer(l *link, _ []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.dropAnswers {
		return nil
	}
	p.lost++
	select {
	case p.lostSig <- struct{}{}:
	default:
	}
	return errDropped
}

func (p *TCPProxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Restore()
	_ = p.listener.Close()
	p.CloseConnections()
	p.wg.Wait()
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}
