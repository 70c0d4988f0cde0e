package testservice

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// TCPProxy stands between a client and a server and fails on command. Most
// faults of the network are toxiproxy's; what it cannot do is done by a second
// proxy behind it.
type TCPProxy struct {
	t     testing.TB
	toxic *toxiproxy.Proxy
	*answerLoser
}

// Proxy starts a proxy in front of addr, on a port below the ephemeral range:
// nobody takes it while the connections are cut. It ends with the test.
func Proxy(t testing.TB, addr string) *TCPProxy {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled)
	loser, err := loseAnswers(addr)
	if err != nil {
		t.Fatalf("proxy in front of %s: %v", addr, err)
	}
	t.Cleanup(loser.close)
	toxics := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for attempt := 1; ; attempt++ {
		listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t)))
		p := &TCPProxy{t: t, toxic: toxiproxy.NewProxy(toxics, addr, listen, loser.addr()), answerLoser: loser}
		err := p.toxic.Start()
		if err == nil {
			t.Cleanup(p.toxic.Stop)
			return p
		}
		if attempt == proxyAttempts {
			t.Fatalf("proxy at %s: %v", listen, err)
		}
	}
}

// proxyAttempts is how many ports are tried: between finding a free one and taking
// it somebody else may.
const proxyAttempts = 3

// Addr is host:port to connect to.
func (p *TCPProxy) Addr() string { return p.toxic.Listen }

// Cut closes all connections, and refuses new ones until Restore.
func (p *TCPProxy) Cut() { p.toxic.Stop() }

// CloseConnections closes all connections; new ones are welcome.
func (p *TCPProxy) CloseConnections() {
	p.t.Helper()
	p.Cut()
	p.Restore()
}

// Slow delays what goes either way by d, give or take the jitter.
func (p *TCPProxy) Slow(d, jitter time.Duration) {
	p.t.Helper()
	p.add("latency", fmt.Sprintf(`{"latency":%d,"jitter":%d}`, d.Milliseconds(), jitter.Milliseconds()))
}

// Bandwidth lets so many kB a second through, each way.
func (p *TCPProxy) Bandwidth(kB int) {
	p.t.Helper()
	p.add("bandwidth", fmt.Sprintf(`{"rate":%d}`, kB))
}

// HalfOpen swallows everything that goes either way, on new connections as
// well, and tells nobody. Restore closes those connections.
func (p *TCPProxy) HalfOpen() {
	p.t.Helper()
	p.add("timeout", `{"timeout":0}`)
}

// Restore ends Cut, Slow, Bandwidth and HalfOpen.
func (p *TCPProxy) Restore() {
	p.t.Helper()
	p.toxic.Toxics.ResetToxics(context.Background()) // once a test's context has ended, too
	if p.toxic.Enabled {
		return
	}
	if err := p.toxic.Start(); err != nil {
		p.t.Fatalf("proxy at %s: %v", p.toxic.Listen, err)
	}
}

func (p *TCPProxy) add(kind, attributes string) {
	p.t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"type":%q,"stream":%q,"attributes":%s}`, kind, stream, attributes)
		if _, err := p.toxic.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			p.t.Fatalf("proxy at %s: %s: %v", p.toxic.Listen, kind, err)
		}
	}
}
