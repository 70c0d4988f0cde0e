package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options are what the command line says.
type Options struct {
	Parts     []string
	Records   int
	Pairs     int
	First     int // records of the loop that commits every message
	Starts    int // rounds of the time to the first row
	BenchTime time.Duration
	Quick     bool
	Binary    string
	Dir       string
	JSON      string
}

// part is one section of the report.
type part struct {
	name string
	doc  string
	run  func(*Bench, context.Context) error
	// local parts need no broker and no database.
	local bool
}

var parts = []part{
	{"size", "size of the release binary", (*Bench).size, true},
	{"decode", "decode and encode on one core, beside fastjson", (*Bench).decode, true},
	{"append", "Kafka to PostgreSQL, exactly once, beside psql \\copy and a hand-written loop", (*Bench).appendRows, false},
	{"upsert", "the modes upsert and ignore, on fresh and on existing keys", (*Bench).upsert, false},
	{"first", "one INSERT and one commit per message", (*Bench).first, false},
	{"start", "start of the process to the first committed row", (*Bench).start, false},
	{"sqlite", "Kafka to SQLite, beside a bare prepared-statement loop", (*Bench).sqlite, false},
}

func parseOptions(args []string) (Options, error) {
	var o Options
	var only string
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.Bool("all", false, "run all parts (the default)")
	fs.StringVar(&only, "parts", "", "run only these parts, with commas between: "+strings.Join(names, ", "))
	fs.IntVar(&o.Records, "records", 1_000_000, "records a side, a multiple of 8")
	fs.IntVar(&o.Pairs, "pairs", 7, "rounds of every comparison")
	fs.IntVar(&o.First, "first", 5_000, "records of the loop that commits every message")
	fs.IntVar(&o.Starts, "starts", 7, "rounds of the time to the first row")
	fs.DurationVar(&o.BenchTime, "benchtime", time.Second, "time of one measurement of decode")
	fs.BoolVar(&o.Quick, "quick", false, "one round on few records: does it all still work? Uses the servers of the tests, where there are any")
	fs.StringVar(&o.Binary, "binary", "", "the penstock to measure (default: build one as for a release)")
	fs.StringVar(&o.Dir, "dir", "", "folder for the servers' data and the rows, about 6 GB (default: a temporary one)")
	fs.StringVar(&o.JSON, "json", "", "write the report to this file as JSON, too")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.Quick {
		quick(&o.Records, 24_000, given["records"])
		quick(&o.Pairs, 1, given["pairs"])
		quick(&o.First, 200, given["first"])
		quick(&o.Starts, 1, given["starts"])
		quick(&o.BenchTime, 20*time.Millisecond, given["benchtime"])
	}
	o.Parts = names
	if only != "" && !given["all"] {
		o.Parts = strings.Split(only, ",")
	}
	for _, p := range o.Parts {
		if !slices.Contains(names, p) {
			return o, fmt.Errorf("no part is named %q; there are %s", p, strings.Join(names, ", "))
		}
	}
	switch {
	case o.Records <= 0 || o.Records%partitions != 0:
		return o, fmt.Errorf("-records must be a multiple of %d", partitions)
	case o.Pairs < 1 || o.First < 1 || o.Starts < 1:
		return o, errors.New("-pairs, -first and -starts must be at least 1")
	}
	return o, nil
}

func quick[T any](v *T, value T, given bool) {
	if !given {
		*v = value
	}
}

// Bench is a benchmark that runs.
type Bench struct {
	opts   Options
	out    io.Writer
	report *Report
	dir    string
	self   string // this binary
	binary string // penstock

	ports    ports
	servers  *Servers
	psql     string
	db       *Database
	topic    *Topic
	want     sums // of the topic's rows
	penstock *Penstock
}

func runBench(ctx context.Context, out io.Writer, o Options) (err error) {
	began := time.Now()
	b := &Bench{opts: o, out: out, dir: o.Dir}
	b.report = &Report{
		Started: began.UTC(), Commit: commit(ctx), Quick: o.Quick, Records: o.Records, Pairs: o.Pairs, Host: thisHost(),
		Load: [2]string{loadAverage(), ""},
	}
	if b.dir, err = os.MkdirTemp(o.Dir, "penstock-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	// PostgreSQL's own user must reach its data below it.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if err := b.findBinary(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(context.WithoutCancel(ctx))) }()
	for _, p := range parts {
		if !slices.Contains(o.Parts, p.name) {
			continue
		}
		if !p.local {
			if err := b.open(ctx); err != nil {
				return err
			}
		}
		fmt.Fprintf(out, "\n%s: %s\n", p.name, p.doc)
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	b.report.Load[1] = loadAverage()
	b.report.Took = time.Since(began).Seconds()
	if err := b.report.Print(out); err != nil {
		return err
	}
	if o.JSON != "" {
		return b.report.WriteFile(o.JSON)
	}
	return nil
}

func (b *Bench) findBinary(ctx context.Context) (err error) {
	if b.opts.Binary != "" {
		b.binary, err = filepath.Abs(b.opts.Binary)
		return err
	}
	b.binary, err = buildPenstock(ctx, b.dir, !b.opts.Quick)
	return err
}

// open starts or finds the servers, makes the database, the topic and its
// files, once.
func (b *Bench) open(ctx context.Context) (err error) {
	if b.topic != nil {
		return nil
	}
	if b.psql, err = postgresBin("psql"); err != nil {
		return err
	}
	if b.servers, err = findServers(ctx, b.out, &b.ports, b.dir, b.opts.Quick); err != nil {
		return err
	}
	if b.db, err = openDatabase(ctx, b.servers.Postgres); err != nil {
		return err
	}
	if b.report.Database, err = b.db.Settings(ctx); err != nil {
		return err
	}
	if b.report.Database["fsync"] != "on" && !b.opts.Quick {
		return errors.New("the database has fsync off: its commits cost nothing, and the figures would mean nothing")
	}
	fmt.Fprintf(b.out, "\nfilling a topic with %d records of %d bytes, and the same rows in the topic's order as COPY files\n", b.opts.Records, recordSize)
	b.topic, err = makeTopic(ctx, b.servers.Brokers, "penstock-bench-"+strconv.Itoa(os.Getpid()), b.opts.Records, b.dir)
	if err != nil {
		return err
	}
	if b.want, err = sumsOf(b.topic.File); err != nil {
		return err
	}
	b.penstock = &Penstock{Binary: b.binary, Dir: b.dir, Topic: b.topic, ports: &b.ports}
	return nil
}

func (b *Bench) close(ctx context.Context) (err error) {
	if b.topic != nil {
		err = b.topic.Delete(ctx)
	}
	if b.db != nil {
		err = errors.Join(err, b.db.Close(ctx))
	}
	if b.servers != nil {
		b.servers.Stop()
	}
	return err
}
