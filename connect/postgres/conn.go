package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockdev/penstock/flow"
)

// cancelTimeout bounds what pgconn does when it gives up a connection, to which it allows
// 15 s: it sends a cancel request, and reads the connection to its end. PgBouncer answers
// neither while it has no server, and closing a flow would wait for that.
const cancelTimeout = 2 * time.Second

// session is a connection and who it is at the server.
type session struct {
	pg *pgconn.PgConn
	// backend names the server process: pid, @ and its start in microseconds,
	// since process ids are used again. Behind a pooler it is just the one that
	// answered.
	backend string
}

// dial connects.
func (s *Sink) dial(ctx context.Context) (*session, error) { return s.dialAs(ctx, s.appName) }

// dialAs connects under an application name.
func (s *Sink) dialAs(ctx context.Context, appName string) (*session, error) {
	cfg, err := parseURL(s.cfg.URL)
	if err != nil {
		// NewSink has read it, so it is one of the files that it names: somebody is
		// about to write it.
		return nil, flow.Transient(fmt.Errorf("url: %w", err))
	}
	pw, ok, err := s.cfg.password()
	if err != nil {
		return nil, flow.Fatal(err)
	}
	if ok {
		cfg.Password = pw
	}
	cfg.RuntimeParams["application_name"] = appName
	// Text is sent as UTF-8, whatever the database's own encoding is.
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	var connected atomic.Bool
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		switch {
		case err != nil:
			return nil, err
		case connected.Load(): // for a cancel request
			return conn, conn.SetDeadline(time.Now().Add(cancelTimeout))
		}
		return &startingConn{Conn: conn, started: &connected}, nil
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	connected.Store(true)
	if hint := tlsRefused(err); hint != "" {
		return nil, flow.Fatal(fmt.Errorf("connect to PostgreSQL: %w; %s", &connectionError{text: connectText(err), err: err}, hint))
	}
	if err != nil {
		return nil, connectError(err)
	}
	rows, err := query(ctx, pg, `SELECT pid || '@' || (extract(epoch FROM backend_start) * 1000000)::int8 FROM pg_stat_activity WHERE pid = pg_backend_pid()`)
	if err == nil && len(rows) != 1 {
		err = errors.New("pg_stat_activity does not show the connection's own process")
	}
	if err != nil {
		s.hangUp(ctx, pg)
		return nil, connectError(err)
	}
	return &session{pg: pg, backend: string(rows[0][0])}, nil
}

// startingConn lets a failed write pass until the session has started, so that what
// the server said before it hung up is read: with TLS 1.3 it refuses a certificate after
// the client's side of the handshake has ended, and it may have closed the connection when
// the client begins to talk.
type startingConn struct {
	net.Conn
	started *atomic.Bool
}

func (c *startingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !c.started.Load() && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		return len(b), nil
	}
	return n, err
}

// tlsRefused says what to do where the server has ended the talk about TLS, which
// no retry helps against; empty: it has not.
func tlsRefused(err error) string {
	if err == nil || sqlState(err) != "" {
		return ""
	}
	switch text := err.Error(); { // there are no types for either
	case strings.Contains(text, "server refused TLS connection"):
		return "the server has no TLS: set ssl = on there, or, on a network that is encrypted otherwise, sslmode=disable"
	case strings.Contains(text, "remote error: tls:"):
		return "the server refused the client's certificate: check that sslcert has not expired, and that a CA in the server's ssl_ca_file has signed it"
	}
	return ""
}

// hangUp closes a connection; the server rolls back what was open. Close waits
// for what pgconn does about it in the background, which may last cancelTimeout
// for the cancel request, and as long for the connection itself.
func (s *Sink) hangUp(ctx context.Context, pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
	s.closing.Go(func() {
		stop := time.AfterFunc(2*cancelTimeout, func() { _ = pg.Conn().Close() })
		<-pg.CleanupDone()
		stop.Stop()
	})
}

// exec runs statements in one round trip, and returns all results or the
// first error. Without BEGIN they are one transaction.
func exec(ctx context.Context, pg *pgconn.PgConn, sql string) ([]*pgconn.Result, error) {
	return pg.Exec(ctx, sql).ReadAll()
}

// query runs one statement with parameters as text. The statement is not
// named, so that a pooler may give the next one to another backend.
func query(ctx context.Context, pg *pgconn.PgConn, sql string, args ...string) ([][][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	r := pg.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	return r.Rows, r.Err
}
