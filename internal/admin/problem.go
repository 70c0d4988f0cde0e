package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/position"
	"github.com/penstockdev/penstock/internal/supervisor"
)

// titleNoPage is how a client tells a server of another version from a flow that is not there.
const titleNoPage = "no such page"

const problemType = "application/problem+json"

func writeProblem(w http.ResponseWriter, status int, title, detail string) {
	writeJSON(w, problemType, status, &Problem{Type: "about:blank", Title: title, Status: status, Detail: detail})
}

func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a number that JSON has not, which nothing here makes
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

// fail answers with what an error of the flows means. what is the title: "pausing flow orders".
func fail(w http.ResponseWriter, what string, err error) {
	p := problemOf(what, err)
	writeJSON(w, problemType, p.Status, p)
}

func problemOf(what string, err error) *Problem {
	p := &Problem{Type: "about:blank", Title: what, Status: http.StatusInternalServerError, Detail: err.Error()}
	var refused *badRequest
	var target *position.TargetError
	var large *http.MaxBytesError
	var running *position.RunningError
	var moved *position.MovedError
	switch {
	case errors.Is(err, supervisor.ErrNoFlow):
		p.Title, p.Status = "no such flow", http.StatusNotFound
	case errors.Is(err, supervisor.ErrState), errors.As(err, &running), errors.As(err, &moved):
		p.Title, p.Status = "not in this state", http.StatusConflict
	case errors.As(err, &large):
		p.Title, p.Status = "the body is too large", http.StatusRequestEntityTooLarge
	case errors.As(err, &refused), errors.As(err, &target):
		p.Title, p.Status = "wrong request", http.StatusBadRequest
	case flow.ClassOf(err) == flow.ClassTransient:
		p.Title, p.Status = "a service that the flow needs is away", http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		p.Status = http.StatusGatewayTimeout
	}
	return p
}

// badRequest is an error of the one who asks.
type badRequest struct{ err error }

func (e *badRequest) Error() string { return e.err.Error() }
func (e *badRequest) Unwrap() error { return e.err }
