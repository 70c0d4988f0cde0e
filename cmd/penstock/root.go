package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/telemetry"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = ""

// logFlags are those of every command that runs something.
type logFlags struct{ format, level string }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Records from a log into a database or another topic: exactly once, in order, at the speed of COPY",
		Long: `Penstock moves records from a log (Kafka) to where they are needed (PostgreSQL,
SQLite, another Kafka topic), and loses, repeats or reorders none of them.

Try it:          penstock demo
Write a flow:    penstock explain kafka postgres json
Check a flow:    penstock lint flow.yaml
Look before:     penstock run flow.yaml --dry-run
Run it:          penstock run flow.yaml

Exit codes: 0 success; 1 the flow failed, or lint has findings; 2 wrong usage or
a wrong flow file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newRun(), newLint(), newList(), newExplain(), newSchema(), newVersion(), newDemo(), newDev(), newTest())
	return root
}

func (l *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.format, "log-format", "auto", "auto (text on a terminal, else json), text or json")
	cmd.Flags().StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
}

// logger makes the logger, and the default one of it.
func (l *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	log, err := telemetry.NewLogger(w, isTerminal(w), l.format, l.level)
	if err == nil {
		slog.SetDefault(log)
	}
	return log, err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // file descriptors are small
}

// loadOptions say with what flow files are read.
func loadOptions(set []string) (config.Options, error) {
	r, err := all.Registry()
	if err != nil {
		return config.Options{}, err
	}
	return config.Options{Registry: r, Environ: os.Environ(), Set: set}, nil
}

// printError writes findings with their lines, and other errors on one.
func printError(w io.Writer, err error) {
	if ps, ok := errors.AsType[config.Problems](err); ok {
		fmt.Fprint(w, ps.Text())
		return
	}
	fmt.Fprintf(w, "penstock: %v\n", err)
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "penstock %s (%s, %s/%s)\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return failed(err)
		},
	}
}

// versionText is the release, or what the Go toolchain knows of the commit.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return info.Main.Version
}
