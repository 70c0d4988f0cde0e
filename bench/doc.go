// Bench measures Penstock beside the limit of the machine and beside other ways
// to do the same, in one go, and prints what docs/performance.md explains.
//
// What belongs here: the generator of the records, the sides of every
// comparison (Penstock's own binary, psql \copy, bare loops), the rounds that
// alternate them, and the report. It is a module of its own, so that the peers
// it compares with stay out of Penstock's go.mod.
//
// Every side runs as a process of its own: processor time and memory are those
// of that process, as the kernel counts them.
package main
