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
// a and b are estimated while the flow runs, by a Kalman filter on ln a and
// ln b: times are positive and vary by a factor, not by an amount. With
// s = b·n/(a+b·n) the observation ln t has the gradient (1-s, s): what a
// sample says is shared out in proportion. Three additions make it fit for use:
//
//   - The past is forgotten only in the direction that a sample
//     measures. Batches of one size for hours tell a+b·n and nothing of
//     a alone; plain exponential forgetting would let the quotient drift.
//   - A sample beyond four standard deviations is left out (a checkpoint of the
//     database, a lost packet), unless it is the third in a row on the same side:
//     then the plant has changed, and the filter opens.
//   - n* is computed from the upper side of what a/b may be. A batch that is too
//     large costs memory, one that is too small costs rate; and where
//     the quotient is not known, other sizes are what makes it known.
//
// The settings follow from estimates that do not depend on the settings, so
// there is no loop through the plant that could oscillate; what is left of noise is kept
// out by a dead band and by moving at most a factor of two a batch.
//
// A fetch has the same form, but how long it takes is hidden behind the client's
// buffer while the reader keeps up. So the Reader climbs instead: while the log holds
// more and lanes do not hold the reader up, the size of a fetch doubles, as TCP's slow start
// does up to a threshold, and beyond it only as long as a doubling
// brings at least a tenth more; when the flow has caught up it shrinks.
//
// # Sources
//
// Nagle, Congestion Control in IP/TCP Internetworks, RFC 896, 1984. DeWitt et
// al., Implementation Techniques for Main Memory Database Systems, SIGMOD 1984
// (group commit). Jacobson, Congestion Avoidance and Control, SIGCOMM 1988.
// Åström, Wittenmark, Adaptive Control, 2nd ed. 1995, chapters 2 (recursive
// estimation), 3 and 4 (self-tuning regulators) and 11 (practical issues). Cao, Schwartz, A
// directional forgetting algorithm based on the decomposition of the information matrix,
// Automatica 36, 2000.
package adapt
