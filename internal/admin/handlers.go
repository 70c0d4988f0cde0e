package admin

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI is the document that describes the API.
func OpenAPI() []byte { return openAPI }

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // the client may be gone
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeText(w, "ok\n", s.flows.Healthy())
}

// readyz has a line for each flow.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	flows := s.look()
	var b strings.Builder
	var err error
	for i := range flows {
		f := &flows[i]
		fmt.Fprintf(&b, "%s: %s\n", f.Name, strings.ReplaceAll(f.Reason, "\n", " "))
		if !f.Ready {
			err = errNotReady
		}
	}
	if len(flows) == 0 {
		b.WriteString("ok: no flows\n")
	}
	writeText(w, b.String(), err)
}

var errNotReady = errors.New("a flow is not ready")

// writeText answers a probe. A text that is not empty explains the error itself.
func writeText(w http.ResponseWriter, text string, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		if !errors.Is(err, errNotReady) {
			text = err.Error() + "\n"
		}
	}
	_, _ = io.WriteString(w, text) // the client may be gone
}

// look returns all flows, without what Recent needs a second look for.
func (s *Server) look() []Flow {
	views, now := s.flows.Flows(), time.Now()
	flows := make([]Flow, len(views))
	for i := range views {
		flows[i] = s.flowOf(&views[i], now)
	}
	return flows
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	flows := s.look()
	for i := range flows {
		flows[i].Recent = s.sampler.recent(&flows[i], now)
	}
	writeJSON(w, "application/json", http.StatusOK, &FlowList{Version: s.config.Version, Time: now.UTC(), Flows: flows})
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) { s.answerFlow(w, r.PathValue("flow")) }

func (s *Server) answerFlow(w http.ResponseWriter, name string) {
	v, err := s.flows.Flow(name)
	if err != nil {
		fail(w, "flow "+name, err)
		return
	}
	now := time.Now()
	f := s.flowOf(&v, now)
	f.Recent = s.sampler.recent(&f, now)
	f.Lanes, f.Partitions = lanesOf(&v.Status, now), partitionsOf(&v.Status)
	writeJSON(w, "application/json", http.StatusOK, &f)
}

// act makes the handler of what a person does with a flow.
func (s *Server) act(what string, do func(ctx context.Context, name string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		extend(w)
		name := r.PathValue("flow")
		ctx, cancel := context.WithTimeout(r.Context(), actWithin)
		defer cancel()
		if err := do(ctx, name); err != nil {
			fail(w, fmt.Sprintf("%s flow %s", what, name), err)
			return
		}
		s.log.InfoContext(ctx, "a person has steered a flow", slog.String("action", what), slog.String("flow", name), slog.String("remote", r.RemoteAddr))
		s.answerFlow(w, name)
	}
}

// extend gives a request the time to start or stop a flow. Its context ends with the client, who
// does not wait any more; what was begun goes on.
func extend(w http.ResponseWriter) {
	// Where the deadline cannot be set, there is none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(actWithin + answerWithin))
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	extend(w)
	ctx, cancel := context.WithTimeout(r.Context(), actWithin)
	defer cancel()
	report, err := s.flows.Reload(ctx)
	if err != nil {
		fail(w, "reload", err)
		return
	}
	s.log.InfoContext(ctx, "a person has reloaded the flow files", slog.String("remote", r.RemoteAddr))
	writeJSON(w, "application/json", http.StatusOK, reportOf(&report))
}
