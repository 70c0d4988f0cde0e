package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
)

func newLint() *cobra.Command {
	var set []string
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check flow files; connects to nothing",
		Long: `Lint checks flow files and prints everything that is wrong with them. It connects
to nothing, and uses the same flags and environment variables as run.

Exit codes: 0 all files are right; 1 there are findings; 2 wrong usage, or a file
cannot be read.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return lint(cmd.OutOrStdout(), args, set) },
	}
	cmd.Flags().StringArrayVar(&set, "set", nil, "set a field: path.to.field=value (repeatable)")
	return cmd
}

func lint(w io.Writer, files, set []string) error {
	o, err := loadOptions(set)
	if err != nil {
		return failed(err)
	}
	findings := 0
	for _, file := range files {
		f, err := config.LoadFile(file, o)
		var ps config.Problems
		switch {
		case errors.As(err, &ps):
			findings += ps.Count()
			fmt.Fprint(w, ps.Text())
		case err != nil:
			return usage(err)
		default:
			fmt.Fprint(w, f.Warnings.Text())
			fmt.Fprintf(w, "%s: ok\n", file)
		}
	}
	if findings > 0 {
		noun := "findings"
		if findings == 1 {
			noun = "finding"
		}
		fmt.Fprintf(w, "\n%d %s\n", findings, noun)
		return &exitError{code: exitFailed}
	}
	return nil
}

func newList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the connectors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := all.Registry()
			if err != nil {
				return failed(err)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), config.List(r))
			return failed(err)
		},
	}
}

func newExplain() *cobra.Command {
	return &cobra.Command{
		Use:   "explain NAME...",
		Short: "Describe a connector (kafka, sink.kafka), a section of a flow file (batch), or a field of one (kafka.sasl)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := all.Registry()
			if err != nil {
				return failed(err)
			}
			for _, name := range args {
				text, err := config.Explain(r, name)
				switch {
				case err != nil:
					return failed(err)
				case text == "":
					hint, err := config.Suggest(r, name)
					if err != nil {
						return failed(err)
					}
					if hint == "" {
						hint = "penstock list names the connectors"
					}
					return usage(fmt.Errorf("there is no connector, section or field %q; %s", name, hint))
				}
				fmt.Fprintln(cmd.OutOrStdout(), text+"\n")
			}
			return nil
		},
	}
}

func newSchema() *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of flow files, for editors, or their reference page",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := schema(format)
			if err != nil {
				return err
			}
			if output == "" {
				_, err = io.WriteString(cmd.OutOrStdout(), text)
				return failed(err)
			}
			return failed(writeFile(output, text))
		},
	}
	cmd.Flags().StringVar(&format, "format", "json", "json (JSON Schema) or markdown (reference page)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file")
	return cmd
}

func schema(format string) (string, error) {
	r, err := all.Registry()
	if err != nil {
		return "", failed(err)
	}
	switch format {
	case "json":
		text, err := config.JSONSchema(r)
		return string(text), failed(err)
	case "markdown":
		text, err := config.Reference(r)
		return text, failed(err)
	}
	return "", usage(fmt.Errorf("--format %s: want json or markdown", strings.TrimSpace(format)))
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // documentation is for everybody
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // documentation is for everybody
}
