// Package demo is what "penstock demo" and "penstock dev" do.
//
// Run shows the main job and proves it: an embedded Kafka, realistic telemetry
// with malformed records in it, a flow into SQLite in a process of its own that is
// killed with SIGKILL in the middle and started again, and an audit of every record at the
// end. Dev keeps the same Kafka running for whoever wants to go on from there.
//
// What belongs here: the script of the demo, its data, its display, its audit.
// The services are in package embedded. The flow runs in a child process that
// is started by Options.Command: this package does not know the engine.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstockdev/penstock/internal/embedded"
)

// Options say where and how much. The zero value is what "penstock demo" does
// without flags.
type Options struct {
	// Dir keeps Kafka's files, the database and the flow's log; default
	// penstock-data.
	Dir string
	// File is the flow file that the demo leaves; default telemetry.yaml. One that was edited is left
	// alone.
	File string
	// Records is how many to produce; default 250,000, at least 1,000.
	Records int
	// Port of the embedded Kafka; default embedded.DefaultPort. If it is taken, one of the next.
	Port int
	// Command runs a flow; the path of its file is appended. Default: this program, with
	// the argument "run".
	Command []string
	// Program is how a person starts this program; default: its name.
	Program string
	// Out takes what is shown; default standard output. A terminal is drawn on.
	Out io.Writer
}

const minRecords = 1000

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		o.Dir = "penstock-data"
	}
	if o.File == "" {
		o.File = "telemetry.yaml"
	}
	if o.Records == 0 {
		o.Records = 250_000
	}
	if o.Records < minRecords {
		return fmt.Errorf("%d records are too few to kill the flow in the middle; want %d or more", o.Records, minRecords)
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Command == nil {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		o.Command = []string{self, "run"}
	}
	if o.Program == "" {
		o.Program = "penstock"
		if strings.Contains(os.Args[0], "go-build") {
			o.Program = "go run ./cmd/penstock"
		}
	}
	return nil
}

func (o *Options) database() string { return filepath.Join(o.Dir, "telemetry.db") }

func (o *Options) startKafka(ctx context.Context) (*embedded.Kafka, error) {
	return embedded.StartKafka(ctx, embedded.KafkaConfig{Dir: filepath.Join(o.Dir, "kafka"), Port: o.Port, Partitions: partitions})
}

// batchRecords makes some fifty batches, so that there is something to watch
// and to kill.
func (o *Options) batchRecords() int { return min(5000, max(100, o.Records/50)) }

// Run is the demo. It starts over each time: the topic and the rows of an
// earlier demo are removed, everything else in Dir stays. It returns an error if the audit
// finds anything wrong.
func Run(ctx context.Context, o Options) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	d := newDisplay(o.Out)
	kafka, err := o.startKafka(ctx)
	if err != nil {
		return err
	}
	defer kafka.Close()
	if err := o.startOver(kafka); err != nil {
		return err
	}
	text := flowFile(kafka.Address(), o.database(), o.batchRecords())
	edited, err := writeFlowFile(o.File, text)
	if err != nil {
		return err
	}
	file := o.File
	if edited { // the demo is about its own flow
		file = filepath.Join(o.Dir, "demo.yaml")
		if _, err := writeFlowFile(file, text); err != nil {
			return err
		}
	}
	d.say("Kafka     %s, on disk in %s, topic %s with %d partitions", kafka.Address(), o.Dir, topic, partitions)
	d.say("Database  %s, table %s", o.database(), table)
	if edited {
		d.say("Flow      %s (%s has been edited and is left as it is)", file, o.File)
	} else {
		d.say("Flow      %s", file)
	}
	d.say("")

	l, err := o.produce(ctx, d, kafka.Address())
	if err != nil {
		return err
	}
	r := &run{Options: &o, d: d, file: file, total: int64(l.records), watch: newWatcher(o.database())}
	defer r.watch.close()
	if err := r.killedInTheMiddle(ctx); err != nil {
		return err
	}
	if err := r.toTheEnd(ctx); err != nil {
		return err
	}
	a := newAudit(l)
	if err := a.readDatabase(ctx, o.database()); err != nil {
		return err
	}
	r.report(a)
	if err := a.verdict(); err != nil {
		return err
	}
	o.next(d)
	return nil
}

// startOver removes what an earlier demo left.
func (o *Options) startOver(kafka *embedded.Kafka) error {
	if err := kafka.DeleteTopic(topic); err != nil {
		return err
	}
	if _, err := kafka.CreateTopic(topic, partitions); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(o.database() + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the rows of the last demo: %w", err)
		}
	}
	return nil
}

func (o *Options) produce(ctx context.Context, d *display, address string) (*ledger, error) {
	start := time.Now()
	total := int64(o.Records)
	f := newFleet(1, start.Add(-time.Duration(o.Records)*3*time.Millisecond))
	l, err := produce(ctx, address, f, o.Records, func(done int) {
		rate := float64(done) / max(0.001, time.Since(start).Seconds())
		d.progress("producing", int64(done), total, comma(int64(rate))+"/s")
	})
	d.keep()
	return l, err
}

// next says what to type.
func (o *Options) next(d *display) {
	d.say("\nNext:")
	for _, c := range [][2]string{
		{o.Program + " dev", "the same Kafka again, until Ctrl-C"},
		{o.Program + " run " + o.File, "in another terminal: the flow, from where it stopped"},
		{o.Program + " run --dry-run " + o.File, "what the next records would become"},
	} {
		d.say("  %-40s  # %s", c[0], c[1])
	}
	d.say("  edit %s; sqlite3 %s 'SELECT * FROM telemetry LIMIT 3'", o.File, o.database())
}

// Dev runs the embedded services until ctx ends.
func Dev(ctx context.Context, o Options) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	d := newDisplay(o.Out)
	kafka, err := o.startKafka(ctx)
	if err != nil {
		return err
	}
	defer kafka.Close()
	if _, err := kafka.CreateTopic(topic, partitions); err != nil {
		return err
	}
	edited, err := writeFlowFile(o.File, flowFile(kafka.Address(), o.database(), o.batchRecords()))
	if err != nil {
		return err
	}
	d.say("Kafka     %s (no TLS, no login; topics are made when they are used, with %d partitions)", kafka.Address(), partitions)
	d.say("Database  %s (SQLite: a file, nothing to run)", o.database())
	if edited {
		d.say("Flow      %s, as you edited it: check that its brokers are [%s]", o.File, kafka.Address())
	} else {
		d.say("Flow      %s: %s run %s", o.File, o.Program, o.File)
	}
	d.say("\nFor development, not for production. Everything is kept in %s. Ctrl-C stops it.", o.Dir)
	<-ctx.Done()
	d.say("Stopped.")
	return nil
}
