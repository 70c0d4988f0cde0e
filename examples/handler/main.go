// Handler calls a function for every record of a topic, eight at a time: in
// order for each key, and at least once. The position moves when the records before it
// are handled.
package main

import (
	"cmp"
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/flow"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	source, err := kafka.NewSource(kafka.SourceConfig{
		Connection: kafka.Connection{Brokers: []string{cmp.Or(os.Getenv("KAFKA"), "127.0.0.1:19092")}},
		Topics:     []string{"telemetry"}, Group: "example-handler",
	})
	check(err)
	f, err := flow.New(flow.Config{Name: "example-handler", Source: source, Sink: flow.Handler(8, handle)})
	check(err)
	check(f.Run(ctx))
}

// handle is called again for a record whose error it returned.
func handle(_ context.Context, r *flow.Record) error {
	log.Printf("%s: %d bytes at offset %d", r.Key, len(r.Value), r.Offset)
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
