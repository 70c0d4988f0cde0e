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
	Burst     int // records that arrive at once
	Outage    time.Duration
	BenchTime time.Duration
	Quick     bool
	Binary    string
	Dir       string
	JSON      string
}

// part is one section of the report.
type part struct {
	name  string
	doc   string
	run   func(*Bench, context.Context) error
	needs needs
}

// needs is what a part cannot be run without.
type needs int

const (
	nothing needs = iota // but the binary
	servers              // broker and database
	backlog              // servers, the topic that is filled with all records, and its COPY files
)

var parts = []part{
	{"size", "size of the release binary", (*Bench).size, nothing},
	{"decode", "decode and encode on one core, beside fastjson", (*Bench).decode, nothing},
	{"append", "Kafka to PostgreSQL, exactly once, beside psql \\copy and a hand-written loop", (*Bench).appendRows, backlog},
	{"upsert", "the modes upsert and ignore, on fresh and on existing keys", (*Bench).upsert, backlog},
	{"first", "one INSERT and one commit per message", (*Bench).first, backlog},
	{"start", "start of the process to the first committed row", (*Bench).start, backlog},
	{"sqlite", "Kafka to SQLite, beside a bare prepared-statement loop", (*Bench).sqlite, backlog},
	{"latency", "from the acknowledgement of a record to its row being visible, at 10,000 records/s", (*Bench).latency, servers},
	{"copy", "Kafka to Kafka, at least and exactly once, beside a hand-written copy", (*Bench).copyTopic, backlog},
	{"partitions", "1,000 partitions beside 8, Kafka to PostgreSQL", (*Bench).manyPartitions, servers},
	{"adaptive", "batch.adaptive beside the defaults and the best static setting", (*Bench).adaptive, backlog},
	{"outage", "the database stands still, or dies, under full load", (*Bench).outage, backlog},
	{"telemetry", "metrics and traces with sampled links, beside none", (*Bench).telemetry, servers},
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
	fs.IntVar(&o.Burst, "burst", 500_000, "records that arrive at once, a multiple of 8")
	fs.DurationVar(&o.Outage, "outage", time.Minute, "how long the database is away")
	fs.DurationVar(&o.BenchTime, "benchtime", time.Second, "time of one measurement of decode")
	fs.BoolVar(&o.Quick, "quick", false, "one round on few records: does it all still work? Uses the servers of the tests, where there are any")
	fs.StringVar(&o.Binary, "binary", "", "the penstock to measure (default: build one as for a release)")
	fs.StringVar(&o.Dir, "dir", "", "folder for the servers' data and the rows, about 10 GB (default: a temporary one)")
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
		quick(&o.Burst, 24_000, given["burst"])
		quick(&o.Outage, 2*time.Second, given["outage"])
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
	case o.Burst <= 0 || o.Burst%partitions != 0:
		return o, fmt.Errorf("-burst must be a multiple of %d", partitions)
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
	penstock *Penstock
	topic    *Topic // with the backlog
	topics   []*Topic
	crcs     []uint32 // of the backlog's records
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
		if err := b.open(ctx, p.needs); err != nil {
			return err
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

// open makes what a part needs, once.
func (b *Bench) open(ctx context.Context, what needs) error {
	if what >= servers && b.penstock == nil {
		if err := b.openServers(ctx); err != nil {
			return err
		}
	}
	if what >= backlog && b.topic == nil {
		return b.openBacklog(ctx)
	}
	return nil
}

// openServers starts or finds the servers, and makes the database.
func (b *Bench) openServers(ctx context.Context) (err error) {
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
	b.penstock = &Penstock{Binary: b.binary, Dir: b.dir, Brokers: b.servers.Brokers, ports: &b.ports}
	return nil
}

// openBacklog fills the topic that most parts read, and makes its files.
func (b *Bench) openBacklog(ctx context.Context) error {
	fmt.Fprintf(b.out, "\nfilling a topic with %d records of %d bytes, and the same rows in the topic's order as COPY files\n", b.opts.Records, recordSize)
	t, err := b.newTopic(ctx, partitions)
	if err != nil {
		return err
	}
	if err := t.Fill(ctx, b.opts.Records, partitionOf); err != nil {
		return err
	}
	if err := t.writeFiles(ctx, b.dir); err != nil {
		return fmt.Errorf("writing the rows of topic %s as COPY files: %w", t.Name, err)
	}
	b.topic = t
	return nil
}

// newTopic creates a topic that is removed at the end.
func (b *Bench) newTopic(ctx context.Context, partitions int) (*Topic, error) {
	t, err := createTopic(ctx, b.servers.Brokers, fmt.Sprintf("penstock-bench-%d-%d", os.Getpid(), len(b.topics)+1), partitions)
	if err == nil {
		b.topics = append(b.topics, t)
	}
	return t, err
}

func (b *Bench) close(ctx context.Context) (err error) {
	for _, t := range b.topics {
		err = errors.Join(err, t.Delete(ctx))
	}
	if b.db != nil {
		err = errors.Join(err, b.db.Close(ctx))
	}
	if b.servers != nil {
		b.servers.Stop()
	}
	return err
}
