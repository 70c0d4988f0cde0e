package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/expr"
	"github.com/penstockdev/penstock/internal/present"
	"github.com/penstockdev/penstock/internal/tap"
)

func newTap() *cobra.Command {
	var a adminFlags
	var q admin.TapQuery
	cmd := &cobra.Command{
		Use:   "tap FLOW",
		Short: "Watch a sample of the records that pass through a running flow",
		Long: `Tap shows records as they pass through a flow that runs: as they were read, after
decoding, when they are durable, or as dead letters. It never disturbs the flow: what
exceeds --rate is not looked at. Ctrl-C ends it.

With --where it shows only records for which a CEL expression is true:
  penstock tap orders --where 'value.amount > 1000 && topic == "orders"'
  penstock tap orders --stage dead --where 'class == "type"'
The expression has topic, partition, offset, time, key, value (parsed JSON), headers, and
of a dead letter class, column and message.

With -o json every record is one JSON object on a line.

Exit codes: 0 ended by --limit or Ctrl-C; 1 no penstock answers, or it refuses; 2 wrong usage.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFlow,
	}
	a.add(cmd)
	cmd.Flags().StringSliceVar(&q.Stages, "stage", []string{"read"}, strings.Join(tap.Stages, ", ")+" (repeatable)")
	cmd.Flags().StringVar(&q.Where, "where", "", "only records for which this CEL expression is true")
	cmd.Flags().IntVar(&q.Rate, "rate", 10, "most records per second, up to 1000")
	cmd.Flags().IntVarP(&q.Limit, "limit", "n", 0, "end after so many records; 0: go on")
	output := present.AddFormat(cmd)
	completeFlag(cmd, "stage", tap.Stages...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.Where != "" {
			if _, err := expr.NewFilter(q.Where); err != nil {
				return usage(fmt.Errorf("--where: %w", err))
			}
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		out := cmd.OutOrStdout()
		show := func(line json.RawMessage) error { return writeLine(out, line) }
		ready := func() {}
		if !output.JSON() {
			show = func(line json.RawMessage) error { return writeTapped(out, line) }
			ready = func() {
				if present.Terminal(out) {
					fmt.Fprintf(cmd.ErrOrStderr(), "watching flow %s; Ctrl-C ends it\n", args[0])
				}
			}
		}
		err = c.Tap(ctx, args[0], q, ready, show)
		if errors.Is(err, syscall.EPIPE) {
			err = nil // piped into head, which has seen enough
		}
		return failed(err)
	}
	return cmd
}

// writeTapped shows a record to a person: where it is, then what it holds.
func writeTapped(w io.Writer, line json.RawMessage) error {
	var r tap.Record
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	style := present.Style(w)
	stage := style.Cyan
	if r.Stage == "dead" {
		stage = style.Red
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s[%d]@%d %s", stage(r.Stage), present.Line(r.Topic), r.Partition, r.Offset, style.Dim(r.Time.Format(time.RFC3339Nano)))
	field := func(name string, v json.RawMessage, encoding string) {
		if len(v) == 0 || string(v) == "null" {
			return
		}
		text := string(v)
		if encoding == tap.EncodingText {
			_ = json.Unmarshal(v, &text) // a string: what is left as it is if it is none
		}
		fmt.Fprintf(&b, "\n  %s %s", style.Dim(name), present.Line(text))
		if encoding == tap.EncodingBase64 {
			b.WriteString(style.Dim(" (base64)"))
		}
	}
	field("key", r.Key, r.KeyEncoding)
	if string(r.Value) == "null" && r.ValueEncoding == "" {
		fmt.Fprintf(&b, "\n  %s", style.Dim("no value: a tombstone"))
	}
	field("value", r.Value, r.ValueEncoding)
	if r.Cut > 0 {
		fmt.Fprintf(&b, style.Dim(" … and %d bytes more"), r.Cut)
	}
	for _, h := range r.Headers {
		field("header "+present.Line(h.Key), h.Value, h.Encoding)
	}
	field("row", r.Row, "")
	if r.Class != "" {
		fmt.Fprintf(&b, "\n  %s %s", style.Red(r.Class), present.Line(strings.TrimPrefix(r.Column+": "+r.Message, ": ")))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
