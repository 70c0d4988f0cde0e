package admin

import (
	"errors"
	"net/http"
	"testing"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/position"
	"github.com/penstockdev/penstock/internal/supervisor"
)

// Whoever asks can tell their own mistake from a service that is away, and that from ours.
func TestStatusOfErrors(t *testing.T) {
	for want, err := range map[int]error{
		http.StatusNotFound:            supervisor.ErrNoFlow,
		http.StatusConflict:            &position.RunningError{Flow: "f"},
		http.StatusBadRequest:          &position.TargetError{},
		http.StatusServiceUnavailable:  flow.Transient(errors.New("connection refused")),
		http.StatusInternalServerError: errors.New("what is this"),
	} {
		if got := problemOf("x", err).Status; got != want {
			t.Errorf("%v: status %d, want %d", err, got, want)
		}
	}
}
