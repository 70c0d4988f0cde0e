package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/present"
)

func newTop() *cobra.Command {
	var a adminFlags
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "top [FLOW]",
		Short: "Watch the flows of a running penstock",
		Long: `Top shows the flows of a running penstock, live: records per second, lag and where it
goes, dead letters, and how long a batch takes to be written (median and 99th percentile),
over the last 5 looks. Enter shows one flow with its lanes and partitions.

Keys: up, down and enter choose a flow, esc goes back; f s r l b d c sort by flow, state,
rate, lag, behind, dead letters, commit (again: the other way round); q ends.

Where the output is no terminal, it prints a table at every look, and with -o json a JSON
object per line. --once looks once, at what happened in the last 10 seconds.

Exit codes: 0 ended; 1 no penstock answers, or it refuses; 2 wrong usage.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeFlow,
	}
	a.add(cmd)
	output := present.AddFormat(cmd)
	cmd.Flags().BoolVar(&once, "once", false, "look once")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks; at least 100ms")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if interval < 100*time.Millisecond {
			return usage(errors.New("--interval: want at least 100ms"))
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		t := &top{ctx: ctx, client: c, interval: interval, out: cmd.OutOrStdout()}
		if len(args) == 1 {
			t.chosen, t.inside = args[0], true
		}
		if once || output.JSON() || !present.Terminal(cmd.OutOrStdout()) {
			return failed(t.print(once, output.JSON()))
		}
		first := t.look()
		if first.err != nil {
			return failed(first.err)
		}
		t.take(first)
		_, err = tea.NewProgram(t, tea.WithContext(ctx), tea.WithOutput(os.Stdout)).Run()
		if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) {
			err = nil // a signal
		}
		return failed(err)
	}
	return cmd
}

// rateLooks is over how many looks rates are taken: batches make them jump from one to the next.
const rateLooks = 5

// top is the live display: a tea.Model, all of whose state changes in Update.
type top struct {
	ctx      context.Context //nolint:containedctx // the life of the display, which tea's methods are not given
	client   *admin.Client
	interval time.Duration
	out      io.Writer

	// looks are the last ones, oldest first.
	looks []looked
	// err is why the last look failed; what was seen before stays on the screen.
	err error

	// chosen is the flow at the cursor; inside shows that flow alone, from row down.
	chosen string
	inside bool
	row    int
	sort   byte
	back   bool // the other way round

	width, height int
}

// looked is what one look has shown.
type looked struct {
	at   time.Time
	list *admin.FlowList
	// flow is the chosen one where that is shown alone.
	flow *admin.Flow
	err  error
}

// tick is the time of the next look.
type tick struct{}

// Init implements tea.Model.
func (t *top) Init() tea.Cmd { return t.wait() }

func (t *top) wait() tea.Cmd {
	return tea.Tick(t.interval, func(time.Time) tea.Msg { return tick{} })
}

// look asks the process. It must not change t: it runs beside Update.
func (t *top) look() looked { return look(t.ctx, t.client, t.chosen, t.inside) }

func look(ctx context.Context, c *admin.Client, chosen string, inside bool) (l looked) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if inside {
		l.flow, l.err = c.Flow(ctx, chosen)
	} else {
		l.list, l.err = c.Flows(ctx)
	}
	l.at = time.Now()
	return l
}

// take remembers a look.
func (t *top) take(l looked) {
	if t.err = l.err; l.err != nil {
		return
	}
	if l.flow != nil != t.inside || l.flow != nil && l.flow.Name != t.chosen {
		return // asked before a key was pressed
	}
	t.looks = append(t.looks, l)
	if len(t.looks) > rateLooks+1 {
		t.looks = slices.Delete(t.looks, 0, 1)
	}
	if flows := t.sorted(); !t.inside && len(flows) > 0 {
		t.chosen = flows[t.cursor(flows)].Name
	}
}

// Update implements tea.Model.
func (t *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = msg.Width, msg.Height
	case tick:
		return t, t.ask()
	case looked:
		t.take(msg)
		return t, t.wait()
	case tea.KeyPressMsg:
		return t, t.press(msg.String())
	}
	return t, nil
}

// ask looks in the background.
func (t *top) ask() tea.Cmd {
	ctx, c, chosen, inside := t.ctx, t.client, t.chosen, t.inside
	return func() tea.Msg { return look(ctx, c, chosen, inside) }
}

// press does what a key says.
func (t *top) press(key string) tea.Cmd {
	switch key {
	case "q", "ctrl+c":
		return tea.Quit
	case "esc", "backspace", "left", "h":
		t.enter(false)
	case "enter", "right":
		if t.chosen != "" {
			t.enter(true)
		}
	case "up", "k":
		t.move(-1)
	case "down", "j":
		t.move(1)
	case "pgup":
		t.move(-t.page().room)
	case "pgdown", "space":
		t.move(t.page().room)
	case "home", "g":
		t.move(-1 << 30)
	case "end", "G":
		t.move(1 << 30)
	case "f", "s", "r", "l", "b", "d", "c":
		if t.inside {
			break
		}
		t.back = t.sort == key[0] && !t.back
		t.sort = key[0]
	}
	return nil
}

func (t *top) enter(inside bool) {
	if t.inside == inside {
		return
	}
	t.inside, t.row = inside, 0
	// What was seen of all flows gives the rates of the one until it was looked at, and the
	// other way round.
	if !inside {
		t.looks = slices.DeleteFunc(t.looks, func(l looked) bool { return l.list == nil })
	}
}

// move goes up or down, among the flows or in one.
func (t *top) move(by int) {
	if t.inside {
		t.row = max(0, min(t.row+by, t.page().last()))
		return
	}
	flows := t.sorted()
	if len(flows) == 0 {
		return
	}
	i := max(0, min(len(flows)-1, t.cursor(flows)+by))
	t.chosen = flows[i].Name
}

// cursor is where the chosen flow is; the first where there is none.
func (t *top) cursor(flows []admin.Flow) int {
	return max(0, slices.IndexFunc(flows, func(f admin.Flow) bool { return f.Name == t.chosen }))
}

// now is the last look at all flows or at one.
func (t *top) now() looked {
	if len(t.looks) == 0 {
		return looked{}
	}
	return t.looks[len(t.looks)-1]
}

// named is a flow as a look has shown it, nil if it has not.
func (l *looked) named(name string) *admin.Flow {
	if l.flow != nil && l.flow.Name == name {
		return l.flow
	}
	if l.list != nil {
		for i := range l.list.Flows {
			if l.list.Flows[i].Name == name {
				return &l.list.Flows[i]
			}
		}
	}
	return nil
}

// rates are those of a flow between the first and the last of the looks; what the server
// says of the last seconds where there was one look only.
func (t *top) rates(f *admin.Flow) admin.Rates {
	last := t.now()
	for i := range t.looks {
		old := &t.looks[i]
		if was := old.named(f.Name); was != nil && old.at.Before(last.at) {
			return admin.Between(was, f, last.at.Sub(old.at))
		}
	}
	return f.Recent
}

// sorted are the flows of the last look in the order that was asked for: by name, or the
// greatest first.
func (t *top) sorted() []admin.Flow {
	last := t.now()
	if last.list == nil {
		return nil
	}
	flows := slices.Clone(last.list.Flows)
	value := func(f *admin.Flow) float64 {
		switch t.sort {
		case 'r':
			return t.rates(f).Records
		case 'l':
			return float64(f.LagRecords)
		case 'b':
			return f.LagSeconds
		case 'd':
			return float64(f.DeadLetters)
		case 'c':
			if p := t.rates(f).CommitP99; p != nil {
				return *p
			}
		}
		return 0
	}
	slices.SortStableFunc(flows, func(a, b admin.Flow) int {
		order := cmp.Compare(value(&b), value(&a))
		if t.sort == 's' {
			order = strings.Compare(a.State, b.State)
		}
		if order == 0 {
			order = strings.Compare(a.Name, b.Name)
		}
		if t.back {
			order = -order
		}
		return order
	})
	return flows
}

// View implements tea.Model. tea cuts lines at the window's width; the height is kept here.
func (t *top) View() tea.View {
	v := tea.NewView(t.screen())
	v.AltScreen = true
	return v
}

// screen is what is shown.
func (t *top) screen() string {
	style := present.Style(t.out)
	p, keys := t.page(), "enter one flow   f s r l b d c sort   q quit"
	if t.inside {
		keys = "esc all flows   up down scroll   q quit"
	}
	first := min(p.first, p.last())
	lines := slices.Concat(p.head, p.rows[first:min(first+p.room, len(p.rows))])
	if more := len(p.rows) - first - p.room; more > 0 {
		keys = fmt.Sprintf("%d more below   %s", more, keys)
	}
	for len(lines) < t.height-1 {
		lines = append(lines, "")
	}
	return strings.Join(append(lines, style.Dim(keys)), "\n")
}

// page is what there is to show.
type page struct {
	head, rows []string
	// room is how many rows there is room for, first the first of them.
	room, first int
}

// last is the greatest first that leaves no room empty.
func (p *page) last() int { return max(0, len(p.rows)-p.room) }

func (t *top) page() *page {
	p := t.pageOfFlows()
	if t.inside {
		p = t.pageOfFlow()
	}
	p.room = max(1, t.height-len(p.head)-1)
	if !t.inside { // the flow at the cursor is always seen
		p.first = max(0, t.cursor(t.sorted())-p.room+1)
	}
	return p
}

// title is the first line: where, when, and what is wrong with looking.
func (t *top) title(style present.Styles, what string) string {
	line := style.Bold("penstock "+t.client.Address()) + "  " + what
	if t.err != nil {
		line += "  " + style.Red("no answer, these are old: "+present.Line(t.err.Error()))
	}
	return line
}

func (t *top) pageOfFlows() *page {
	style, last := present.Style(t.out), t.now()
	if last.list == nil {
		return &page{head: []string{t.title(style, "")}}
	}
	flows := t.sorted()
	var total, lag float64
	rows := make([][]string, len(flows))
	cursor := t.cursor(flows)
	for i := range flows {
		r := t.rates(&flows[i])
		total += r.Records
		lag += float64(flows[i].LagRecords)
		mark := " "
		if i == cursor {
			mark = ">"
		}
		rows[i] = append([]string{mark}, flowRow(&flows[i], r, last.list.Time)...)
	}
	paint := paintState(t.out, flows)
	var b strings.Builder
	_ = present.Table(&b, append([]string{" "}, flowHeader...), rows, func(row, column int, cell string) string {
		if row == cursor && column == 1 {
			return style.Bold(cell)
		}
		return paint(row, column-1, cell)
	}) // a Builder takes all
	table := splitLines(b.String())
	p := &page{
		head: []string{
			t.title(style, last.at.Format(time.TimeOnly)),
			fmt.Sprintf("%d flows   %s records/s   lag %s", len(flows), count(total), count(lag)), "", table[0],
		},
		rows: table[1:],
	}
	if cursor < len(flows) {
		if text := advice(&flows[cursor]); text != "" && len(p.head)+len(p.rows)+4 < t.height {
			p.rows = slices.Concat(p.rows, []string{""}, splitLines(flows[cursor].Name+": "+text))
		}
	}
	return p
}

// pageOfFlow is one flow alone.
func (t *top) pageOfFlow() *page {
	style, last := present.Style(t.out), t.now()
	p := &page{head: []string{t.title(style, last.at.Format(time.TimeOnly)), ""}, first: t.row}
	if f := last.named(t.chosen); f != nil {
		var b strings.Builder
		_ = t.writeInside(&b, f, last.at) // a Builder takes all
		p.rows = splitLines(b.String())
	}
	return p
}

func splitLines(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }

func (t *top) writeInside(b *strings.Builder, f *admin.Flow, at time.Time) error {
	w, err := present.Colored(b, "auto")
	if present.Style(t.out).Bold("x") != "x" {
		w, err = present.Colored(b, "always")
	}
	if err != nil {
		return err
	}
	return writeFlow(w, f, t.rates(f), at)
}

// print is for scripts and pipes: a table, or a line of JSON, for each look.
func (t *top) print(once, asJSON bool) error {
	ticker := time.NewTicker(t.interval)
	defer ticker.Stop()
	for {
		l := t.look()
		if t.ctx.Err() != nil {
			return nil
		}
		t.take(l)
		if l.err != nil {
			return l.err
		}
		if err := t.printLook(l, once, asJSON); err != nil {
			if errors.Is(err, syscall.EPIPE) {
				return nil // piped into head, which has seen enough
			}
			return err
		}
		if once {
			return nil
		}
		select {
		case <-ticker.C:
		case <-t.ctx.Done():
			return nil
		}
	}
}

func (t *top) printLook(l looked, once, asJSON bool) error {
	if l.flow != nil {
		l.flow.Recent = t.rates(l.flow)
	} else {
		for i := range l.list.Flows {
			l.list.Flows[i].Recent = t.rates(&l.list.Flows[i])
		}
	}
	switch {
	case asJSON && l.flow != nil:
		return writeLine(t.out, l.flow)
	case asJSON:
		return writeLine(t.out, l.list)
	}
	if !once {
		fmt.Fprintln(t.out, l.at.Format(time.DateTime))
	}
	var err error
	if l.flow != nil {
		err = writeFlow(t.out, l.flow, l.flow.Recent, l.at)
	} else {
		err = writeFlows(t.out, l.list)
	}
	if err == nil && !once {
		_, err = fmt.Fprintln(t.out)
	}
	return err
}

// writeLine writes a value as JSON on one line.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
