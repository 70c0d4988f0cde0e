// Package telemetry shows what flows do: metrics for Prometheus, spans for OpenTelemetry, health,
// and the logger. What belongs here: whatever turns flow.Status, flow.Observer and flow.Tap into
// something that a machine or a person reads. What does not: any decision of the flow, and the
// HTTP server that answers with it.
package telemetry
