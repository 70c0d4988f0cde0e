// Package supervisor runs the flows of one process: it reads their files, starts, stops and
// steers each by itself, and follows changes of the files.
//
// What belongs here: the life of flows beside each other. What does not: what a flow does
// (package flow), how it is shown (telemetry, internal/admin), how a process is signalled
// (cmd/penstock).
//
// # One flow's failure
//
// Every flow has its own connections, buffers and goroutines. One whose target is away waits for
// it, and nothing of that reaches the others. One that fails stops alone. What becomes of it:
//
//   - After a fatal error (a table that does not fit, a position that is lost, a login that is refused)
//     a person is needed. The flow stays stopped, and shows its error, until its file changes, or Start or
//     Reload is called.
//   - After an error of unknown class, which the flow has retried as often as it was told to, it is
//     started again: after 30 s, then 1 min, and so on up to 10 min.
//   - Where the process was given one file, it ends with the flow: whoever runs the process
//     (systemd, Kubernetes) decides.
//
// Two things are shared, and cannot be isolated in one process: memory (the buffers' sum is logged at the
// start, with a warning where it does not fit the limit), and a panic: Go ends the whole
// process, which is as safe as a kill -9, and all flows read on from their positions.
//
// # Files
//
// A file is a flow, and a flow is its name: positions, metrics and dead letters belong to the
// name. Two files with one name are refused. Of a directory, the files *.yaml and *.yml are
// read, not those of directories below, not hidden ones, and not *.test.yaml.
//
// All files are read again when one changes (Options.Watch) and when Reload is called. A file that
// is wrong, by itself or beside the others, is refused with its reason: what ran goes on. Flows
// whose configuration is what it was (a comment was changed) are not touched. A flow that was
// changed is drained, its positions are committed, and the new one starts from there. Where the
// new one fails within 30 s, or with its first batch, the last one that worked is started again. A
// file that is gone from its directory stops its flow; one that was named does not. What ${file:…}
// names is read again with the files, and does not make them be read. The admin section is that of
// the process, and needs a restart of it.
//
// # Health
//
// Healthy (/healthz, systemd's watchdog) fails only where a restart of the process would help:
// a flow that was told to stop hangs. A database that is away, a flow that failed, a file that
// was refused: a restart would make each of them worse, and stop the other flows besides.
//
// Ready (/readyz) is about every flow that is to run: each is connected, and moves records or has
// none to move. Flows that a person has stopped or paused count as ready. It is what a rollout waits
// for and an alert watches, and nothing that a process is killed for.
package supervisor
