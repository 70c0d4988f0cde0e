// Package queues measures Penstock's ring beside other queues between
// goroutines, and the engine's own case: chunks of a fetch on their way to a lane.
//
// What belongs here: benchmarks of queues, and the peers they compare with.
// docs/queues.md explains the figures; `cd bench && go test ./queues -bench .` makes them.
package queues
