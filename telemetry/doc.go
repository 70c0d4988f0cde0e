// Package telemetry shows what a flow does: metrics for Prometheus, health over
// HTTP, and the logger. What belongs here: whatever turns flow.Status and
// flow.Observer into something that a machine or a person reads. What does not: any
// decision of the flow.
package telemetry
