package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/position"
	"github.com/penstockdev/penstock/internal/present"
)

func newPause() *cobra.Command {
	return newSteer("pause", "Let a running flow read nothing more", `Pause stops the reading of a flow. What was read is written. The process stays in its consumer
group and keeps its partitions and connections. It holds until penstock resume.`,
		"is paused: this process reads nothing of it; to go on: penstock resume %s")
}

func newResume() *cobra.Command {
	return newSteer("resume", "Let a paused flow read on", "Resume ends a pause.", "reads on")
}

func newStop() *cobra.Command {
	return newSteer("stop", "Stop one flow of a running penstock", `Stop stops a flow: what was read is written within shutdown.grace, positions are committed, and
partitions and connections are given up. Other processes of its consumer group take
its partitions over. It stays stopped until penstock start, or until the process is
started anew. The process and its other flows go on.`,
		"has stopped; to go on: penstock start %s")
}

func newStart() *cobra.Command {
	return newSteer("start", "Start a flow that was stopped or has failed", "Start starts a flow of a running penstock at its position.", "was started")
}

// newSteer makes a command that tells a flow something. done says of the flow what it is then;
// it may name the flow once more.
func newSteer(what, short, long, done string) *cobra.Command {
	var a adminFlags
	cmd := &cobra.Command{
		Use: what + " FLOW", Short: short,
		Long:              long + "\n\nExit codes: 0 done; 1 no penstock answers, or it refuses; 2 wrong usage.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFlow,
	}
	a.add(cmd)
	output := present.AddFormat(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		f, err := c.Steer(cmd.Context(), args[0], what)
		if err != nil {
			return failed(err)
		}
		if output.JSON() {
			return failed(present.JSON(cmd.OutOrStdout(), f))
		}
		if strings.Contains(done, "%s") {
			done = fmt.Sprintf(done, f.Name)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "flow %s %s\n", f.Name, done)
		return failed(err)
	}
	return cmd
}

func newReload() *cobra.Command {
	var a adminFlags
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Let a running penstock read its flow files again",
		Long: `Reload makes a running penstock read its flow files again, like SIGHUP. A file that is wrong
is refused with its findings, and what ran goes on. A flow that was changed is drained and
goes on at its position. Flows that have failed are started again.

Exit codes: 0 all is as the files want it; 1 a file was refused or a flow failed, or no
penstock answers; 2 wrong usage.`,
		Args: cobra.NoArgs,
	}
	a.add(cmd)
	output := present.AddFormat(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		report, err := c.Reload(cmd.Context())
		if err != nil {
			return failed(err)
		}
		write := writeReload
		if output.JSON() {
			write = func(w io.Writer, r *admin.ReloadReport) error { return present.JSON(w, r) }
		}
		if err := write(cmd.OutOrStdout(), report); err != nil {
			return failed(err)
		}
		if !report.OK {
			return &exitError{code: exitFailed} // the report says why
		}
		return nil
	}
	return cmd
}

func writeReload(w io.Writer, r *admin.ReloadReport) error {
	rows := make([][]string, len(r.Flows))
	for i, f := range r.Flows {
		name := f.Name
		if name == "" {
			name = "-"
		}
		rows[i] = []string{name, f.File, f.Outcome}
	}
	if err := present.Table(w, []string{"FLOW", "FILE", "OUTCOME"}, rows); err != nil {
		return err
	}
	for _, f := range r.Flows {
		if f.Reason == "" {
			continue
		}
		// A reason may be findings with the line of the file and a caret: lines stay.
		fmt.Fprintf(w, "\n%s:\n", f.File)
		for line := range strings.Lines(f.Reason) {
			fmt.Fprintf(w, "  %s\n", present.Line(strings.TrimRight(line, "\n")))
		}
	}
	return nil
}

// positionFlags are those of penstock position.
type positionFlags struct {
	admin adminFlags
	set   []string
	to    string
	yes   bool
}

func newPosition() *cobra.Command {
	var f positionFlags
	cmd := &cobra.Command{
		Use:   "position FLOW|FILE",
		Short: "Show where a flow stands, or set it to another place",
		Long: `Position shows the positions of a flow in all partitions. With --to it says what would
happen if they were set to another place: what is read again, what is skipped, and what that
means for the target. After a yes, or with --yes, it sets them. The flow must be stopped
for that: penstock stop FLOW.

--to takes
  beginning, end
  a time, or a time ago        2026-11-21T07:00:00Z, -2h
  offsets                      orders/0=1200,orders/3=900

With the name of a flow it asks the running penstock. With the path of a flow file it needs
none, and looks at source and target itself; it sets nothing while the flow runs anywhere.

Exit codes: 0 shown or set; 1 refused or failed; 2 wrong usage or a wrong flow file.`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			names, directive := f.admin.completeFlow(cmd, args, start)
			if directive == cobra.ShellCompDirectiveError {
				return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return names, directive
		},
	}
	f.admin.add(cmd)
	output := present.AddFormat(cmd)
	cmd.Flags().StringVar(&f.to, "to", "", "where to: beginning, end, a time, -2h, or topic/partition=offset,…")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "set the positions without asking")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "with a file: set a field of it: path.to.field=value (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.yes && f.to == "" {
			return usage(errors.New("--yes: say where to with --to"))
		}
		var target position.Target
		if f.to != "" {
			var err error
			if target, err = position.ParseTarget(f.to); err != nil {
				return usage(fmt.Errorf("--to: %w", err))
			}
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		p, err := f.positions(cmd, args[0])
		if err != nil {
			return err
		}
		defer p.close()
		if f.to == "" {
			list, err := p.show(ctx)
			switch {
			case err != nil:
				return failed(err)
			case output.JSON():
				return failed(present.JSON(cmd.OutOrStdout(), list))
			}
			return failed(writePositions(cmd.OutOrStdout(), list))
		}
		return movePositions(ctx, cmd, p, target, &f, output.JSON())
	}
	return cmd
}

// positions is where the positions of a flow are: with a running process, or behind a file.
type positions interface {
	show(ctx context.Context) (*admin.PositionList, error)
	// plan says what setting them would do, and apply does what was planned.
	plan(ctx context.Context, to string, target position.Target) (*admin.Plan, error)
	apply(ctx context.Context, p *admin.Plan) (*admin.Plan, error)
	close()
}

func (f *positionFlags) positions(cmd *cobra.Command, arg string) (positions, error) {
	if info, err := os.Stat(arg); err == nil && !info.IsDir() {
		return newFilePositions(cmd.ErrOrStderr(), arg, f.set)
	}
	if strings.ContainsRune(arg, os.PathSeparator) {
		return nil, usage(fmt.Errorf("there is no file %s", arg))
	}
	c, err := f.admin.client()
	if err != nil {
		return nil, err
	}
	return &runningPositions{c, arg}, nil
}

// movePositions says what --to does, asks, and does it.
func movePositions(ctx context.Context, cmd *cobra.Command, p positions, target position.Target, f *positionFlags, asJSON bool) error {
	out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
	plan, err := p.plan(ctx, f.to, target)
	if err != nil {
		return failed(err)
	}
	if !asJSON {
		if err := writePlan(out, plan); err != nil {
			return failed(err)
		}
	}
	yes := f.yes
	if len(plan.Moves) == 0 {
		yes = false
	} else if !yes && !asJSON && present.Terminal(out) {
		if yes, err = ask(ctx, errs, cmd.InOrStdin(), "Set the positions? [y/N] "); err != nil {
			return failed(err)
		}
	}
	if yes {
		if plan, err = p.apply(ctx, plan); err != nil {
			return failed(err)
		}
	}
	switch {
	case asJSON:
		return failed(present.JSON(out, plan))
	case yes:
		fmt.Fprintf(out, "\nthe positions of flow %s are set; to go on from there: penstock start %s\n", plan.Flow, plan.Flow)
	case len(plan.Moves) > 0:
		fmt.Fprintln(errs, "nothing was changed; to do it: the same with --yes")
	}
	return nil
}

// ask returns whether a person has said yes. Ctrl-C is no.
func ask(ctx context.Context, w io.Writer, in io.Reader, question string) (bool, error) {
	if f, ok := in.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return false, nil
	}
	fmt.Fprint(w, question)
	answer := make(chan string, 1)
	go func() { // ends with the process at the latest: a read of a terminal cannot be ended
		line, _ := bufio.NewReader(in).ReadString('\n') // no line is no
		answer <- line
	}()
	select {
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		return false, nil
	}
}

// runningPositions asks a running process.
type runningPositions struct {
	client *admin.Client
	flow   string
}

func (r *runningPositions) show(ctx context.Context) (*admin.PositionList, error) {
	return r.client.Positions(ctx, r.flow)
}

func (r *runningPositions) plan(ctx context.Context, to string, _ position.Target) (*admin.Plan, error) {
	return r.client.SetPositions(ctx, r.flow, &admin.PositionRequest{To: to})
}

// apply asks for the offsets that were shown: a time, or the end, may be another place by now.
func (r *runningPositions) apply(ctx context.Context, p *admin.Plan) (*admin.Plan, error) {
	to := make([]string, len(p.Moves))
	for i, m := range p.Moves {
		to[i] = fmt.Sprintf("%s/%d=%d", m.Topic, m.Partition, m.To)
	}
	return r.client.SetPositions(ctx, r.flow, &admin.PositionRequest{To: strings.Join(to, ","), Apply: true})
}

func (r *runningPositions) close() { r.client.Close() }

func writePositions(w io.Writer, list *admin.PositionList) error {
	rows := make([][]string, len(list.Positions))
	for i := range list.Positions {
		p := &list.Positions[i]
		rows[i] = []string{
			p.Topic, strconv.Itoa(int(p.Partition)), offsetText(p.Offset), offsetText(p.Begin), offsetText(p.End), strconv.FormatInt(p.LagRecords, 10), p.Note,
		}
	}
	return present.Table(w, []string{"TOPIC", "PARTITION", "POSITION", "BEGIN", "END", "LAG", ""}, rows)
}

// offsetText is "-" where there is none yet.
func offsetText(v *int64) string {
	if v == nil {
		return "-"
	}
	return strconv.FormatInt(*v, 10)
}

func writePlan(w io.Writer, p *admin.Plan) error {
	if len(p.Moves) == 0 {
		_, err := fmt.Fprintf(w, "flow %s stands there already: nothing would change\n", p.Flow)
		return err
	}
	rows := make([][]string, len(p.Moves))
	for i := range p.Moves {
		m := &p.Moves[i]
		rows[i] = []string{
			m.Topic, strconv.Itoa(int(m.Partition)), offsetText(m.From), strconv.FormatInt(m.To, 10), strconv.FormatInt(m.Again, 10), strconv.FormatInt(m.Skipped, 10),
		}
	}
	if err := present.Table(w, []string{"TOPIC", "PARTITION", "FROM", "TO", "READ AGAIN", "SKIPPED"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s\n", p.Consequence)
	if len(p.Members) > 0 {
		fmt.Fprintf(w, "It is run by %s.\n", present.Line(strings.Join(p.Members, "; ")))
	}
	return nil
}

// positionsWithin bounds how long a file's source and target are waited for.
const positionsWithin = time.Minute

// filePositions asks source and target of a file.
type filePositions struct {
	file    *config.Flow
	log     *slog.Logger
	planned *position.Plan
}

func newFilePositions(stderr io.Writer, path string, set []string) (*filePositions, error) {
	log, err := (&logFlags{format: "auto", level: "warn"}).logger(stderr)
	if err != nil {
		return nil, failed(err)
	}
	file, err := load(path, set, log)
	if err != nil {
		return nil, err
	}
	return &filePositions{file: file, log: log}, nil
}

func (f *filePositions) show(ctx context.Context) (*admin.PositionList, error) {
	cfg, err := f.file.Build(f.log, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, positionsWithin)
	defer cancel()
	ps, err := position.Show(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return admin.PositionsOf(f.file.Name, ps), nil
}

func (f *filePositions) plan(ctx context.Context, _ string, target position.Target) (*admin.Plan, error) {
	cfg, err := f.file.Build(f.log, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, positionsWithin)
	defer cancel()
	if f.planned, err = position.Make(ctx, cfg, f.file.Writings(), target); err != nil {
		return nil, err
	}
	return admin.PlanOf(f.planned, false), nil
}

func (f *filePositions) apply(ctx context.Context, _ *admin.Plan) (*admin.Plan, error) {
	cfg, err := f.file.Build(f.log, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, positionsWithin)
	defer cancel()
	if err := position.Apply(ctx, cfg, f.planned); err != nil {
		return nil, err
	}
	return admin.PlanOf(f.planned, true), nil
}

func (*filePositions) close() {}
