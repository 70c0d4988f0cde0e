// Package doctor looks at what flows need before they run: the services that they read
// from and write to, and the machine.
//
// What belongs here: asking the connectors of a flow for their checks, the checks of the
// machine and the process, and the report of both. What does not: what a service is asked;
// that is the connector's own (connect.Checker). Nothing here changes anything.
package doctor

import (
	"context"
	"sync"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
)

// Roles of what is no connector.
const (
	RoleAdmin   connect.Role = "admin"
	RoleMachine connect.Role = "machine"
)

// Service is what was found of one service of a flow.
type Service struct {
	Role connect.Role `json:"role"`
	// Connector is the name of the connector; empty for roles that have none.
	Connector string          `json:"connector,omitempty"`
	Checks    []connect.Check `json:"checks"`
}

// FlowReport is what was found of the services of one flow.
type FlowReport struct {
	File     string    `json:"file"`
	Flow     string    `json:"flow"`
	Services []Service `json:"services"`

	// Of is the flow itself, which places findings in its file.
	Of *config.Flow `json:"-"`
}

// Report is all that was found.
type Report struct {
	Version string          `json:"version"`
	Flows   []FlowReport    `json:"flows"`
	Machine []connect.Check `json:"machine"`
	// How many checks there are of each status.
	OK       int `json:"ok"`
	Warnings int `json:"warnings"`
	Failed   int `json:"failed"`
}

// File is a flow and the file that it was read from.
type File struct {
	Path string
	Flow *config.Flow
}

// most bounds the flows that are looked at at once.
const most = 8

// Services looks at the services of the flows, several at a time, each flow for at most
// timeout. The reports are in the order of the files.
func Services(ctx context.Context, files []File, timeout time.Duration) []FlowReport {
	out := make([]FlowReport, len(files))
	slots := make(chan struct{}, most)
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			out[i] = FlowReport{File: f.Path, Flow: f.Flow.Name, Services: services(ctx, f.Flow), Of: f.Flow}
		})
	}
	wg.Wait()
	return out
}

// Run looks at everything: the services of the flows, the admin servers, and the machine.
func Run(ctx context.Context, version string, files []File, timeout time.Duration) *Report {
	r := &Report{Version: version}
	var machine sync.WaitGroup
	machine.Go(func() { r.Machine = Machine(files) })
	r.Flows = Services(ctx, files, timeout)
	machine.Wait()
	addresses := map[string]bool{}
	for i, f := range files {
		address := f.Flow.Admin.Address
		if address != "" && address != config.AdminOff && !addresses[address] {
			r.Flows[i].Services = append(r.Flows[i].Services, Service{Role: RoleAdmin, Checks: []connect.Check{admin(ctx, address)}})
		}
		if address != "" {
			addresses[address] = true
		}
	}
	if len(addresses) == 0 {
		r.Machine = append(r.Machine, admin(ctx, config.DefaultAdminAddress))
	}
	for _, f := range r.Flows {
		for _, s := range f.Services {
			r.count(s.Checks)
		}
	}
	r.count(r.Machine)
	return r
}

func (r *Report) count(checks []connect.Check) {
	for _, c := range checks {
		switch c.Status {
		case connect.CheckOK:
			r.OK++
		case connect.CheckWarning:
			r.Warnings++
		case connect.CheckFailed:
			r.Failed++
		}
	}
}

// Findings are what is wrong, as findings of the flow file: those that failed are
// errors, and warnings stay warnings.
func (f *FlowReport) Findings() config.Problems {
	var ps config.Problems
	for _, s := range f.Services {
		for _, c := range s.Checks {
			severity := config.SeverityError
			switch c.Status {
			case connect.CheckOK:
				continue
			case connect.CheckWarning:
				severity = config.SeverityWarning
			case connect.CheckFailed:
			}
			ps = append(ps, f.Of.Finding(s.Role, c.Field, severity, c.What+": "+c.Found, c.Next))
		}
	}
	return ps
}
