package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	runtimepprof "runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/position"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/internal/tap"
	"github.com/penstockdev/penstock/telemetry"
)

const (
	// answerWithin bounds a request that only looks, and each write of a stream.
	answerWithin = 30 * time.Second
	// actWithin bounds a request that starts, stops or moves a flow: a flow stops within
	// its shutdown.grace.
	actWithin = 5 * time.Minute
	// bodyLimit is enough for the offsets of ten thousand partitions.
	bodyLimit = 1 << 20
	// versionHeader carries the version of the program that answers.
	versionHeader = "Penstock-Version"
)

// Flows are the flows of a process: a *supervisor.Supervisor. Methods may be called at once.
type Flows interface {
	Flows() []supervisor.FlowView
	Flow(name string) (supervisor.FlowView, error)
	Pause(name string) error
	Resume(name string) error
	Stop(ctx context.Context, name string) error
	Start(ctx context.Context, name string) error
	Positions(ctx context.Context, name string) ([]position.Position, error)
	SetPositions(ctx context.Context, name string, target position.Target, apply bool) (*position.Plan, error)
	Tap(ctx context.Context, name string, o tap.Options, fn func(*tap.Record) error) error
	Reload(ctx context.Context) (supervisor.ReloadReport, error)
	Healthy() error
}

var _ Flows = (*supervisor.Supervisor)(nil)

// Config configures a Server.
type Config struct {
	// Admin says where and for whom: Address is host:port, port 0 takes a free one.
	config.Admin
	// Version is that of the program.
	Version string
}

// Server is the admin server of a process.
type Server struct {
	config  Config
	flows   Flows
	metrics *telemetry.Registry
	log     *slog.Logger
	guard   *guard
	http    *http.Server
	sampler sampler
	taps    atomic.Int32 // that are open
	// closing ends streams, which Shutdown would wait for.
	closing context.Context
	close   context.CancelFunc

	mu       sync.Mutex // guards what follows
	listener net.Listener
	done     sync.WaitGroup
	started  bool
}

// route is one method and path of the server.
type route struct {
	method, path string
	level        level
	handler      http.HandlerFunc
}

// New makes the server. It refuses what config.Admin.Validate refuses, and token and certificate files that cannot be used.
func New(c Config, flows Flows, metrics *telemetry.Registry, log *slog.Logger) (*Server, error) {
	g, err := newGuard(c.Admin, log)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, flows: flows, metrics: metrics, log: log, guard: g}
	s.closing, s.close = context.WithCancel(context.Background())
	s.sampler.look = s.look
	s.http = &http.Server{
		Addr: c.Address, Handler: s.handler(), TLSConfig: g.serverTLS(),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: answerWithin,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), // handshakes that scanners break off
	}
	return s, nil
}

func (s *Server) routes() []route {
	page := promhttp.HandlerFor(s.metrics.Gatherer(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return []route{
		{"GET", "/healthz", levelHealth, s.healthz},
		{"GET", "/readyz", levelHealth, s.readyz},
		{"GET", "/metrics", levelMetrics, page.ServeHTTP},
		{"GET", "/v1/openapi.json", levelAPI, s.openAPI},
		{"GET", "/v1/flows", levelAPI, s.list},
		{"GET", "/v1/flows/{flow}", levelAPI, s.show},
		{"POST", "/v1/flows/{flow}/pause", levelAPI, s.act("pause", func(_ context.Context, name string) error { return s.flows.Pause(name) })},
		{"POST", "/v1/flows/{flow}/resume", levelAPI, s.act("resume", func(_ context.Context, name string) error { return s.flows.Resume(name) })},
		{"POST", "/v1/flows/{flow}/stop", levelAPI, s.act("stop", s.flows.Stop)},
		{"POST", "/v1/flows/{flow}/start", levelAPI, s.act("start", s.flows.Start)},
		{"GET", "/v1/flows/{flow}/position", levelAPI, s.positions},
		{"PUT", "/v1/flows/{flow}/position", levelAPI, s.setPositions},
		{"GET", "/v1/flows/{flow}/tap", levelAPI, s.tap},
		{"POST", "/v1/reload", levelAPI, s.reload},
		// Not cmdline, which shows what --set was given.
		{"GET", "/debug/pprof/{$}", levelAPI, pprof.Index},
		{"GET", "/debug/pprof/{profile}", levelAPI, profile},
	}
}

func profile(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("profile") {
	case "profile":
		pprof.Profile(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		name := r.PathValue("profile")
		if runtimepprof.Lookup(name) == nil {
			writeProblem(w, http.StatusNotFound, "no such profile", fmt.Sprintf("there is no profile %q; /debug/pprof/ lists what there is", name))
			return
		}
		pprof.Handler(name).ServeHTTP(w, r)
	}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, s.guard.handler(r.level, r.handler))
	}
	unknown := s.guard.handler(levelAPI, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refused := statusRecorder{header: http.Header{}}
		h, _ := mux.Handler(r)
		h.ServeHTTP(&refused, r)
		if refused.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", refused.header.Get("Allow"))
			writeProblem(w, refused.status, "wrong method", fmt.Sprintf("%s takes %s", r.URL.Path, refused.header.Get("Allow")))
			return
		}
		writeProblem(w, http.StatusNotFound, titleNoPage, fmt.Sprintf("penstock %s has no page %s; /v1/openapi.json lists what there is", s.config.Version, r.URL.Path))
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set(versionHeader, s.config.Version)
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, bodyLimit)
		if _, pattern := mux.Handler(r); pattern == "" {
			unknown.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// statusRecorder takes what the mux says of a request that has no handler.
type statusRecorder struct {
	header http.Header
	status int
}

func (s *statusRecorder) Header() http.Header         { return s.header }
func (s *statusRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (s *statusRecorder) WriteHeader(status int)      { s.status = status }

// Start listens and serves until Stop. Starting twice does nothing.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closing.Err() != nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.http.Addr)
	if err != nil {
		return fmt.Errorf("admin server: %w; choose another admin.address", err)
	}
	s.started, s.listener = true, l
	s.done.Go(func() {
		serve := s.http.Serve
		if s.guard.tls != nil {
			serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		}
		if err := serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the admin server stopped", slog.Any("error", err))
		}
	})
	s.done.Go(func() { s.sampler.run(s.closing) })
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

// URL is the address with its scheme; empty before Start.
func (s *Server) URL() string {
	switch address := s.Address(); {
	case address == "":
		return ""
	case s.guard.tls != nil:
		return "https://" + address
	default:
		return "http://" + address
	}
}

// Stop ends the server: streams are ended, other requests in progress are finished until ctx
// ends, then cut off. It may be called more than once, and before Start.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.close()
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("admin server: %w", err), s.http.Close())
	}
	s.done.Wait()
	return err
}
