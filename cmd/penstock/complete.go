package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/internal/present"
)

// addCompletions completes what means the same in every command: flow files, fields
// for --set, and the values of the flags for logs.
func addCompletions(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
			if words := strings.Fields(cmd.Use); len(words) > 1 && strings.HasPrefix(strings.Trim(words[1], "[]"), "FILE") {
				cmd.ValidArgsFunction = completeFiles
			}
		}
		if f := cmd.Flags().Lookup("output"); f != nil && strings.Contains(f.Usage, "table or json") {
			completeFlag(cmd, "output", string(present.FormatTable), string(present.FormatJSON))
		}
		if cmd.Flags().Lookup("set") != nil {
			register(cmd, "set", completeSettings)
		}
		for flag, values := range map[string][]string{
			"log-format": {"auto", "text", "json"}, "log-level": {"debug", "info", "warn", "error"},
		} {
			if cmd.Flags().Lookup(flag) != nil {
				completeFlag(cmd, flag, values...)
			}
		}
		addCompletions(cmd)
	}
}

// completeFlag completes the values of a flag.
func completeFlag(cmd *cobra.Command, flag string, values ...string) {
	register(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

func register(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if _, has := cmd.GetFlagCompletionFunc(flag); has {
		return
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("completions: " + err.Error()) // the caller has seen the flag
	}
}

func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeNames completes what explain knows: first connectors and sections, and fields
// once there is a dot.
func completeNames(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	const only = cobra.ShellCompDirectiveNoFileComp
	r, err := all.Registry()
	if err != nil {
		return nil, only
	}
	names, err := config.Names(r)
	if err != nil {
		return nil, only
	}
	dots := strings.Count(begun, ".")
	return slices.DeleteFunc(names, func(n string) bool { return strings.Count(n, ".") > dots || !strings.HasPrefix(n, begun) }), only
}

// completeSettings completes the path before the = of --set.
func completeSettings(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	r, err := all.Registry()
	if err != nil {
		return nil, directive
	}
	paths, err := config.SettablePaths(r)
	if err != nil {
		return nil, directive
	}
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		if strings.HasPrefix(p, begun) {
			out = append(out, p+"=")
		}
	}
	return out, directive
}
