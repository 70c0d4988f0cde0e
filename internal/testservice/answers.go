package testservice

import (
	"bytes"
	"context"
	"net"
	"sync"
)

// answerLoser is a proxy for what toxiproxy cannot do: it passes everything on
// except the answers to certain requests, and what goes over certain connections.
type answerLoser struct {
	listener net.Listener
	wg       sync.WaitGroup
	changed  chan struct{}

	mu      sync.Mutex // guards what follows
	target  string
	conns   map[*link]struct{}
	closed  bool
	request []byte
	left    int
	lost    int
}

// link is one proxied connection.
type link struct {
	client, server net.Conn
	// What follows is guarded by answerLoser.mu. dropAnswers is set once the
	// request was seen whose answer is to be lost, silent by Silence.
	dropAnswers, silent bool
}

func loseAnswers(target string) (*answerLoser, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &answerLoser{listener: l, target: target, conns: map[*link]struct{}{}, changed: make(chan struct{}, 1)}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *answerLoser) addr() string { return p.listener.Addr().String() }

// LoseAnswers makes the proxy lose the answers to the next n requests that
// contain the bytes: a request is passed on, the server's answer is waited for
// and dropped, and the connection is closed. The server has done what was
// asked, and the client cannot know.
func (p *answerLoser) LoseAnswers(request []byte, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.request, p.left = bytes.Clone(request), n
}

// Lost is how many answers were lost so far. Changed is signalled after each.
func (p *answerLoser) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Silence swallows everything that goes over the connections that are open
// now, and closes none, as a host does that was switched off. New connections
// are like any other.
func (p *answerLoser) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.conns {
		l.silent = true
	}
}

// Redirect sends all new connections to another server, as a virtual address
// does after a failover. Open ones stay: see CloseConnections.
func (p *answerLoser) Redirect(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Changed receives after answers were lost.
func (p *answerLoser) Changed() <-chan struct{} { return p.changed }

func (p *answerLoser) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		if p.closed { // while we dialled
			l.close()
		} else {
			p.conns[l] = struct{}{}
			p.wg.Go(func() { p.pump(l, server, client, p.onRequest) })
			p.wg.Go(func() { p.pump(l, client, server, p.onAnswer) })
		}
		p.mu.Unlock()
	}
}

// What to do with what was read.
const (
	pass = iota
	swallow
	hangUp
)

// pump copies from src to dst until either ends, or the judge says so.
func (p *answerLoser) pump(l *link, dst, src net.Conn, judge func(*link, []byte) int) {
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
			switch judge(l, buf[:n]) {
			case hangUp:
				return
			case pass:
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *answerLoser) onRequest(l *link, chunk []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.silent {
		return swallow
	}
	if p.left > 0 && bytes.Contains(chunk, p.request) {
		p.left--
		l.dropAnswers = true
	}
	return pass
}

func (p *answerLoser) onAnswer(l *link, _ []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case l.silent:
		return swallow
	case !l.dropAnswers:
		return pass
	}
	p.lost++
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return hangUp
}

func (p *answerLoser) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for l := range p.conns {
		l.close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}
