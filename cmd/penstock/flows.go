package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/present"
)

// adminFlags say which running process a command talks to.
type adminFlags struct{ address, tokenFile, ca, cert, key string }

func (a *adminFlags) add(cmd *cobra.Command) {
	address := os.Getenv("PENSTOCK_ADMIN")
	if address == "" {
		address = config.DefaultAdminAddress
	}
	f := cmd.Flags()
	f.StringVar(&a.address, "admin", address, "host:port or URL of the running penstock (or PENSTOCK_ADMIN)")
	// The names by which a process gets its own token: within its container they are set.
	f.StringVar(&a.tokenFile, "token-file", os.Getenv("PENSTOCK_ADMIN_TOKEN_FILE"), "file with its token (or PENSTOCK_ADMIN_TOKEN_FILE, or PENSTOCK_ADMIN_TOKEN with the token)")
	f.StringVar(&a.ca, "ca", "", "file with the certificates that sign its certificate (PEM)")
	f.StringVar(&a.cert, "cert", "", "file with the certificate to show it (PEM)")
	f.StringVar(&a.key, "key", "", "file with the key of --cert (PEM)")
}

func (a *adminFlags) client() (*admin.Client, error) {
	c, err := admin.NewClient(admin.Target{
		Address: a.address, TokenFile: a.tokenFile, Token: os.Getenv("PENSTOCK_ADMIN_TOKEN"),
		CA: a.ca, Cert: a.cert, Key: a.key, Version: versionText(),
	})
	return c, usage(err)
}

// completeFlow completes the first argument with the flows that run.
func (a *adminFlags) completeFlow(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer c.Close()
	list, err := c.Flows(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, len(list.Flows))
	for i := range list.Flows {
		names[i] = cobra.CompletionWithDesc(list.Flows[i].Name, list.Flows[i].State)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newFlows() *cobra.Command {
	var a adminFlags
	cmd := &cobra.Command{
		Use:   "flows [FLOW]",
		Short: "Show the flows of a running penstock, or one with its lanes and partitions",
		Long: `Flows shows what the flows of a running penstock do: records per second, lag in records
and in seconds, dead letters, how long a batch takes to be written (median and 99th
percentile), all of the last 10 seconds; and, below, what is wrong and what to do.
With the name of a flow it shows its lanes and partitions, too.

Exit codes: 0 shown; 1 no penstock answers, or it refuses; 2 wrong usage.`,
		Args:              cobra.MaximumNArgs(1),
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
		if len(args) == 1 {
			f, err := c.Flow(cmd.Context(), args[0])
			if err != nil {
				return failed(err)
			}
			if output.JSON() {
				return failed(present.JSON(cmd.OutOrStdout(), f))
			}
			return failed(writeFlow(cmd.OutOrStdout(), f, f.Recent, time.Now()))
		}
		list, err := c.Flows(cmd.Context())
		if err != nil {
			return failed(err)
		}
		if output.JSON() {
			return failed(present.JSON(cmd.OutOrStdout(), list))
		}
		return failed(writeFlows(cmd.OutOrStdout(), list))
	}
	return cmd
}

var flowHeader = []string{"FLOW", "STATE", "RECORDS/S", "LAG", "TREND", "BEHIND", "DEAD", "COMMIT P50", "P99", "SINCE"}

// stateColumn is where flowHeader has the state.
const stateColumn = 1

// flowRow is a flow in a table of flows.
func flowRow(f *admin.Flow, r admin.Rates, now time.Time) []string {
	lag, tends, behind := lagTexts(f, r)
	return []string{
		f.Name, f.State, rate(r.Records, r.Seconds), lag, tends, behind, count(float64(f.DeadLetters)), quantile(r.CommitP50), quantile(r.CommitP99), age(now.Sub(f.Since)),
	}
}

// lagTexts are how far the flow is behind, and whether that grows. A flow that has no partitions does not look
// at them: it is not known, and not none.
func lagTexts(f *admin.Flow, r admin.Rates) (lag, tends, behind string) {
	if f.LagRecords == 0 && (f.State == "stopped" || f.State == "starting") {
		return "-", "-", "-"
	}
	return count(float64(f.LagRecords)), trend(f.LagRecords, r), seconds(f.LagSeconds)
}

// paintState colours the states of a table of flows: red for what needs a person.
func paintState(w io.Writer, flows []admin.Flow) present.Paint {
	style := present.Style(w)
	return func(row, column int, cell string) string {
		switch {
		case row < 0:
			return style.Dim(cell)
		case column == stateColumn && row < len(flows):
			return stateStyle(style, &flows[row])(cell)
		}
		return cell
	}
}

func stateStyle(style present.Styles, f *admin.Flow) func(string) string {
	switch {
	case f.State == "retrying", f.State == "waiting", f.State == "stopped" && !f.Stopped:
		return style.Red
	case f.State == "running" && f.Ready:
		return style.Green
	}
	return style.Yellow
}

func writeFlows(w io.Writer, list *admin.FlowList) error {
	if len(list.Flows) == 0 {
		_, err := fmt.Fprintln(w, "no flows")
		return err
	}
	rows := make([][]string, len(list.Flows))
	for i := range list.Flows {
		rows[i] = flowRow(&list.Flows[i], list.Flows[i].Recent, list.Time)
	}
	if err := present.Table(w, flowHeader, rows, paintState(w, list.Flows)); err != nil {
		return err
	}
	for i := range list.Flows {
		if text := advice(&list.Flows[i]); text != "" {
			if _, err := fmt.Fprintf(w, "\n%s: %s\n", list.Flows[i].Name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// advice says what is wrong with a flow and what to do; nothing where all is well.
func advice(f *admin.Flow) string {
	var lines []string
	if f.Error != "" {
		lines = append(lines, present.Line(f.Error))
	} else if !f.Ready {
		lines = append(lines, present.Line(f.Reason))
	}
	switch {
	case f.State == "starting" && !f.Ready:
		lines = append(lines, "if it stays so, what is wrong with its services: penstock doctor "+f.File)
	case f.State == "retrying":
		lines = append(lines, "it is tried again by itself; what is wrong with its services: penstock doctor "+f.File)
	case f.State == "waiting":
		lines = append(lines, "where it stands: penstock position "+f.Name+"; to go on elsewhere: penstock stop, penstock position --to, penstock start")
	case f.State == "stopped" && f.Stopped:
		lines = append(lines, "a person has stopped it; to go on: penstock start "+f.Name)
	case f.State == "stopped":
		lines = append(lines, "when the cause is mended: penstock start "+f.Name)
	case f.State == "paused":
		lines = append(lines, "a person has paused it; to go on: penstock resume "+f.Name)
	}
	if f.ReloadError != "" {
		lines = append(lines, "the newest version of "+f.File+" was refused, and the one before it runs: "+present.Line(f.ReloadError))
	}
	return strings.Join(lines, "\n  ")
}

// writeFlow shows one flow with all that is known of it.
func writeFlow(w io.Writer, f *admin.Flow, r admin.Rates, now time.Time) error {
	style := present.Style(w)
	fmt.Fprintf(w, "%s  %s, started %s ago  %s to %s  %s\n", style.Bold(f.Name), stateStyle(style, f)(f.State), age(now.Sub(f.Since)), f.Source, f.Sink, present.Line(f.File))
	lag, tends, behind := lagTexts(f, r)
	fmt.Fprintf(w, "records/s %s   bytes/s %s   commit p50 %s p99 %s   lag %s (%s)   behind %s   buffered %s\n",
		rate(r.Records, r.Seconds), rate(r.Bytes, r.Seconds), quantile(r.CommitP50), quantile(r.CommitP99),
		lag, tends, behind, count(float64(f.BufferedBytes)))
	fmt.Fprintf(w, "records %d   rows %d   dead letters %d%s   batches %d   retries %d   fenced %d   rebalances %d   restarts %d\n",
		f.Records, f.Rows, f.DeadLetters, classes(f.DeadByClass), f.Batches, f.Retries, f.Fenced, f.Rebalances, f.Restarts)
	if text := advice(f); text != "" {
		fmt.Fprintln(w, style.Yellow(text))
	}
	dim := func(row, _ int, cell string) string {
		if row < 0 {
			return style.Dim(cell)
		}
		return cell
	}
	if len(f.Lanes) > 0 {
		fmt.Fprintln(w)
		if err := present.Table(w, laneHeader, laneRows(f.Lanes), dim); err != nil {
			return err
		}
	}
	if len(f.Partitions) > 0 {
		fmt.Fprintln(w)
		return present.Table(w, partitionHeader, partitionRows(f.Partitions, now), dim)
	}
	return nil
}

var laneHeader = []string{"LANE", "PARTITIONS", "RECORDS", "BYTES", "WRITING", "FAILED", "ERROR"}

func laneRows(lanes []admin.Lane) [][]string {
	rows := make([][]string, len(lanes))
	for i := range lanes {
		l := &lanes[i]
		writing := "-"
		if l.Writing {
			writing = seconds(l.WritingSeconds)
		}
		rows[i] = []string{
			strconv.Itoa(l.Lane), strconv.Itoa(l.Partitions), count(float64(l.Records)), count(float64(l.BufferedBytes)),
			writing, strconv.Itoa(l.FailedAttempts), l.Error,
		}
	}
	return rows
}

var partitionHeader = []string{"TOPIC", "PARTITION", "LANE", "POSITION", "END", "LAG", "BEHIND", "COMMITTED"}

// partitionRows has the furthest behind first.
func partitionRows(ps []admin.Partition, now time.Time) [][]string {
	ps = slices.Clone(ps)
	slices.SortStableFunc(ps, func(a, b admin.Partition) int { return int(b.LagRecords - a.LagRecords) })
	rows := make([][]string, len(ps))
	for i := range ps {
		p := &ps[i]
		committed := "-"
		if p.Updated != nil {
			committed = age(now.Sub(*p.Updated)) + " ago"
		}
		rows[i] = []string{
			p.Topic, strconv.Itoa(int(p.Partition)), strconv.Itoa(p.Lane), strconv.FormatInt(p.Position, 10), strconv.FormatInt(p.End, 10),
			strconv.FormatInt(p.LagRecords, 10), seconds(p.LagSeconds), committed,
		}
	}
	return rows
}

func classes(dead map[string]int64) string {
	var parts []string
	for class, n := range dead {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", class, n))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return " (" + strings.Join(parts, ", ") + ")"
}

// count is a number that fits a column: 9999, 12.3k, 4.56M.
func count(v float64) string {
	switch {
	case v < 0:
		return "-" + count(-v)
	case v < 10 && v != float64(int64(v)):
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v < 9999.5:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	units := []string{"k", "M", "G", "T", "P", "E"}
	i := -1
	for v >= 999.5 && i < len(units)-1 {
		v /= 1000
		i++
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + units[i]
}

// rate is a number per second; "-" where there was only one look.
func rate(v, over float64) string {
	if over == 0 {
		return "-"
	}
	return count(v)
}

// seconds is a duration that fits a column: 7ms, 1.2s, 3m20s.
func seconds(s float64) string {
	switch {
	case s == 0:
		return "0s"
	case s < 0.001:
		return fmt.Sprintf("%.1fms", s*1000)
	case s < 1:
		return fmt.Sprintf("%.0fms", s*1000)
	case s < 60:
		return fmt.Sprintf("%.1fs", s)
	}
	return age(time.Duration(s * float64(time.Second)))
}

// age is a duration in its two greatest units: 42s, 3m20s, 5h4m, 12d3h.
func age(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func quantile(v *float64) string {
	if v == nil {
		return "-"
	}
	return seconds(*v)
}

// trend says how the lag changes, and when it is gone at that pace.
func trend(lag int64, r admin.Rates) string {
	switch {
	case r.Seconds == 0:
		return "-"
	case r.Lag >= 1:
		return "+" + count(r.Lag) + "/s"
	case r.Lag > -1 || lag == 0:
		return "steady"
	}
	return count(r.Lag) + "/s, " + age(time.Duration(float64(lag)/-r.Lag*float64(time.Second))) + " left"
}
