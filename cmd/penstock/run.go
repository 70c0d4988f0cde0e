package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/dryrun"
	"github.com/penstockdev/penstock/internal/supervisor"
	"github.com/penstockdev/penstock/telemetry"
)

// adminStop bounds how long a scrape in progress may hold the process up.
const adminStop = 2 * time.Second

type runFlags struct {
	logs    logFlags
	set     []string
	watch   bool
	dryRun  bool
	records int
	output  string
	timeout time.Duration
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run FILE|DIRECTORY...",
		Short: "Run flows until they are told to stop",
		Long: `Run runs the flows of the files, and of the files *.yaml and *.yml in the directories
(not those below, hidden ones, or *.test.yaml). SIGTERM or SIGINT (Ctrl-C) stops them: what was read is
written within shutdown.grace, all flows at the same time, and the exit code is 0. Another signal, a second or more
later, ends the process at once; nothing is lost or repeated by that.

Flows do not touch each other: one whose database is away waits for it alone, and one that fails
stops alone. With one FILE the process ends with its flow. With more, or a DIRECTORY, the others
go on, and the one that failed stays stopped until its file is changed, or penstock reload or penstock start is
called; after an error that may pass it is started again by itself, at most every 30 s. Memory is
shared, and so is a panic (a bug in Penstock): it ends the process, and all flows read on from their
positions when it is started again.

Files are read again when they change (unless --watch=false), and at SIGHUP. A file that is wrong
is refused, and its flow goes on as it was. Otherwise the flows that the change is about are stopped,
and go on with the new configuration from their positions: nothing is lost or repeated. One that fails with it at once
gets its old configuration back.

With --dry-run it shows the rows and the dead letters that the flow of one FILE would make of the
next records, from where the flow would read on. It writes nothing, creates nothing
and joins no consumer group. It foresees what decoding refuses, and what the sink's mode
and key refuse (a tombstone in mode append or ignore, a key column without a value in
mode ignore or upsert). It does not foresee what only the table can refuse: NOT NULL and
other constraints, types, lengths and ranges of its columns, triggers.

A field of the file is overridden by --set path.to.field=value, and by the environment
variable PENSTOCK_PATH_TO_FIELD; in every file.

Unless GOGC and GOMEMLIMIT are set, the garbage collector runs at 70 %, and the heap
stays below 90 % of the container's memory limit.

Exit codes: 0 stopped as told; 1 the flow failed, or one of several had failed in the end;
2 wrong usage or a wrong flow file.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !f.dryRun {
				for _, name := range []string{"records", "output", "timeout"} {
					if cmd.Flags().Changed(name) {
						return usage(fmt.Errorf("--%s is for --dry-run: say that, too, or leave it out to run the flow", name))
					}
				}
				return runFlows(cmd.Context(), cmd.ErrOrStderr(), args, &f)
			}
			if len(args) > 1 {
				return usage(errors.New("--dry-run shows one flow: give one file"))
			}
			return dryRun(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0], &f)
		},
	}
	f.logs.add(cmd)
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set a field: path.to.field=value (repeatable)")
	cmd.Flags().BoolVar(&f.watch, "watch", true, "read the files again when they change")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what the next records would become; write nothing")
	cmd.Flags().IntVarP(&f.records, "records", "n", 10, "with --dry-run: how many records")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "with --dry-run: table or json (one object per line)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "with --dry-run: how long to wait for the records")
	return cmd
}

// load reads the flow file and says what it warns of.
func load(path string, set []string, log *slog.Logger) (*config.Flow, error) {
	o, err := loadOptions(set)
	if err != nil {
		return nil, failed(err)
	}
	f, err := config.LoadFile(path, o)
	if err != nil {
		return nil, usage(err)
	}
	for _, w := range f.Warnings {
		log.Warn("the flow file has a warning", slog.String("warning", w.Error()))
	}
	return f, nil
}

func runFlows(ctx context.Context, stderr io.Writer, paths []string, flags *runFlags) error {
	log, err := flags.logs.logger(stderr)
	if err != nil {
		return usage(err)
	}
	options, err := loadOptions(flags.set)
	if err != nil {
		return failed(err)
	}
	setMemory()
	metrics := telemetry.NewRegistry(versionText())
	tracing, err := telemetry.NewTracing(ctx, versionText(), log)
	if err != nil {
		return usage(err)
	}
	metrics.Trace(tracing)
	flows, err := supervisor.New(supervisor.Options{
		Paths:  paths,
		Lint:   func(paths []string) ([]*config.Linted, error) { return config.Lint(paths, options) },
		Watch:  flags.watch,
		Logger: log, Metrics: metrics,
	})
	if err != nil {
		return usage(err)
	}
	log.Info("starting", slog.String("version", versionText()), slog.Any("files", paths))

	// In the order in which they end: metrics and health are there until the
	// flows have written what they hold.
	actors := []actor{logged(flows.Run)}
	if c := flows.Admin(); c.Address != config.AdminOff {
		admin, err := newAdmin(ctx, c, flows, metrics, log)
		if err != nil {
			return usage(err)
		}
		if admin != nil {
			actors = append(actors, admin)
		}
	}
	actors = append(actors, supervised(flows.Healthy, log), reloads(flows, log), signals(func(s os.Signal) {
		notify(log, daemon.SdNotifyStopping)
		log.Info("stopping: writing what was read; another signal, a second or more later, ends the process at once", slog.String("signal", s.String()))
	}))
	err = runActors(ctx, actors...)
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStop)
	defer cancel()
	if err := tracing.Shutdown(flush); err != nil {
		log.Warn("traces", slog.Any("error", err))
	}
	if err == nil {
		log.Info("the process ends")
		return nil
	}
	if !errors.As(err, new(loggedError)) {
		log.Error("failed", slog.Any("error", err))
	}
	return &exitError{code: exitFailed} // the log has it
}

// loggedError is an error that the log has.
type loggedError struct{ error }

// logged marks the errors of an actor that logs them itself.
func logged(a actor) actor {
	return func(ctx context.Context) error {
		if err := a(ctx); err != nil {
			return loggedError{err}
		}
		return nil
	}
}

// newAdmin makes the admin server. Nil: it is not asked for, and its address is taken.
func newAdmin(ctx context.Context, c config.Admin, flows *supervisor.Supervisor, metrics *telemetry.Registry, log *slog.Logger) (actor, error) {
	asked := c.Address != ""
	if !asked {
		c.Address = config.DefaultAdminAddress
	}
	server, err := admin.New(admin.Config{Admin: c, Version: versionText()}, flows, metrics, log)
	if err != nil {
		return nil, err
	}
	if !asked {
		if err := server.Start(ctx); err != nil {
			log.Warn("no admin server: its address is taken; set admin.address to one of its own, or to off", slog.Any("error", err))
			return nil, nil
		}
	}
	return func(ctx context.Context) error { return serve(ctx, server, log) }, nil
}

// serve runs the admin server until ctx ends.
func serve(ctx context.Context, server *admin.Server, log *slog.Logger) error {
	if err := server.Start(ctx); err != nil {
		return err
	}
	log.Info("metrics and health", slog.String("address", server.URL()+"/metrics"))
	<-ctx.Done()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStop)
	defer cancel()
	return server.Stop(stopCtx)
}

func dryRun(ctx context.Context, stdout, stderr io.Writer, path string, flags *runFlags) error {
	switch {
	case flags.records < 1 || flags.records > 100_000:
		return usage(errors.New("--records: want 1 to 100000"))
	case flags.output != "table" && flags.output != "json":
		return usage(fmt.Errorf("--output %s: want table or json", flags.output))
	}
	log, err := flags.logs.logger(stderr)
	if err != nil {
		return usage(err)
	}
	file, err := load(path, flags.set, log)
	if err != nil {
		return err
	}
	cfg, err := file.Build(log, nil)
	if err != nil {
		return usage(err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, flags.timeout)
	defer cancel()
	report, err := dryrun.Run(ctx, cfg, file.Writings(), flags.records)
	if err != nil {
		return failed(fmt.Errorf("dry run of flow %s: %w", file.Name, err))
	}
	if flags.output == "json" {
		return failed(report.JSON(stdout))
	}
	return failed(report.Table(stdout))
}
