package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/internal/doctor"
	"github.com/penstockdev/penstock/internal/present"
)

type doctorFlags struct {
	set     []string
	timeout time.Duration
	format  *present.Format
}

func newDoctor() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor [FILE|DIR...]",
		Short: "Look at services and machine, and say what to do about each finding",
		Long: `Doctor connects to the services of flow files and says what it finds: what can be
reached, versions, topics, tables and columns, rights, limits, clocks, disks; and of this
machine its CPUs, memory, open files, clock, and whether an admin server answers. For
each finding it says what to do. It creates and changes nothing, and takes part in
nothing: flows may run meanwhile.

Without files it looks at the machine only.

Exit codes: 0 nothing failed (warnings may be there); 1 a check failed; 2 wrong usage, or a
wrong flow file.`,
		Example: `  penstock doctor
  penstock doctor flows/
  penstock doctor flow.yaml -o json | jq '.flows[].services[].checks[] | select(.status != "ok")'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return diagnose(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args, &f)
		},
	}
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set a field in every file: path.to.field=value (repeatable)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 20*time.Second, "how long to wait for the services of a flow")
	f.format = present.AddFormat(cmd)
	return cmd
}

func diagnose(ctx context.Context, stdout, stderr io.Writer, paths []string, f *doctorFlags) error {
	linted, err := lintFiles(paths, f.set)
	if err != nil {
		return err
	}
	wrong := false
	var files []doctor.File
	for _, l := range linted {
		if slices.ContainsFunc(l.Findings, isError) {
			wrong = true
			printError(stderr, l.Findings)
		}
		if l.Flow == nil {
			continue
		}
		files = append(files, doctor.File{Path: l.Path, Flow: l.Flow})
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // not before: a signal ends the reading of files at once
	defer stop()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // what clients log is in the checks
	report := doctor.Run(ctx, versionText(), files, f.timeout)
	if f.format.JSON() {
		err = present.JSON(stdout, report)
	} else {
		err = report.Table(stdout)
		if err == nil && len(paths) == 0 {
			_, err = io.WriteString(stdout, "\nTo look at what flows need as well: penstock doctor FILE|DIR...\n")
		}
	}
	switch {
	case err != nil:
		return failed(err)
	case wrong:
		return &exitError{code: exitUsage}
	case report.Failed > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}
