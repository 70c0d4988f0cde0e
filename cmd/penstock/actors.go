package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/penstockdev/penstock/internal/supervisor"
)

// actor is a part of the process. It returns when its context ends, or when it
// has nothing more to do, which ends the process.
type actor func(ctx context.Context) error

// runActors starts all actors. When the first one returns, the others are told
// to, one after the other in the order given, and waited for. It returns the first
// error.
func runActors(ctx context.Context, actors ...actor) error {
	type ending struct {
		i   int
		err error
	}
	endings := make(chan ending, len(actors))
	stops := make([]context.CancelFunc, len(actors))
	done := make([]sync.WaitGroup, len(actors))
	errs := make([]error, len(actors))
	for i, a := range actors {
		actx, cancel := context.WithCancel(ctx)
		stops[i] = cancel
		done[i].Go(func() {
			err := a(actx)
			errs[i] = err
			endings <- ending{i, err}
		})
	}
	first := <-endings
	for i := range actors {
		stops[i]()
		done[i].Wait()
	}
	if first.err != nil {
		return first.err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// signalRepeats is for how long more signals are the same wish: timeout(1) signals
// its child, and then the child's group as well.
const signalRepeats = time.Second

// signals returns at the first SIGINT or SIGTERM, which ends the process in
// order. One that comes after signalRepeats ends it at once.
func signals(started func(os.Signal)) actor {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	return func(ctx context.Context) error {
		select {
		case s := <-ch:
			time.AfterFunc(signalRepeats, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })
			started(s)
		case <-ctx.Done():
			signal.Stop(ch)
		}
		return nil
	}
}

// reloads reads the flow files again at every SIGHUP.
func reloads(flows *supervisor.Supervisor, log *slog.Logger) actor {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	return func(ctx context.Context) error {
		defer signal.Stop(ch)
		var under sync.WaitGroup // one that waits for a flow does not hold up the next
		defer under.Wait()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ch:
			}
			notify(log, daemon.SdNotifyMonotonicUsec()+daemon.SdNotifyReloading)
			under.Go(func() {
				// What is wrong with the files is logged by whoever reads them.
				if _, err := flows.Reload(ctx); err != nil && ctx.Err() == nil {
					log.Error("the flow files were not read again", slog.Any("error", err))
				}
				notify(log, daemon.SdNotifyReady)
			})
		}
	}
}

// supervised tells systemd, where it is asked to, that the process is up, and, as long as it is
// healthy, that it lives. Up means that the flows were started: a database that is
// away is waited for, and is no reason to start the process again.
func supervised(healthy func() error, log *slog.Logger) actor {
	return func(ctx context.Context) error {
		notify(log, daemon.SdNotifyReady)
		var tick <-chan time.Time
		every, err := daemon.SdWatchdogEnabled(false)
		if err != nil {
			log.Warn("systemd's watchdog", slog.Any("error", err))
		}
		if every > 0 {
			ticker := time.NewTicker(every / 2)
			defer ticker.Stop()
			tick = ticker.C
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick:
			}
			if err := healthy(); err != nil {
				log.Error("not healthy: systemd's watchdog is not answered", slog.Any("error", err))
				continue
			}
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}

// notify tells systemd something; without systemd it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", slog.String("state", state), slog.Any("error", err))
	}
}
