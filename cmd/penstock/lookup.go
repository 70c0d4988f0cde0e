package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
	"github.com/penstockdev/penstock/internal/present"
)

func newList() *cobra.Command {
	var format *present.Format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the connectors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := all.Registry()
			if err != nil {
				return failed(err)
			}
			entries := config.List(r)
			if format.JSON() {
				return failed(present.JSON(cmd.OutOrStdout(), entries))
			}
			rows := make([][]string, len(entries))
			for i, e := range entries {
				rows[i] = []string{string(e.Role), e.Name, e.Doc}
			}
			return failed(present.Table(cmd.OutOrStdout(), []string{"ROLE", "NAME", "WHAT IT IS"}, rows))
		},
	}
	format = present.AddFormat(cmd)
	return cmd
}

func newExplain() *cobra.Command {
	var format *present.Format
	cmd := &cobra.Command{
		Use:   "explain NAME...",
		Short: "Describe a connector, a section of a flow file, or a field",
		Long: `Explain describes a connector (postgres, sink.kafka), a section of a flow file (batch),
or one field (kafka.sasl, batch.records): type, default, what is allowed, what it means, and
an example.`,
		Example: `  penstock explain kafka postgres json
  penstock explain sink.kafka.delivery
  penstock explain postgres -o json | jq -r '.[].fields[] | select(.required).path'`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := explain(args)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if format.JSON() {
				return failed(present.JSON(w, found))
			}
			for _, d := range found {
				fmt.Fprintln(w, d.Text(present.Style(w).Bold)+"\n")
			}
			return nil
		},
	}
	format = present.AddFormat(cmd)
	return cmd
}

// explain describes all names; those that there are not are named together.
func explain(names []string) ([]config.Description, error) {
	r, err := all.Registry()
	if err != nil {
		return nil, failed(err)
	}
	var found []config.Description
	var errs []error
	for _, name := range names {
		d, err := config.Explain(r, name)
		if err != nil {
			return nil, failed(err)
		}
		if len(d) == 0 {
			hint, err := config.Suggest(r, name)
			if err != nil {
				return nil, failed(err)
			}
			if hint == "" {
				hint = "penstock list names the connectors"
			}
			errs = append(errs, fmt.Errorf("there is no connector, section or field %q; %s", name, hint))
		}
		found = append(found, d...)
	}
	return found, usage(errors.Join(errs...))
}

func newSchema() *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of flow files, for editors, or their reference page",
		Long: `Schema prints the JSON Schema of flow files. An editor that has it completes fields and
marks mistakes while you write. With the YAML language server (VS Code, Neovim, …), begin a
flow file with:

  # yaml-language-server: $schema=flow.schema.json`,
		Example: `  penstock schema --output flow.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := schema(format)
			if err != nil {
				return err
			}
			if output == "" || output == string(present.FormatJSON) && format == output { // -o json means the same everywhere
				_, err = io.WriteString(cmd.OutOrStdout(), text)
				return failed(err)
			}
			return failed(writeFile(output, text))
		},
	}
	cmd.Flags().StringVar(&format, "format", "json", "json (JSON Schema) or markdown (reference page)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file (json: to standard output, as everywhere)")
	completeFlag(cmd, "format", "json", "markdown")
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

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = ""

// versionInfo is what is known of this binary.
type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersion() *cobra.Command {
	var format *present.Format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionInfo{Version: versionText(), Commit: commit(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if format.JSON() {
				return failed(present.JSON(cmd.OutOrStdout(), v))
			}
			text := v.Version
			if v.Commit != "" {
				text += " (" + v.Commit + ")"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "penstock %s %s %s/%s\n", text, v.Go, v.OS, v.Arch)
			return failed(err)
		},
	}
	format = present.AddFormat(cmd)
	return cmd
}

// versionText is the release, or what the Go toolchain knows of the commit.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown version)"
	}
	return info.Main.Version
}

// commit is the one that the binary was built from; empty if it does not know.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
