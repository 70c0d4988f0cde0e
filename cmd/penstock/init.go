package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/internal/present"
	"github.com/penstockdev/penstock/internal/propose"
)

type initFlags struct {
	brokers                 []string
	topic, name, out        string
	postgres, sqlite, table string
	records                 int
	force, noTest           bool
	timeout                 time.Duration
	set                     []string
	format                  *present.Format
	sink                    string
	target                  map[string]string // the sink's fields in the file
	targetNow               string            // the --set that connects now
}

func newInit() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init --brokers HOST:PORT --topic TOPIC [--postgres URL | --sqlite FILE]",
		Short: "Write a first flow file from a live topic and table",
		Long: `Init looks at records of a topic (half from its beginning, half from its end) and, if it
is there, at the table; proposes columns and types, says how sure it is of each, tries the
proposal on the records, and writes the flow file and a file of cases for penstock test. It
takes part in nothing and creates nothing but the two files.

The database's URL is not written: the file has ${DATABASE_URL}. What else a connection needs
(TLS, a login) is given by --set source.kafka.sasl.username=… or the environment, as in
penstock run, and is not written either.

Exit codes: 0 the files are written; 1 a service failed, or there is nothing to tell columns
from; 2 wrong usage, or a file is there already.`,
		Example: `  penstock init --brokers localhost:9092 --topic orders --postgres "$DATABASE_URL"
  penstock init --brokers localhost:9092 --topic orders --sqlite orders.db --table orders -n 5000`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.brokers, "brokers", []string{"localhost:9092"}, "addresses of the cluster to start from")
	flags.StringVar(&f.topic, "topic", "", "the topic (required)")
	flags.StringVar(&f.name, "name", "", "name of the flow (default: the topic's)")
	flags.StringVar(&f.postgres, "postgres", "", "URL of the PostgreSQL that takes the rows (default: $DATABASE_URL if it is set)")
	flags.StringVar(&f.sqlite, "sqlite", "", "file of the SQLite database that takes the rows")
	flags.StringVar(&f.table, "table", "", "the table (default: named after the topic)")
	flags.IntVarP(&f.records, "records", "n", 1000, "how many records to look at")
	flags.StringVar(&f.out, "file", "", "the file to write (default: NAME.yaml)")
	flags.BoolVar(&f.force, "force", false, "write over files that are there")
	flags.BoolVar(&f.noTest, "no-test", false, "write no NAME.test.yaml; it holds a few records as they were found")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to look")
	flags.StringArrayVar(&f.set, "set", nil, "set a field while looking: path.to.field=value (repeatable)")
	f.format = present.AddFormat(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.run(cmd.Context(), cmd.OutOrStdout())
	}
	return cmd
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// complete fills in what was not said, and refuses what cannot be.
func (f *initFlags) complete() error {
	switch {
	case f.topic == "":
		return errors.New("--topic: which topic? For example: penstock init --brokers localhost:9092 --topic orders")
	case f.postgres != "" && f.sqlite != "":
		return errors.New("--postgres and --sqlite: a flow has one target")
	case f.records < 1 || f.records > 1_000_000:
		return errors.New("--records: want 1 to 1000000")
	}
	if f.name == "" {
		f.name = notInName.ReplaceAllString(f.topic, "-")
	}
	if f.out == "" {
		f.out = f.name + ".yaml"
	}
	if f.postgres == "" && f.sqlite == "" {
		f.postgres = os.Getenv("DATABASE_URL")
	}
	table := strings.Trim(regexp.MustCompile(`[^a-z0-9_]+`).ReplaceAllString(strings.ToLower(f.topic), "_"), "_")
	switch {
	case f.postgres != "":
		f.sink, f.target, f.targetNow = "postgres", map[string]string{"url": "${DATABASE_URL}"}, "sink.postgres.url="+f.postgres
		table = "public." + table
	case f.sqlite != "":
		f.sink, f.target, f.targetNow = "sqlite", map[string]string{"path": quoteYAML(f.sqlite)}, "sink.sqlite.path="+f.sqlite
	default:
		f.sink = "stdout"
		table = ""
	}
	if f.table == "" {
		f.table = table
	}
	return nil
}

func quoteYAML(s string) string { return fmt.Sprintf("%q", s) }

func (f *initFlags) run(ctx context.Context, stdout io.Writer) error {
	if err := f.complete(); err != nil {
		return usage(err)
	}
	test := strings.TrimSuffix(f.out, filepath.Ext(f.out)) + ".test.yaml"
	if !f.force {
		for _, path := range []string{f.out, test} {
			if _, err := os.Lstat(path); err == nil && (path == f.out || !f.noTest) {
				return usage(fmt.Errorf("%s is there already: --file names another, --force writes over it", path))
			}
		}
	}
	if dir := filepath.Dir(f.out); dir != "." {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return usage(fmt.Errorf("--file %s: there is no folder %s; make it first: mkdir -p %s", f.out, dir, dir))
		}
	}
	options, err := loadOptions(f.set)
	if err != nil {
		return failed(err)
	}
	if f.targetNow != "" {
		options.Set = append(options.Set, f.targetNow)
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	o := propose.Options{
		Name: f.name, File: filepath.Base(f.out), Topic: f.topic, Brokers: f.brokers, Sink: f.sink, Target: f.target, Table: f.table,
		Config: options,
	}
	records, err := f.look(ctx, &o)
	if err != nil {
		return err
	}
	if f.sink == "postgres" { // the file is read as it will be
		o.Config.Environ = append(o.Config.Environ, "DATABASE_URL="+f.postgres)
	}
	p, err := propose.Make(ctx, records, o)
	if err != nil {
		return failed(err)
	}
	if fields := setFields(f.set); len(fields) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("what --set gave is not in the file, and the commands below need it: write it there, secrets as ${VARIABLE}: %s", strings.Join(fields, ", ")))
	}
	if err := os.WriteFile(f.out, []byte(p.File), 0o644); err != nil { //nolint:gosec // no secret is in it
		return failed(err)
	}
	f.noTest = f.noTest || p.Cases == ""
	if !f.noTest {
		if err := os.WriteFile(test, []byte(p.Cases), 0o600); err != nil { // it holds records
			return failed(err)
		}
	}
	if f.format.JSON() {
		return failed(present.JSON(stdout, struct {
			File string `json:"file"`
			Test string `json:"test,omitempty"`
			*propose.Proposal
		}{f.out, map[bool]string{false: test}[f.noTest], p}))
	}
	return failed(f.report(stdout, p, test))
}

// setFields are the fields that --set gives, without their values.
func setFields(set []string) []string {
	var out []string
	for _, s := range set {
		field, _, _ := strings.Cut(s, "=")
		out = append(out, field)
	}
	return out
}

// look reads the records, and the table if it is there.
func (f *initFlags) look(ctx context.Context, o *propose.Options) ([]propose.Record, error) {
	options := o.Config
	options.Environ = append(slices.Clone(options.Environ), "DATABASE_URL=postgres://") // --set has it
	file, err := config.Load("penstock init", []byte(o.Skeleton()), options)
	if err != nil {
		return nil, usage(err)
	}
	cfg, err := file.Build(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, usage(err)
	}
	defer cfg.Source.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only looked into
	defer cfg.Sink.Close(context.WithoutCancel(ctx))   //nolint:errcheck // it was only looked at
	if d, ok := cfg.Sink.(connect.Describer); ok {
		if o.Existing, err = d.Describe(ctx); err != nil {
			return nil, failed(fmt.Errorf("looking at table %s: %w", f.table, err))
		}
	}
	log, err := cfg.Source.Open(ctx)
	if err != nil {
		return nil, failed(fmt.Errorf("looking at topic %s: %w", f.topic, err))
	}
	records, err := propose.Sample(ctx, cfg.Source, log, f.records)
	if err != nil {
		return nil, failed(fmt.Errorf("reading topic %s: %w", f.topic, err))
	}
	return records, nil
}

func (f *initFlags) report(w io.Writer, p *propose.Proposal, test string) error {
	fmt.Fprintf(w, "Looked at %d records of topic %s.\n\n", p.Records, f.topic)
	rows := make([][]string, len(p.Columns))
	for i := range p.Columns {
		c := &p.Columns[i]
		path := c.Path
		if path == "" {
			path = c.Name
		}
		rows[i] = []string{c.Name, c.Type, path, string(c.Sure), fmt.Sprintf("%d of %d", c.Seen, p.Documents), c.Example, c.Why}
	}
	if err := present.Table(w, []string{"column", "type", "field", "sure", "has a value", "like", "because"}, rows); err != nil {
		return err
	}
	dead := 0
	for _, class := range slices.Sorted(maps.Keys(p.Dead)) {
		dead += p.Dead[class]
	}
	fmt.Fprintf(w, "\nTried on them: %d rows, %d dead letters.\n", p.Rows, dead)
	for _, n := range p.Notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
	fmt.Fprintf(w, "\nWritten: %s", f.out)
	if !f.noTest {
		fmt.Fprintf(w, " and %s, which holds a few of the records", test)
	}
	fmt.Fprint(w, "\n\nNext:\n")
	if f.sink == "postgres" && os.Getenv("DATABASE_URL") == "" {
		fmt.Fprint(w, "  export DATABASE_URL=…              the URL that you gave\n")
	}
	fmt.Fprintf(w, "  penstock lint --services %s\n", f.out)
	if !f.noTest {
		fmt.Fprintf(w, "  penstock test %s\n", test)
	}
	_, err := fmt.Fprintf(w, "  penstock run --dry-run %s\n  penstock run %s\n", f.out, f.out)
	return err
}
