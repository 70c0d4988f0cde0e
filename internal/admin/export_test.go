package admin

import (
	"strings"

	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

// Routes are the routes of a server, as an OpenAPI document names them.
func Routes() []string {
	s := &Server{flows: new(supervisor.Supervisor), metrics: telemetry.NewRegistry("")}
	var names []string
	for _, r := range s.routes() {
		names = append(names, r.method+" "+strings.TrimSuffix(r.path, "{$}"))
	}
	return names
}
