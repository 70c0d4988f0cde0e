// Kafka-to-postgres copies a topic into a PostgreSQL table, exactly once.
package main

import (
	"cmp"
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstockdev/penstock/connect/kafka"
	"github.com/penstockdev/penstock/connect/postgres"
	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	source, err := kafka.NewSource(kafka.SourceConfig{
		Connection: kafka.Connection{Brokers: []string{cmp.Or(os.Getenv("KAFKA"), "127.0.0.1:19092")}},
		Topics:     []string{"telemetry"}, Group: "example-postgres",
	})
	check(err)
	sink, err := postgres.NewSink(postgres.SinkConfig{URL: os.Getenv("DATABASE_URL"), TableConfig: postgres.TableConfig{Table: "telemetry", CreateTable: true}})
	check(err)
	f, err := flow.New(flow.Config{Name: "example-postgres", Source: source, Sink: sink, Transforms: columns})
	check(err)
	check(f.Run(ctx))
}

// columns makes the decoder of a lane.
func columns(int) ([]flow.Transform, error) {
	d, err := decode.NewJSON(decode.JSONConfig{Columns: []decode.Column{
		{Name: "vehicle_id", Type: "text", Required: true},
		{Name: "seq", Type: "int8", Required: true},
		{Name: "recorded_at", Type: "timestamptz", Path: "ts"},
		{Name: "speed_kmh", Type: "float4"},
	}})
	return []flow.Transform{d}, err
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
