package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/cases"
	"github.com/penstockdev/penstock/internal/present"
)

func newTest() *cobra.Command {
	var set []string
	cmd := &cobra.Command{
		Use:   "test [FILE|DIR...]",
		Short: "Run the unit tests of flows: records in, rows and dead letters out",
		Long: `Test runs files of cases, and in folders all that end in .test.yaml; default: those
in the working folder. It connects to nothing: what only a table can refuse is not tested.

  flow: orders.yaml                # from the folder of this file
  env: {DATABASE_URL: "postgres://x"}
  cases:
    - name: an order, and one that is none
      records:
        - value: {id: 1, amount: 12.5}
        - value: {id: one}
        - {value_text: "no JSON", key: k, headers: {a: b}, topic: orders, time: 2026-01-31T12:00:00Z}
      rows:
        - {id: 1, amount: 12.5}    # a column that is not named must be null
      dead_letters:
        - {record: 2, class: type, column: id}
        - {record: 3, class: malformed}

A record has one of value (becomes JSON), value_text, value_base64 and value_file; without any
it is a tombstone. A row may say "(route)" and "(tombstone)"; times are texts as in penstock
run --dry-run -o json.

Exit codes: 0 all cases pass; 1 some do not; 2 wrong usage or a wrong file.`,
	}
	format := present.AddFormat(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{"."}
		}
		o, err := loadOptions(set)
		if err != nil {
			return failed(err)
		}
		paths, err := cases.Find(args)
		if err != nil {
			return usage(err)
		}
		results := []cases.Result{}
		wrong := false
		for _, path := range paths {
			r, err := runCases(cmd.Context(), path, o)
			if err != nil { // it does not hide what the other files say
				wrong = true
				printError(cmd.ErrOrStderr(), err)
			}
			results = append(results, r...)
		}
		if format.JSON() {
			err = present.JSON(cmd.OutOrStdout(), results)
		} else {
			err = printResults(cmd.OutOrStdout(), results)
		}
		if err != nil {
			return failed(err)
		}
		if wrong {
			return &exitError{code: exitUsage}
		}
		for _, r := range results {
			if !r.Pass {
				return &exitError{code: exitFailed}
			}
		}
		return nil
	}
	cmd.Flags().StringArrayVar(&set, "set", nil, "set a field of the flow files: path.to.field=value (repeatable)")
	return cmd
}

func runCases(ctx context.Context, path string, o config.Options) ([]cases.Result, error) {
	f, err := cases.Read(path)
	if err != nil {
		return nil, err
	}
	return f.Run(ctx, o)
}

func printResults(w io.Writer, results []cases.Result) error {
	style := present.Style(w)
	passed := 0
	for i := range results {
		r := &results[i]
		if r.Pass {
			passed++
			fmt.Fprintf(w, "%s  %s:%d  %s\n", style.Green("pass"), r.File, r.Line, r.Case)
			continue
		}
		fmt.Fprintf(w, "%s  %s:%d  %s\n", style.Red("FAIL"), r.File, r.Line, r.Case)
		for _, d := range r.Differences {
			fmt.Fprintf(w, "      %s\n        want  %s\n        got   %s\n", d.What, style.Green(d.Want), style.Red(d.Got))
		}
	}
	_, err := fmt.Fprintf(w, "\n%d passed, %d failed\n", passed, len(results)-passed)
	return err
}
