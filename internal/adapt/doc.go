// Package adapt chooses what a flow need not be told: how many records a batch
// holds, how long it is collected, how much one fetch asks for. It steers them
// by what is measured.
//
// What belongs here: the controllers, one Lane for each lane and one Reader for
// the flow. They are pure: no clock, no goroutine, no randomness, no allocation;
// the same samples give the same settings.
//
// # The model
//
// Writing a batch of n records takes
//
//	t(n) = a + b·n
//
// where a is paid once a transaction (round trips, the checkpoint's row, the
// flush of the log) and b once a record. The rate n/t(n) can approach but not
// reach 1/b, and of the time a/(a+b·n) is overhead. It is at most ε from
//
//	n* = (1-ε)/ε · a/b
//
// records on. More would cost memory and latency and gain less than ε, so n* is
// the limit of a batch, with ε = 2.5 %. Where n* records would take longer than
// the longest write allowed (T), the limit is (T-a)/b.
//
// A limit binds only when there is more to write. When the lane keeps up, a
// batch is what came while the one before it was written; a queue in front of a
// server with a fixed cost per batch steers itself (Nagle's algorithm, group
// commit). Waiting then serves only to spare the target: transactions that
// follow one another without pause are spaced so that fixed costs take at most
// the share U of a lane's time. With g the mean time for which an idle writer has nothing
// queued, transactions that nothing delays take a/(a+g) of it. The linger
//
//	w = a/U · (1 - g/g*)   for g < g*, else 0,   g* = a·(1-U)/U
//
// is zero where that share is below U anyway, and a/U where records
// come without pause; U is a half. While the flow lags, an idle writer waits up to a/ε:
// then fixed costs are ε of its time even where the reader is slower than it.
//
// a and b are estimated while the flow runs, by recursive least squares on t,
// weighted by 1/t² because times scatter by a factor and not by an amount. Four
// additions make it fit for use:
//
//   - The past is forgotten only in the direction that a sample measures. A
//     thousand batches of one size tell a+b·n and nothing of a alone; plain
//     exponential forgetting would let the quotient run away.
//   - But what is known of a alone does grow old, the faster the more a+b·n
//     moves. When the standard deviation of a has reached a tenth of t, or
//     half the scatter, a lane that lags writes some batches of half the size, and
//     knows again. That is the only deliberate departure from n*. With a
//     scatter of 10 % it happens about every 80 batches.
//   - A sample beyond four standard deviations is left out (a checkpoint of the
//     database, a lost packet), unless it is the third in a row on the same
//     side: then the database has changed, and either cost may have by all of it.
//   - n* is computed with a plus its standard deviation, to at most double. A
//     batch that is too large costs memory, one that is too small costs rate.
//
// Memory comes first. Where a lane is full before it has n* records, the limit
// is the mean of what fitted, so that one batch is prepared while the one before
// it is written. Lingers follow from estimates that do not depend on them, so there is
// no loop that could oscillate. The limit of a batch moves by a factor of two at
// most, only by more than a fifth, and only when a batch that
// was cut by the limit before has been seen: the pipeline is a dead time of three.
//
// Where the model does not fit, because large transactions cost more a record, a
// tangent takes its place; it reaches about nine tenths of the maximum.
//
// A fetch has the same form, but how long it takes is hidden behind the client's
// buffer while the reader keeps up. So the Reader climbs instead: while the log holds
// another whole answer, the size of a fetch doubles, at once up to a threshold, as in
// TCP's slow start; beyond it only where lanes do not hold the reader up, and only as
// long as a doubling brings at least a tenth more. When the flow has caught up
// it shrinks.
//
// # Sources
//
// Nagle, Congestion Control in IP/TCP Internetworks, RFC 896, 1984. DeWitt et
// al., Implementation Techniques for Main Memory Database Systems, SIGMOD 1984
// (group commit). Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.
// Åström, Wittenmark, Adaptive Control, 2nd ed. 1995, chapters 2 (recursive
// estimation), 3 (self-tuning regulators), 7 (dual control: trying in order to know) and
// 11 (practical issues). Kulhavý, Restricted exponential forgetting in real-time
// identification, Automatica 23, 1987.
package adapt
