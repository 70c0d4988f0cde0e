package admin

import (
	"strings"
	"testing"

	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

// MaxTaps is how many taps there may be.
const MaxTaps = maxTaps

// Routes are the routes of a server, as an OpenAPI document names them.
func Routes() []string {
	s := &Server{flows: new(supervisor.Supervisor), metrics: telemetry.NewRegistry("")}
	var names []string
	for _, r := range s.routes() {
		names = append(names, r.method+" "+strings.TrimSuffix(r.path, "{$}"))
	}
	return names
}

// Authority makes certificates for tests outside the package.
var Authority = newAuthority

// PEM are the authority's certificate.
func (a *authority) PEM() []byte { return a.pem }

// Issue writes base.pem and base.key.
func (a *authority) Issue(t *testing.T, base string) { a.issue(t, base, 5) }
