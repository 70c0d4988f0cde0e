// Package rig runs the real binary, built with failpoints, between a real log
// and a real target, and checks in the end that nothing was lost, doubled or
// reordered. It holds what fault tests share: a topic whose records are known,
// processes that can be killed and frozen, targets, the check of every record,
// and the naive consumer that serves as negative control.
//
// A package of tests that uses it calls Main in its TestMain. The flag -logs
// keeps the output of all processes.
package rig
