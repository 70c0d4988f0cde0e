// Package dlq is what a person does with the dead letters of a flow: look at
// them, send them through the flow again, or drop them.
//
// What belongs here: choosing letters, jobs that have taken them, and the redrive as a flow. What does not:
// how letters are kept (flow.LetterLog; the connectors), and how commands look.
//
// # A redrive
//
// A redrive is a flow of the engine. Its name is <flow>.redrive.<job>, its source reads the
// letters that the job has taken, and its decoder, routes and sink are those of the flow file. Its
// partitions are those that the records were read from, and its offsets the places of the letters in
// their log; the records themselves look to the decoder as they did the first time. What fails again is kept as a
// dead letter of the redrive's own flow, by whatever keeps dead letters for the sink:
// where the flow is exactly once, in the transaction that moves the redrive's position.
//
// So what has become of a letter is never in doubt:
//
//  1. Letters are taken: nobody else touches them. Killed before: nothing has
//     happened. After: the same command finds the job, and goes on.
//  2. The flow runs. Rows, the dead letters of the redrive, and its position move together. Killed: the
//     next process takes the position over, which fences the first; dead letters of the redrive at or above the position
//     are of writes that did not come about (where they are kept outside of the sink's
//     transaction), and are removed before anything is read.
//  3. Settled, when every position is at its end: what has failed again is put back under the
//     identity of the first failure, with flow.HeaderRedrives one higher. Killed: they are put again,
//     which letter logs tell by identity and redrives, and show once. While the job has letters
//     no other redrive or drop of the flow begins, so none of them can be gone by then.
//  4. The dead letters of the redrive are removed, then those that the job has taken. Killed in
//     between: the letters that are left are below the position, so they are removed.
//  5. The positions are forgotten. Killed before: rows of a checkpoint stay behind that nobody
//     asks for again, because no job has the name of another.
//
// Where the sink keeps no positions (at least once), letters are removed as their rows become
// durable, and a dead letter of the redrive says that its letter is done; so it is removed last, and one
// may stay behind where a process is killed just then.
package dlq
