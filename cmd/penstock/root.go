package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/internal/present"
	"github.com/penstockdev/penstock/telemetry"
)

// logFlags are those of every command that runs something.
type logFlags struct{ format, level string }

// groups are the headings of the help, with the commands below each in the order in which a
// person meets them. A command that is in none comes last.
var groups = []struct{ title, commands string }{
	{"Before it runs:", "demo init lint test doctor dev"},
	{"While it runs:", "run flows top tap pause resume stop start position reload"},
	{"When it fails:", "dlq"},
	{"Look up:", "list explain schema version completion help"},
}

func newRoot() *cobra.Command {
	var color string
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Records from a log into a database or another topic: exactly once, in order, at the speed of COPY",
		Long: `Penstock moves records from a log (Kafka) to where they are needed (PostgreSQL,
SQLite, another Kafka topic), and loses, repeats or reorders none of them.

Try it:          penstock demo
Write a flow:    penstock init --topic orders --postgres "$DATABASE_URL"
Check it:        penstock lint orders.yaml --services
Test it:         penstock test
Look before:     penstock run orders.yaml --dry-run
Run it:          penstock run orders.yaml
Look after it:   penstock top

Tables are for people; -o json has the same content for programs. Exit codes:
penstock help exit-codes. Completion for your shell: penstock completion --help.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return setColor(cmd, color)
		},
	}
	root.PersistentFlags().StringVar(&color, "color", "auto", "auto (on a terminal, unless NO_COLOR is set), always or never")
	completeFlag(root, "color", "auto", "always", "never")
	root.AddCommand(newRun(), newLint(), newList(), newExplain(), newSchema(), newVersion(), newDemo(), newDev(), newInit(), newTest(), newDoctor(), newDLQ(), newExitCodes(),
		newFlows(), newTop(), newTap(), newPause(), newResume(), newStop(), newStart(), newReload(), newPosition())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	arrange(root)
	addCompletions(root)
	explainUsage(root)
	return root
}

// explainUsage has every refusal of arguments and flags name the command, what is near, and where its
// usage is told. Commands that only hold others refuse a name that they have not.
func explainUsage(cmd *cobra.Command) {
	next := func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w\n  usage: %s\n  %s --help says more", err, cmd.UseLine(), cmd.CommandPath()))
	}
	unknown := func(cmd *cobra.Command, name string) error {
		err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), name)
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(name); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return next(cmd, err)
	}
	cmd.SetFlagErrorFunc(next)
	check := cmd.Args
	switch {
	case cmd.Name() == "help":
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
				return unknown(found, rest[0])
			}
			return nil
		}
	case cmd.HasSubCommands():
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(cmd, args[0])
			}
			return cmd.Help()
		}
	case check != nil:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			switch err := check(cmd, args); {
			case err == nil:
				return nil
			case cobra.NoArgs(cmd, args) != nil && err.Error() == cobra.NoArgs(cmd, args).Error():
				return next(cmd, fmt.Errorf("%s takes no arguments, and was given %q", cmd.CommandPath(), args))
			default:
				return next(cmd, fmt.Errorf("%s: %w", cmd.CommandPath(), err))
			}
		}
	}
	for _, c := range cmd.Commands() {
		explainUsage(c)
	}
}

// arrange puts the commands into their groups, in the order of groups, which main has
// cobra keep.
func arrange(root *cobra.Command) {
	commands := root.Commands()
	root.RemoveCommand(commands...)
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for name := range strings.FieldsSeq(g.commands) {
			i := slices.IndexFunc(commands, func(c *cobra.Command) bool { return c.Name() == name })
			if i >= 0 {
				commands[i].GroupID = g.title
				root.AddCommand(commands[i])
				commands = slices.Delete(commands, i, i+1)
			}
		}
	}
	root.AddCommand(commands...)
}

// setColor makes the command write as --color wants it.
func setColor(cmd *cobra.Command, mode string) error {
	stdout, err := present.Colored(cmd.OutOrStdout(), mode)
	if err != nil {
		return usage(err)
	}
	stderr, err := present.Colored(cmd.ErrOrStderr(), mode)
	if err != nil {
		return usage(err)
	}
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.Root().SetErr(stderr) // which shows what the command returns
	return nil
}

// newExitCodes is a topic of the help, not a command.
func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `All commands use the same exit codes:

  0  success: run and the flows that commands start were told to stop, and everything was
     written; what was checked is right
  1  the flow failed, or lint has findings, a check of doctor has failed, a test has
     failed, or what was asked of a running flow was refused
  2  wrong usage, a file that cannot be read, or a flow file that is wrong where it has to
     be right: nothing was started

A process that a second signal ended has the exit status of that signal.`,
	}
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

func isTerminal(w io.Writer) bool { return present.Terminal(w) }

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
		for _, p := range ps {
			fmt.Fprint(w, p.Styled(findingLook(w)))
		}
		return
	}
	fmt.Fprintf(w, "penstock: %v\n", err)
}

// findingLook is how findings look on w.
func findingLook(w io.Writer) config.Look {
	style := present.Style(w)
	return config.Look{Error: style.Red, Warning: style.Yellow, Caret: style.Red, Hint: style.Cyan}
}
