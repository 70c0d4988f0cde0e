package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/internal/demo"
)

func newDemo() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job: Kafka into SQLite, killed in the middle, every record verified",
		Long: `Demo starts an embedded Kafka and a SQLite database in this process, writes vehicle
telemetry (some of it malformed), runs a flow into a table, kills the flow without
warning in the middle, starts it again, and verifies every record at the end. It
needs nothing but this program, and leaves a flow file to edit and run. It replaces
the topic and the table telemetry of an earlier demo, with its positions and dead
letters; everything else in the folder is kept.

The embedded Kafka is for trying things out and for development, not for production.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			if err := o.Validate(); err != nil {
				return usage(err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return failed(demo.Run(ctx, o))
		},
	}
	demoFlags(cmd, &o)
	cmd.Flags().IntVar(&o.Records, "records", 250_000, "how many records to write, at least 1000")
	return cmd
}

func newDev() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Keep the embedded services of the demo running, for development",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			if err := o.Validate(); err != nil {
				return usage(err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return failed(demo.Dev(ctx, o))
		},
	}
	demoFlags(cmd, &o)
	return cmd
}

func demoFlags(cmd *cobra.Command, o *demo.Options) {
	cmd.Flags().StringVar(&o.Dir, "dir", "penstock-data", "where Kafka and the database keep their files")
	cmd.Flags().StringVar(&o.File, "file", "telemetry.yaml", "the flow file to leave; one that was edited is left alone")
	cmd.Flags().IntVar(&o.Port, "port", 0, "port of the embedded Kafka (default: its own, or one of the next)")
}
