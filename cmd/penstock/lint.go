package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/doctor"
	"github.com/penstockdev/penstock/internal/present"
)

// formatGitHub are the workflow commands of GitHub Actions: findings appear beside the
// lines of a pull request.
const formatGitHub present.Format = "github"

type lintFlags struct {
	set      []string
	services bool
	strict   bool
	timeout  time.Duration
	format   *present.Format
}

func newLint() *cobra.Command {
	var f lintFlags
	cmd := &cobra.Command{
		Use:   "lint FILE|DIR...",
		Short: "Check flow files, and with --services what they need",
		Long: `Lint checks flow files, all of them in one pass, and prints everything that is wrong
with them: the place, the line, what is allowed there, and what was probably meant. Of
a folder it checks *.yaml and *.yml, without those in folders below it. It also finds
flows that cannot live beside each other: one name for two, one consumer group for two, the
same records twice into one table.

Flags and environment variables that set fields hold as they do for run.

Without --services it connects to nothing. With it, the connectors look at their
services: whether they can be reached, topics, tables, columns, types, rights. Nothing is
created or changed.

Warnings do not fail, unless --strict is given. -o github prints the workflow commands of
GitHub Actions, which show findings in a pull request.

Exit codes: 0 no errors; 1 there are findings; 2 wrong usage, or a file cannot be read.`,
		Example: `  penstock lint flows/
  penstock lint flow.yaml --services
  penstock lint flows/ -o json | jq '.findings[] | select(.severity == "error")'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return lint(cmd.Context(), cmd.OutOrStdout(), args, &f)
		},
	}
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "set a field in every file: path.to.field=value (repeatable)")
	cmd.Flags().BoolVar(&f.services, "services", false, "connect, and check topics, tables, columns, types and rights")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "warnings fail, too")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 20*time.Second, "with --services: how long to wait for the services of a flow")
	f.format = present.AddFormat(cmd, formatGitHub)
	return cmd
}

// lintReport is the JSON form.
type lintReport struct {
	Files    []string        `json:"files"`
	Findings config.Problems `json:"findings"`
	Errors   int             `json:"errors"`
	Warnings int             `json:"warnings"`
}

func lint(ctx context.Context, w io.Writer, paths []string, f *lintFlags) error {
	linted, err := lintFiles(paths, f.set)
	if err != nil {
		return err
	}
	if f.services {
		// Not before: a signal ends the reading of files at once.
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		slog.SetDefault(slog.New(slog.DiscardHandler)) // what clients log is in the findings
		addServices(ctx, linted, f.timeout)
	}
	unreadable := false
	report := lintReport{Files: []string{}, Findings: config.Problems{}}
	for _, l := range linted {
		report.Files = append(report.Files, l.Path)
		for _, p := range l.Findings {
			if p.Allowed == nil {
				p.Allowed = []string{}
			}
			report.Findings = append(report.Findings, p)
			if p.Severity == config.SeverityWarning {
				report.Warnings++
			}
			unreadable = unreadable || p.Rule == config.RuleUnreadable
		}
	}
	report.Errors = report.Findings.Count() - report.Warnings
	switch *f.format {
	case present.FormatJSON:
		err = present.JSON(w, report)
	case formatGitHub:
		err = printWorkflow(w, report.Findings)
	default:
		err = printFindings(w, linted, &report)
	}
	switch {
	case err != nil:
		return failed(err)
	case unreadable:
		return &exitError{code: exitUsage}
	case report.Errors > 0 || f.strict && report.Warnings > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

func lintFiles(paths, set []string) ([]*config.Linted, error) {
	o, err := loadOptions(set)
	if err != nil {
		return nil, failed(err)
	}
	linted, err := config.Lint(paths, o)
	return linted, failed(err)
}

// addServices adds what the services say to the findings of the files that are right.
func addServices(ctx context.Context, linted []*config.Linted, timeout time.Duration) {
	var files []doctor.File
	var of []*config.Linted
	for _, l := range linted {
		if l.Flow != nil {
			files, of = append(files, doctor.File{Path: l.Path, Flow: l.Flow}), append(of, l)
		}
	}
	for i, r := range doctor.Services(ctx, files, timeout) {
		of[i].Findings = append(of[i].Findings, r.Findings()...)
		of[i].Findings.Sort()
	}
}

func printFindings(w io.Writer, linted []*config.Linted, report *lintReport) error {
	style := present.Style(w)
	var b strings.Builder
	for _, l := range linted {
		for _, p := range l.Findings {
			b.WriteString(p.Styled(findingLook(w)))
		}
		if !slices.ContainsFunc(l.Findings, isError) {
			b.WriteString(present.Line(l.Path) + ": " + style.Green("ok") + "\n")
		}
	}
	switch {
	case report.Warnings > 0:
		b.WriteString("\n" + counted(report.Errors, "finding") + ", " + counted(report.Warnings, "warning") + "\n")
	case report.Errors > 0:
		b.WriteString("\n" + counted(report.Errors, "finding") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func isError(p *config.Problem) bool { return p.Severity == config.SeverityError }

// printWorkflow writes a workflow command for each finding.
func printWorkflow(w io.Writer, findings config.Problems) error {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	var b strings.Builder
	for _, p := range findings {
		text := p.Message
		if p.Hint != "" {
			text += "\n" + p.Hint
		}
		if p.Line == 0 {
			fmt.Fprintf(&b, "::%s title=%s::%s\n", p.Severity, p.Rule, data.Replace(p.File+": "+text))
			continue
		}
		fmt.Fprintf(&b, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", p.Severity, property.Replace(p.File), p.Line, p.Column, p.Rule, data.Replace(text))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
