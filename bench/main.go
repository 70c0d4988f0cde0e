package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 1 && args[0] == "loop" {
		return runLoop(ctx, args[1], args[2:])
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	return runBench(ctx, os.Stdout, o)
}

// runLoop is the benchmark's own binary as one of the sides.
func runLoop(ctx context.Context, name string, args []string) error {
	var o loopOptions
	fs := flag.NewFlagSet("loop "+name, flag.ContinueOnError)
	fs.StringVar(&o.Brokers, "brokers", "", "brokers")
	fs.StringVar(&o.Topic, "topic", "", "topic")
	fs.StringVar(&o.Target, "target", "", "topic to write to")
	fs.StringVar(&o.Database, "database", "", "URL or file")
	fs.StringVar(&o.File, "file", "", "rows")
	fs.IntVar(&o.Lanes, "lanes", 1, "lanes")
	fs.IntVar(&o.Records, "records", 0, "records")
	fs.IntVar(&o.Batch, "batch", transactionRows, "rows of a transaction")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch name {
	case "hand":
		return handLoop(ctx, o)
	case "first":
		took, err := firstLoop(ctx, o)
		if err == nil {
			_, err = fmt.Fprintf(os.Stdout, "%f\n", took.Seconds())
		}
		return err
	case "copy":
		return copyLoop(ctx, o)
	case "sqlite":
		return sqliteLoop(ctx, o)
	}
	return fmt.Errorf("no loop is named %q", name)
}
