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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// ErrStopped is what Run returns when its context ends. Nothing is left running then.
var ErrStopped = errors.New("stopped; nothing is left running. The next demo starts over")

// Validate refuses numbers that cannot be: wrong usage.
func (o *Options) Validate() error {
	if o.Records != 0 && o.Records < minRecords {
		return fmt.Errorf("%d records are too few to kill the flow in the middle; want %d or more", o.Records, minRecords)
	}
	if o.Port < 0 || o.Port > 65535 {
		return fmt.Errorf("%d is not a port; want 1 to 65535", o.Port)
	}
	return nil
}

func (o *Options) setDefaults() error {
	if err := o.Validate(); err != nil {
		return err
	}
	if o.Dir == "" {
		o.Dir = "penstock-data"
	}
	if o.File == "" {
		o.File = "telemetry.yaml"
	}
	if o.Records == 0 {
		o.Records = 250_000
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

// Run is the demo. It starts over each time: the topic, the table, and what
// the flow stored about itself are those of the last demo; everything else in Dir stays. It
// returns an error if the audit finds anything wrong, and ErrStopped if ctx ends.
func Run(ctx context.Context, o Options) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	d := newDisplay(o.Out)
	err := o.run(ctx, d)
	if err != nil && ctx.Err() != nil {
		d.keep()
		return ErrStopped
	}
	return err
}

func (o *Options) run(ctx context.Context, d *display) error {
	kafka, err := o.startKafka(ctx)
	if err != nil {
		return err
	}
	defer kafka.Close()
	if err := o.startOver(ctx, d, kafka); err != nil {
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
		if err := os.WriteFile(file, text, 0o644); err != nil { //nolint:gosec // for its user to read
			return fmt.Errorf("writing the flow file: %w", err)
		}
	}
	d.say("Kafka     %s, on disk in %s, topic %s with %d partitions", kafka.Address(), o.Dir, topic, partitions)
	d.say("Database  %s, table %s", o.database(), table)
	if edited {
		d.say("Flow      %s (%s has been edited and is left as it is)", file, o.File)
		o.warnOfAddress(d, kafka.Address())
	} else {
		d.say("Flow      %s", file)
	}
	d.say("")

	l, err := o.produce(ctx, d, kafka.Address())
	if err != nil {
		return err
	}
	r := &run{Options: o, d: d, file: file, total: int64(l.records), watch: newWatcher(o.database())}
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
	o.next(d, file)
	return nil
}

// startOver removes what an earlier demo left.
func (o *Options) startOver(ctx context.Context, d *display, kafka *embedded.Kafka) error {
	left, err := forget(ctx, o.database())
	if err != nil {
		return err
	}
	if left {
		d.say("Replaced  the last demo: topic %s, table %s, and the flow's positions and dead letters. All else is kept.", topic, table)
	}
	if err := kafka.DeleteTopic(topic); err != nil {
		return err
	}
	_, err = kafka.CreateTopic(topic, partitions)
	return err
}

// warnOfAddress says if the edited flow file cannot find this Kafka.
func (o *Options) warnOfAddress(d *display, address string) {
	if text, err := os.ReadFile(o.File); err == nil && !bytes.Contains(text, []byte(address)) {
		d.say("          %s does not name this Kafka: its brokers are to be [%s]", o.File, address)
	}
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

// next says what to type; file is the flow that was run.
func (o *Options) next(d *display, file string) {
	d.say("\nNext:")
	for _, c := range [][2]string{
		{o.Program + " dev", "the same Kafka again, until Ctrl-C"},
		{o.Program + " run " + file, "in another terminal: the flow, from where it stopped"},
		{o.Program + " run --dry-run " + file, "what the next records would become"},
	} {
		d.say("  %-40s  # %s", c[0], c[1])
	}
	if file == o.File {
		d.say("  edit %s", o.File)
	}
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
		d.say("Flow      %s, as you edited it: %s run %s", o.File, o.Program, o.File)
		o.warnOfAddress(d, kafka.Address())
	} else {
		d.say("Flow      %s: %s run %s", o.File, o.Program, o.File)
	}
	d.say("\nFor development, not for production. Everything is kept in %s. Ctrl-C stops it.", o.Dir)
	<-ctx.Done()
	d.say("Stopped.")
	return nil
}
