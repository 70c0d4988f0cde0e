package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server is the admin server: /metrics, /healthz and /readyz.
type Server struct {
	metrics *Metrics
	http    *http.Server
	log     *slog.Logger

	mu       sync.Mutex // guards what follows
	listener net.Listener
	done     chan struct{}
	ready    readiness
}

// NewServer makes the server for an address (host:port; port 0 for a free one).
// An address that other machines can reach is refused unless allowRemote.
func NewServer(address string, allowRemote bool, m *Metrics, log *slog.Logger) (*Server, error) {
	if err := CheckAddress(address, allowRemote); err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	s := &Server{metrics: m, log: log}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.Gatherer(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		status := m.Status()
		answer(w, "ok", Healthy(&status))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		text, err := s.checkReady()
		answer(w, text, err)
	})
	s.http = &http.Server{
		Addr: address, Handler: mux,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// CheckAddress refuses an address that is not host:port, and without
// allowRemote one that other machines can reach.
func CheckAddress(address string, allowRemote bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return fmt.Errorf("%q is not an address; want host:port, like 127.0.0.1:9464", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is not an address: the port is a number of 0 to 65535", address)
	}
	if allowRemote || host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q can be reached from other machines, and its pages need no login; "+
		"use 127.0.0.1:%s, or set admin.allow_remote: true", address, port)
}

func (s *Server) checkReady() (string, error) {
	status := s.metrics.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready.check(&status, s.metrics.assigned.Load(), s.metrics.now())
}

func answer(w http.ResponseWriter, text string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, err.Error()+"\n") // the client may be gone
		return
	}
	_, _ = io.WriteString(w, text+"\n")
}

// Start listens and serves until Stop. Starting twice does nothing.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.http.Addr)
	if err != nil {
		return fmt.Errorf("admin server: %w; choose another admin.address", err)
	}
	s.listener, s.done = l, make(chan struct{})
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the admin server stopped", slog.Any("error", err))
		}
	}()
	return nil
}

// Address is where the server listens; empty before Start.
func (s *Server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Stop ends the server: requests in progress are finished until ctx ends, then
// cut off. It may be called more than once, and before Start.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	done := s.done
	if done == nil { // never started, and cannot be any more
		s.done = make(chan struct{})
		close(s.done)
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("admin server: %w", err), s.http.Close())
	}
	if done != nil {
		<-done
	}
	return err
}
