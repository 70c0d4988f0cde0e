// Batches gives a function the decoded columns of a topic, a batch at a time:
// at least once. Here the function prints the fastest vehicle of each batch.
package main

import (
	"cmp"
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cluster := kafka.Connection{Brokers: []string{cmp.Or(os.Getenv("KAFKA"), "127.0.0.1:19092")}}
	source, err := kafka.NewSource(kafka.SourceConfig{Connection: cluster, Topics: []string{"telemetry"}, Group: "example-batches"})
	check(err)
	dead, err := kafka.NewDeadLetters(kafka.DeadLetterConfig{Connection: cluster, Topic: "telemetry.dead", Create: true})
	check(err)
	f, err := flow.New(flow.Config{
		Name: "example-batches", Source: source, Sink: flow.SinkFunc(fastest), Transforms: columns, DeadLetters: dead,
	})
	check(err)
	check(f.Run(ctx))
}

// fastest sees the rows of one batch; its lane waits for it to return.
func fastest(_ context.Context, b *flow.Batch) error {
	vehicle, speed := &b.Columns.Cols[0], &b.Columns.Cols[1]
	best := -1
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		if !speed.Null(i) && (best < 0 || speed.Floats[i] > speed.Floats[best]) {
			best = i
		}
	}
	if best >= 0 {
		log.Printf("%d rows, fastest: %s with %.1f km/h", b.Rows(), vehicle.Bytes[best], speed.Floats[best])
	}
	return nil
}

// columns makes the decoder of a lane.
func columns(int) ([]flow.Transform, error) {
	d, err := decode.NewJSON(decode.JSONConfig{Columns: []decode.Column{
		{Name: "vehicle_id", Type: "text", Default: "unknown"},
		{Name: "speed_kmh", Type: "float4"},
	}})
	return []flow.Transform{d}, err
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
