package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/dlq"
	"github.com/penstockdev/penstock/internal/expr"
	"github.com/penstockdev/penstock/internal/present"
)

const dlqFilters = `
Which letters is said by filters; all that are given must hold. IDs are topic/partition/offset of
the record that failed. --where is an expression in CEL over topic, partition, offset, time,
key, value (parsed JSON), headers, class, column and message:

  --where 'value.amount > 100 && headers["tenant"] == "acme"'
`

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Dead letters of a flow: list, show, redrive, drop",
		Long: `Dead letters are the records that a flow could not decode or write, kept whole with the
reason: in the table or the topic that the flow file says.

  penstock dlq list orders.yaml                        what has failed, by class
  penstock dlq show orders.yaml orders/3/1042          one of them, whole
  penstock dlq redrive orders.yaml --class type --yes  through the flow again
  penstock dlq drop orders.yaml --class malformed      what would be lost`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQList(), newDLQShow(), newDLQRedrive(), newDLQDrop())
	return cmd
}

// dlqArgs wants a flow file, and then ids.
func dlqArgs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which flow? Its file comes first")
	}
	return nil
}

// dlqFlags are those of every command.
type dlqFlags struct {
	logs                                          logFlags
	set                                           []string
	classes                                       []string
	since, until, topic, key, text, column, where string
	limit                                         int
	format                                        *present.Format
}

func (f *dlqFlags) add(cmd *cobra.Command) {
	f.logs.add(cmd)
	f.logs.level = "error"
	cmd.Flags().Lookup("log-level").DefValue = f.logs.level
	fl := cmd.Flags()
	fl.StringArrayVar(&f.set, "set", nil, "set a field: path.to.field=value (repeatable)")
	fl.StringSliceVar(&f.classes, "class", nil, "class of the failure: malformed, type, range, … (repeatable, or with commas)")
	fl.StringVar(&f.since, "since", "", "became a dead letter since: a time (RFC 3339, a date) or how long ago (2h, 3d)")
	fl.StringVar(&f.until, "until", "", "became a dead letter before: a time, or how long ago")
	fl.StringVar(&f.topic, "topic", "", "topic of the record")
	fl.StringVar(&f.key, "key", "", "key of the record")
	fl.StringVar(&f.text, "text", "", "text that is in the value or in the message")
	fl.StringVar(&f.column, "column", "", "column at fault")
	fl.StringVar(&f.where, "where", "", "expression in CEL that is true")
	fl.IntVar(&f.limit, "limit", 0, "letters at most; 0: all")
	f.format = present.AddFormat(cmd)
}

// filter makes the filter. What identifies it are the flags as they were given: a relative time
// stays the same command tomorrow.
func (f *dlqFlags) filter(cmd *cobra.Command, ids []string) (dlq.Filter, error) {
	out := dlq.Filter{Classes: f.classes, Topic: f.topic, Key: f.key, Text: f.text, Column: f.column, Limit: f.limit}
	said := strings.Join(ids, " ")
	var empty error
	cmd.Flags().Visit(func(g *pflag.Flag) {
		switch g.Name {
		case "class", "since", "until", "topic", "key", "text", "column", "where", "limit":
			said += fmt.Sprintf(" --%s=%q", g.Name, g.Value)
			// A variable of the shell that is not set must not mean all letters.
			if v := g.Value.String(); v == "" || v == "[]" {
				empty = usage(fmt.Errorf("--%s is empty: give it a value, or leave it out, which means any", g.Name))
			}
		}
	})
	if out.Said = said; empty != nil {
		return out, empty
	}
	for _, s := range ids {
		id, err := dlq.ParseID(s)
		if err != nil {
			return out, usage(err)
		}
		out.IDs = append(out.IDs, id)
	}
	now := time.Now()
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--since", f.since, &out.Since}, {"--until", f.until, &out.Until}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = dlq.ParseTime(t.text, now); err != nil {
			return out, usage(fmt.Errorf("%s: %w", t.flag, err))
		}
	}
	if f.limit < 0 {
		return out, usage(fmt.Errorf("--limit %d: want a number of letters, or 0 for all", f.limit))
	}
	if f.where != "" {
		var err error
		if out.Where, err = expr.NewFilter(f.where); err != nil {
			return out, usage(fmt.Errorf("--where: %w", err))
		}
	}
	return out, nil
}

// with runs fn with the dead letters of the flow file.
func (f *dlqFlags) with(cmd *cobra.Command, path string, fn func(context.Context, *dlq.Queue, *config.Flow) error) error {
	log, err := f.logs.logger(cmd.ErrOrStderr())
	if err != nil {
		return usage(err)
	}
	file, err := load(path, f.set, log)
	if err != nil {
		return err
	}
	q, err := dlq.New(func() (flow.Config, error) { return file.Build(log, nil) })
	if err != nil {
		return usage(err)
	}
	err = fn(cmd.Context(), q, file)
	closed := q.Close(context.WithoutCancel(cmd.Context()))
	if err == nil {
		err = failed(closed)
	}
	return err
}

// saySkipped says how many letters an expression could not be evaluated for.
func saySkipped(w io.Writer, f *dlq.Filter) {
	if f.Where == nil {
		return
	}
	if n, first := f.Where.Failures(); n > 0 {
		fmt.Fprintf(w, "penstock: --where could not be evaluated for %d letters, which do not match; the first: %s\n", n, present.Line(first.Error()))
	}
}

func newDLQList() *cobra.Command {
	var (
		f       dlqFlags
		letters bool
		most    int
	)
	cmd := &cobra.Command{
		Use:   "list FILE [ID...]",
		Short: "What has failed, by class, topic and column; unfinished jobs; what is quarantined",
		Long: `List counts the dead letters of a flow by class, topic and column, with the times of the first and the
last, and one of them as an example. With --letters it lists them, 100 unless --limit says
more; with -o json that is one letter per line, whole.
` + dlqFilters + `
Exit codes: 0 listed; 1 the letters cannot be read; 2 wrong usage or a wrong flow file.`,
		Args: dlqArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, args[1:])
			if err != nil {
				return err
			}
			return f.with(cmd, args[0], func(ctx context.Context, q *dlq.Queue, _ *config.Flow) error {
				out := cmd.OutOrStdout()
				defer saySkipped(cmd.ErrOrStderr(), &filter)
				if letters {
					return failed(listLetters(ctx, out, cmd.ErrOrStderr(), q, filter, f.format.JSON()))
				}
				s, err := q.Summary(ctx, &filter, most)
				if err != nil {
					return failed(err)
				}
				if f.format.JSON() {
					return failed(present.JSON(out, s))
				}
				return failed(s.Table(out))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&letters, "letters", false, "list the letters themselves")
	cmd.Flags().IntVar(&most, "max-redrives", dlq.DefaultMaxRedrives, "letters that were redriven so often count as quarantined")
	return cmd
}

func listLetters(ctx context.Context, out, stderr io.Writer, q *dlq.Queue, filter dlq.Filter, asJSON bool) error {
	if asJSON {
		return q.Each(ctx, &filter, func(l *flow.Letter) error { return dlq.WriteLetter(out, l) })
	}
	limit := filter.Limit
	if limit == 0 {
		limit = 100
		filter.Limit = limit + 1
	}
	var views []dlq.View
	if err := q.Each(ctx, &filter, func(l *flow.Letter) error { views = append(views, dlq.ViewOf(l)); return nil }); err != nil {
		return err
	}
	if err := dlq.LettersTable(out, views[:min(len(views), limit)]); err != nil {
		return err
	}
	if len(views) > limit {
		fmt.Fprintf(stderr, "penstock: there are more than %d letters: --limit shows more of them, filters fewer\n", limit)
	}
	return nil
}

func newDLQShow() *cobra.Command {
	var f dlqFlags
	cmd := &cobra.Command{
		Use:   "show FILE [ID...]",
		Short: "Whole letters: key, value, headers, the error, where they come from",
		Long: `Show writes letters whole, JSON values indented; at most 10 unless IDs or --limit say more. With -o json that is one letter per line,
with its bytes as they are (base64 where they are no text).
` + dlqFilters + `
Exit codes: 0 shown; 1 there is no such letter, or it cannot be read; 2 wrong usage or a wrong flow file.`,
		Args: dlqArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, args[1:])
			if err != nil {
				return err
			}
			if filter.Limit == 0 && len(filter.IDs) == 0 {
				filter.Limit = 10
			}
			return f.with(cmd, args[0], func(ctx context.Context, q *dlq.Queue, _ *config.Flow) error {
				defer saySkipped(cmd.ErrOrStderr(), &filter)
				shown := 0
				err := q.Each(ctx, &filter, func(l *flow.Letter) error {
					shown++
					if f.format.JSON() {
						return dlq.WriteLetter(cmd.OutOrStdout(), l)
					}
					v := dlq.ViewOf(l)
					return v.Show(cmd.OutOrStdout())
				})
				if err == nil && shown == 0 {
					err = fmt.Errorf("flow %s has no such dead letter in %s: it was redriven or dropped, or there never was one; penstock dlq list %s --letters lists those that there are",
						q.Flow(), q.Place(), args[0])
				}
				return failed(err)
			})
		},
	}
	f.add(cmd)
	return cmd
}

type redriveFlags struct {
	dlqFlags
	edits        []string
	rate         string
	max, preview int
	yes, release bool
}

func newDLQRedrive() *cobra.Command {
	var f redriveFlags
	cmd := &cobra.Command{
		Use:   "redrive FILE [ID...]",
		Short: "Send dead letters through the flow again",
		Long: `Redrive sends letters through the decoder and into the sink of the flow, exactly once where
the flow is, and says first which and how many. It does nothing without --yes, or a yes on a
terminal. The flow itself may run meanwhile. What fails again is a dead letter again, with
its new reason; what was redriven --max-redrives times is quarantined: left where it is.

Interrupted or killed, the same command goes on where it was. Until it has come to its end, other
redrives and drops of the flow are refused; --release gives up what is not done yet.

--edit changes the JSON value of each letter before it is decoded: path=expression, with the same
variables as --where. The letter keeps its value if it fails again.

  --edit 'amount=double(value.amount)'  --edit 'old=optional.none()'  --edit '.=value.replace("NaN", "null")'
` + dlqFilters + `
Exit codes: 0 done, or nothing to do, or only looked; 1 it failed, was interrupted, or another job is unfinished;
2 wrong usage or a wrong flow file.`,
		Args: dlqArgs,
		RunE: f.run,
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.edits, "edit", nil, "change the value: path=expression (repeatable, in order)")
	fl.StringVar(&f.rate, "rate", "", "letters per second at most, like 500/s; default: as many as the target takes")
	fl.IntVar(&f.max, "max-redrives", dlq.DefaultMaxRedrives, "leave letters that were redriven so often")
	fl.IntVar(&f.preview, "dry-run", 0, "show what the first letters would become (10, or --dry-run=N); write nothing")
	fl.Lookup("dry-run").NoOptDefVal = "10"
	fl.BoolVarP(&f.yes, "yes", "y", false, "do it")
	fl.BoolVar(&f.release, "release", false, "end an unfinished redrive: what is done stays, the other letters are open again")
	return cmd
}

// dlqReport is the output of redrive and drop as JSON.
type dlqReport struct {
	Plan    *dlq.Plan   `json:"plan,omitempty"`
	Preview []dlq.Fate  `json:"preview,omitempty"`
	Result  *dlq.Result `json:"result,omitempty"`
}

func (f *redriveFlags) run(cmd *cobra.Command, args []string) error {
	filter, err := f.filter(cmd, args[1:])
	if err != nil {
		return err
	}
	o := dlq.Options{Filter: filter, Edits: f.edits, MaxRedrives: f.max, Samples: f.preview}
	if o.Rate, err = parseRate(f.rate); err != nil {
		return usage(err)
	}
	switch {
	case f.max < 1:
		return usage(fmt.Errorf("--max-redrives %d: want 1 or more", f.max))
	case f.preview < 0 || f.preview > 10_000:
		return usage(fmt.Errorf("--dry-run=%d: want 1 to 10000 letters", f.preview))
	}
	if _, err := expr.NewEdit(f.edits); err != nil {
		return usage(err)
	}
	out, stderr := cmd.OutOrStdout(), cmd.ErrOrStderr()
	return f.with(cmd, args[0], func(ctx context.Context, q *dlq.Queue, file *config.Flow) error {
		if f.release {
			return releaseJob(ctx, out, q, dlq.KindRedrive, f.format.JSON())
		}
		var report dlqReport
		p, err := q.PlanRedrive(ctx, o)
		if err != nil {
			return failed(err)
		}
		report.Plan = p
		saySkipped(stderr, &filter)
		if !f.format.JSON() {
			if err := p.Table(out); err != nil {
				return failed(err)
			}
		}
		if f.preview > 0 && p.Letters > 0 {
			if report.Preview, err = q.Preview(ctx, p, file.Writings()); err != nil {
				return failed(err)
			}
			if f.format.JSON() {
				return failed(present.JSON(out, report))
			}
			fmt.Fprintln(out)
			if err := dlq.PreviewTable(out, report.Preview); err != nil {
				return failed(err)
			}
			_, err = fmt.Fprintln(out, "\nNothing was written. What only the table can refuse is not foreseen.")
			return failed(err)
		}
		if p.Letters > 0 && agreed(cmd, f.yes, f.format.JSON(), fmt.Sprintf("Redrive %d letters?", p.Letters)) {
			setMemory()
			said := newProgressLine(stderr)
			// Until now a signal could end the process: nothing had been changed.
			working, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
			context.AfterFunc(working, stop) // the next one does
			report.Result, err = q.Redrive(working, p, func(p dlq.Progress) { said.say(p.Text()) })
			stop()
			said.end()
			if err != nil {
				return failed(err)
			}
		}
		if err := report.write(out, f.format.JSON(), p.Quarantined+p.NotEdited); err != nil || report.Result == nil {
			return failed(err)
		}
		if r := report.Result; r.Left > 0 {
			return failed(fmt.Errorf("interrupted: job %s has %d letters left, and the same command goes on with them", r.Job, r.Left))
		}
		return nil
	})
}

// write writes the report's end: its plan was written if it is a table.
func (r *dlqReport) write(w io.Writer, asJSON bool, skipped int) error {
	switch {
	case asJSON:
		return present.JSON(w, r)
	case r.Result != nil:
		fmt.Fprintln(w)
		return r.Result.Table(w, skipped)
	case r.Plan.Letters > 0:
		_, err := fmt.Fprintln(w, "\nNothing was done: --yes does it.")
		return err
	}
	return nil
}

func releaseJob(ctx context.Context, out io.Writer, q *dlq.Queue, k dlq.Kind, asJSON bool) error {
	r, err := q.Release(ctx, k)
	switch {
	case err != nil:
		return failed(err)
	case asJSON:
		return failed(present.JSON(out, dlqReport{Result: r}))
	case r == nil:
		_, err = fmt.Fprintf(out, "flow %s has no unfinished %s\n", q.Flow(), k)
		return failed(err)
	}
	return failed(r.Table(out, 0))
}

func newDLQDrop() *cobra.Command {
	var (
		f            dlqFlags
		export       string
		yes, release bool
	)
	cmd := &cobra.Command{
		Use:   "drop FILE [ID...]",
		Short: "Remove dead letters for good",
		Long: `Drop says which letters would be lost, and removes them with --yes, or a yes on a terminal. With --export it
writes them to a file first, one whole letter per line as JSON; if that fails nothing is dropped.
` + dlqFilters + `
Exit codes: 0 dropped, or nothing to do, or only looked; 1 it failed, or another job is unfinished; 2 wrong
usage or a wrong flow file.`,
		Args: dlqArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, args[1:])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			return f.with(cmd, args[0], func(ctx context.Context, q *dlq.Queue, _ *config.Flow) error {
				if release {
					return releaseJob(ctx, out, q, dlq.KindDrop, f.format.JSON())
				}
				p, err := q.PlanDrop(ctx, dlq.Options{Filter: filter})
				if err != nil {
					return failed(err)
				}
				report := dlqReport{Plan: p}
				saySkipped(cmd.ErrOrStderr(), &filter)
				if !f.format.JSON() {
					if err := p.Table(out); err != nil {
						return failed(err)
					}
				}
				if p.Letters > 0 && agreed(cmd, yes, f.format.JSON(), fmt.Sprintf("Drop %d letters for good?", p.Letters)) {
					if report.Result, err = drop(ctx, q, p, export); err != nil {
						return failed(err)
					}
				}
				return failed(report.write(out, f.format.JSON(), 0))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&export, "export", "", "file to write the letters to before they are dropped; it must not exist yet")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do it")
	cmd.Flags().BoolVar(&release, "release", false, "end an unfinished drop: its letters are open again")
	return cmd
}

// drop drops the letters of the plan. The file of an export is there if and only if it is whole, because what a
// process that was killed has removed already cannot be exported once more.
func drop(ctx context.Context, q *dlq.Queue, p *dlq.Plan, export string) (*dlq.Result, error) {
	if export == "" {
		return q.Drop(ctx, p, nil, nil)
	}
	switch whole, err := exported(export, p.Job); {
	case err != nil:
		return nil, fmt.Errorf("--export: %w", err)
	case whole:
		return q.Drop(ctx, p, nil, nil)
	}
	part := export + ".part"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--export: %w", err)
	}
	w := bufio.NewWriter(file)
	r, err := q.Drop(ctx, p, w, func() error {
		if err := errors.Join(w.Flush(), file.Sync()); err != nil {
			return err
		}
		if err := os.Rename(part, export); err != nil {
			return err
		}
		dir, err := os.Open(filepath.Dir(export))
		if err != nil {
			return err
		}
		return errors.Join(dir.Sync(), dir.Close())
	})
	return r, errors.Join(err, file.Close())
}

// exported says whether the file is the export of the job; another file is an error, and none is not.
func exported(path, job string) (bool, error) {
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	defer func() { _ = file.Close() }()
	var first dlq.View
	if job == "" || json.NewDecoder(file).Decode(&first) != nil || first.Job != job {
		return false, fmt.Errorf("%s exists already, and is not written over: name another file", path)
	}
	return true, nil
}

// agreed says whether to go ahead: by --yes, or by a person who is asked.
func agreed(cmd *cobra.Command, yes, asJSON bool, question string) bool {
	in, ok := cmd.InOrStdin().(*os.File)
	if yes || asJSON || !ok || !isTerminal(in) || !isTerminal(cmd.ErrOrStderr()) {
		return yes
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "\n%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return err == nil && (answer == "y" || answer == "yes")
}

// parseRate reads 500, 500/s, 100/m.
func parseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(number, 64)
	per, ok := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	if err != nil || !ok || !(n > 0) {
		return 0, fmt.Errorf("--rate %s: want a number of letters per second, minute or hour, like 500/s or 100/m", s)
	}
	return n / per, nil
}

// progressLine is one line on a terminal that changes; elsewhere a line now and then.
type progressLine struct {
	w        io.Writer
	terminal bool
	last     time.Time
	text     string
}

func newProgressLine(w io.Writer) *progressLine {
	return &progressLine{w: w, terminal: isTerminal(w), last: time.Now()}
}

func (p *progressLine) say(text string) {
	every := 5 * time.Second
	if p.terminal {
		every = 100 * time.Millisecond
	}
	p.text = text
	now := time.Now()
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.w, text)
}

func (p *progressLine) end() {
	switch {
	case p.text == "":
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%s\n", p.text)
	default:
		fmt.Fprintln(p.w, p.text)
	}
}
