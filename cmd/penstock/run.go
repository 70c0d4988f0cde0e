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

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/dryrun"
	"github.com/penstockdev/penstock/telemetry"
)

// adminStop bounds how long a scrape in progress may hold the process up.
const adminStop = 2 * time.Second

type runFlags struct {
	logs    logFlags
	set     []string
	dryRun  bool
	records int
	output  string
	timeout time.Duration
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a flow until it is told to stop",
		Long: `Run runs the flow of a file. SIGTERM or SIGINT (Ctrl-C) stops it: what was read is
written within shutdown.grace, and the exit code is 0. Another signal, a second or more
later, ends the process at once; nothing is lost or repeated by that.

With --dry-run it shows the rows and the dead letters that the flow would make of the
next records, from where the flow would read on. It writes nothing, creates nothing
and joins no consumer group. It foresees what decoding refuses, and what the sink's mode
and key refuse (a tombstone in mode append or ignore, a key column without a value in
mode ignore or upsert). It does not foresee what only the table can refuse: NOT NULL and
other constraints, types, lengths and ranges of its columns, triggers.

A field of the file is overridden by --set path.to.field=value, and by the environment
variable PENSTOCK_PATH_TO_FIELD.

Unless GOGC and GOMEMLIMIT are set, the garbage collector runs at 70 %, and the heap
stays below 90 % of the container's memory limit.

Exit codes: 0 stopped as told; 1 the flow failed; 2 wrong usage or a wrong flow file.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.dryRun {
				return dryRun(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0], &f)
			}
			return runFlow(cmd.Context(), cmd.ErrOrStderr(), args[0], &f)
		},
	}
	f.logs.add(cmd)
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set a field: path.to.field=value (repeatable)")
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

func runFlow(ctx context.Context, stderr io.Writer, path string, flags *runFlags) error {
	log, err := flags.logs.logger(stderr)
	if err != nil {
		return usage(err)
	}
	file, err := load(path, flags.set, log)
	if err != nil {
		return err
	}
	setMemory()
	metrics := telemetry.NewMetrics(file.Name, versionText())
	cfg, err := file.Build(log, metrics)
	if err != nil {
		return usage(err)
	}
	fl, err := flow.New(cfg)
	if err != nil {
		return usage(err)
	}
	metrics.Watch(fl.Status)

	// In the order in which they end: metrics and health are there until the
	// flow has written what it holds.
	actors := []actor{fl.Run}
	if file.Admin.Address != "" {
		admin, err := telemetry.NewServer(file.Admin.Address, file.Admin.AllowRemote, metrics, log)
		if err != nil {
			return usage(err)
		}
		actors = append(actors, func(ctx context.Context) error { return serve(ctx, admin, log) })
	}
	actors = append(actors, signals(func(s os.Signal) {
		log.Info("stopping: writing what was read; another signal, a second or more later, ends the process at once",
			slog.String("signal", s.String()), slog.Duration("grace", file.Shutdown.Grace))
	}))
	log.Info("starting", slog.String("version", versionText()), slog.String("file", path))
	err = runActors(ctx, actors...)
	if err != nil {
		log.Error("failed", slog.String("flow", file.Name), slog.Any("error", err))
		return &exitError{code: exitFailed} // the log has it
	}
	s := fl.Status()
	log.Info("stopped", slog.Int64("records", s.Records), slog.Int64("rows", s.Rows), slog.Int64("dead_letters", s.Dead))
	return nil
}

// serve runs the admin server until ctx ends.
func serve(ctx context.Context, admin *telemetry.Server, log *slog.Logger) error {
	if err := admin.Start(ctx); err != nil {
		return err
	}
	log.Info("metrics and health", slog.String("address", "http://"+admin.Address()+"/metrics"))
	<-ctx.Done()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminStop)
	defer cancel()
	return admin.Stop(stopCtx)
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
