package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// The names of the demo, as they are in its flow file.
const (
	flowName   = "telemetry"
	topic      = "telemetry"
	table      = "telemetry"
	partitions = 8
)

const flowFileText = `# Vehicle telemetry: from Kafka into SQLite, exactly once.
# Written by "penstock demo". Edit it as you like: once edited, it is not written again.
flow: telemetry

source:
  kafka:
    brokers: [%s]
    topics: [telemetry]
    session_timeout: 2s         # short: a process that was killed is replaced quickly
    heartbeat_interval: 500ms

decode:
  json:
    columns:
      vehicle_id: {type: text, required: true}
      seq: {type: int8, required: true}
      recorded_at: {type: timestamptz, path: ts, required: true}
      latitude: {type: float8, path: position.lat, required: true}
      longitude: {type: float8, path: position.lon, required: true}
      speed_kmh: float4
      odometer_km: float8
      coolant_c: {type: int2, path: engine.coolant_c}
      charge_pct: {type: "numeric(4,1)", path: battery.charge_pct}
      tires_kpa: {type: "int2[]", path: tires.kpa}
      doors: jsonb
      driver: {type: text, path: trip.driver}
      kafka_partition: {type: int4, from: partition}
      kafka_offset: {type: int8, from: offset}

sink:
  sqlite:
    path: %s
    table: telemetry
    create_table: true
    # No key: nothing but the checkpoint keeps rows from being lost or doubled.

batch: {records: %d}
`

// flowFile is the text of the flow file.
func flowFile(address, database string, batch int) []byte {
	return fmt.Appendf(nil, flowFileText, address, strconv.Quote(filepath.ToSlash(database)), batch)
}

// What differs between two runs although nobody edited the file.
var variable = regexp.MustCompile(`(?m)^( *brokers:| *path: "|batch:).*$`)

// writeFlowFile writes the flow file, unless there is one that was edited.
func writeFlowFile(path string, text []byte) (edited bool, err error) {
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("the flow file: %w", err)
	case !bytes.Equal(variable.ReplaceAll(have, nil), variable.ReplaceAll(text, nil)):
		return true, nil
	}
	if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // for its user to read and edit
		return false, fmt.Errorf("writing the flow file: %w", err)
	}
	return false, nil
}
