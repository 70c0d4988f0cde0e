// Kafka-to-kafka reads a topic, changes every record and writes it to another
// topic of the same cluster: records and offsets in one transaction, so that
// readers of committed records see each exactly once.
package main

import (
	"cmp"
	"context"
	"encoding/json"
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
	cluster := kafka.Connection{Brokers: []string{cmp.Or(os.Getenv("KAFKA"), "127.0.0.1:19092")}}
	from := kafka.SourceConfig{Connection: cluster, Topics: []string{"telemetry"}, Group: "example-copy"}
	source, err := kafka.NewSource(from)
	check(err)
	sink, err := kafka.NewSink(kafka.SinkConfig{
		Connection: cluster, Topic: "telemetry.checked", DeadLetterTopic: "telemetry.dead",
		Create: true, Source: &from,
	})
	check(err)
	f, err := flow.New(flow.Config{Name: "example-copy", Source: source, Sink: sink, Transforms: transforms})
	check(err)
	check(f.Run(ctx))
}

func transforms(int) ([]flow.Transform, error) { return []flow.Transform{checkSpeed{}}, nil }

// checkSpeed adds to every record whether the vehicle is too fast.
type checkSpeed struct{}

func (checkSpeed) Process(_ context.Context, b *flow.Batch) error {
	for i := b.Next(0); i >= 0; i = b.Next(i + 1) {
		var vehicle map[string]any
		if err := json.Unmarshal(b.Records[i].Value, &vehicle); err != nil {
			b.Reject(i, flow.StageTransform, &flow.RecordError{Class: "malformed", Err: err}) // to telemetry.dead
			continue
		}
		speed, _ := vehicle["speed_kmh"].(float64)
		vehicle["too_fast"] = speed > 120
		var err error
		if b.Records[i].Value, err = json.Marshal(vehicle); err != nil {
			return err
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
