// Package present writes what commands have to say: tables for people, JSON for
// programs, and colour where a person looks at a terminal.
//
// What belongs here: how output looks, the same in every command. What does not: what the
// output says, and displays that move.
package present

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// JSON writes v as indented JSON, without HTML escapes, and a line end. A list that
// may be empty is to be empty, not nil: programs want [] and not null.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// The formats of every command.
const (
	FormatTable Format = "table"
	FormatJSON  Format = "json"
)

// Format is the value of the flag -o.
type Format string

// AddFormat adds the flag -o, --output to a command, with its completions; the result is
// set when the command runs. More are the formats that only this command has.
func AddFormat(cmd *cobra.Command, more ...Format) *Format {
	v := &formatValue{format: FormatTable, allowed: append([]Format{FormatTable, FormatJSON}, more...)}
	cmd.Flags().VarP(v, "output", "o", v.list())
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return v.names(), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic("present: " + err.Error()) // the flag was added above
	}
	return &v.format
}

// JSON says that a program reads.
func (f Format) JSON() bool { return f == FormatJSON }

type formatValue struct {
	format  Format
	allowed []Format
}

func (v *formatValue) String() string { return string(v.format) }
func (v *formatValue) Type() string   { return "format" }

func (v *formatValue) Set(s string) error {
	if !slices.Contains(v.allowed, Format(s)) {
		return fmt.Errorf("want %s", v.list())
	}
	v.format = Format(s)
	return nil
}

func (v *formatValue) names() []string {
	names := make([]string, len(v.allowed))
	for i, f := range v.allowed {
		names[i] = string(f)
	}
	return names
}

// list is "table, json or github".
func (v *formatValue) list() string {
	names := v.names()
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
