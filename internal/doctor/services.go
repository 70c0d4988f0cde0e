package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/flow"
)

// closing bounds how long connections are closed politely.
const closing = 5 * time.Second

// services asks the connectors of one flow. The source is opened beside its own checks, for
// the sink to be told the cluster.
func services(ctx context.Context, f *config.Flow) []Service {
	cfg, err := f.Build(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return []Service{{Role: connect.RoleSource, Checks: []connect.Check{failure("flow "+f.Name, err, "")}}}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		shut(ctx, cfg)
	}()
	setup, err := config.Setup(cfg, nil)
	if err != nil {
		return []Service{{Role: connect.RoleDecode, Connector: name(f.Decode), Checks: []connect.Check{failure("columns", err, "")}}}
	}
	source := Service{Role: connect.RoleSource, Connector: name(f.Source)}
	sink := Service{Role: connect.RoleSink, Connector: name(f.Sink)}
	letters := Service{Role: connect.RoleDeadLetters, Connector: name(f.DeadLetters)}
	var wg sync.WaitGroup
	checker, checks := cfg.Source.(connect.Checker)
	if checks {
		wg.Go(func() { source.Checks = checker.Check(ctx, setup) })
	}
	log, reached := open(ctx, f)
	if !checks {
		source.Checks = []connect.Check{reached}
	}
	if known, err := config.Setup(cfg, log); err != nil {
		sink.Checks = []connect.Check{failure("columns", err, "")}
	} else {
		if c, ok := cfg.Sink.(connect.Checker); ok {
			wg.Go(func() { sink.Checks = c.Check(ctx, known) })
		}
		if c, ok := cfg.DeadLetters.(connect.Checker); ok {
			wg.Go(func() { letters.Checks = c.Check(ctx, known) })
		}
	}
	wg.Wait()
	out := []Service{source}
	for _, s := range []Service{sink, letters} {
		if len(s.Checks) > 0 { // else it has no services, like a terminal
			out = append(out, s)
		}
	}
	return out
}

// open asks a source of its own for what there is to read, for at most half of the
// time: the sink's checks go on without it.
func open(ctx context.Context, f *config.Flow) (*flow.Log, connect.Check) {
	const what = "reachable"
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	source, err := f.Source.Connector.NewSource(f.Source.Config)
	if err != nil {
		return nil, failure(what, err, "")
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		_ = source.Close(ctx) // nothing was read
	}()
	log, err := source.Open(ctx)
	if err != nil {
		return nil, failure(what, err, "")
	}
	return log, connect.Check{What: what, Status: connect.CheckOK, Found: fmt.Sprintf("%s: %d partitions", log.Name, len(log.Partitions))}
}

func shut(ctx context.Context, cfg flow.Config) {
	_ = cfg.Source.Close(ctx) // nothing was read or written: there is nothing that an error could mean
	_ = cfg.Sink.Close(ctx)
	if cfg.DeadLetters != nil {
		_ = cfg.DeadLetters.Close(ctx)
	}
}

func name(c connect.Choice) string {
	if c.Connector == nil {
		return ""
	}
	return c.Connector.Name
}

func failure(what string, err error, next string) connect.Check {
	return connect.Check{What: what, Status: connect.CheckFailed, Found: err.Error(), Next: next}
}
