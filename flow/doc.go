// Package flow is the engine of Penstock and the contracts of everything that
// plugs into it.
//
// A Flow reads records from one Source, passes them through Transforms and
// writes them to one Sink. It runs in lanes: a lane is a chain of goroutines
// that owns some of the flow's partitions, and lanes share nothing.
//
// What belongs here: records, batches and typed columns; batching, checkpoints,
// retries, dead letters, backpressure, rebalance and shutdown. What does not:
// any client library. The package, its tests included, imports the standard
// library and internal packages only, so that every connector may import it.
//
// # The life of a batch
//
//  1. The source's Read delivers a Fetch, records of one partition in order,
//     to the lane that owns the partition. A lane that is full has its
//     partitions paused at the source.
//  2. The lane cuts a Batch: by count, bytes or time, whichever comes first.
//     A batch owns its records until Write has returned.
//  3. The transforms run; they may fill Columns and reject rows.
//  4. The lane's Writer writes the rows, the dead letters and, where the sink
//     keeps checkpoints, the new positions, in one transaction.
//  5. The positions are told to the source, for lag tools (exactly once) or as
//     the checkpoint itself (at least once).
//
// While batch n is in step 4, batch n+1 of the same lane is in step 3.
package flow
