// Package failpoint names the steps between reading and committing at which
// tests kill, freeze or fail the process.
//
// Hit is an empty function unless the binary is built with -tags failpoint:
// release builds carry no trace of it. With the tag, the environment variable
// PENSTOCK_FAILPOINTS arms points, separated by semicolons:
//
//	name=action[@n]
//
// where action is kill (SIGKILL to itself), stop (SIGSTOP to itself), or
// sleep:DURATION, and n is the hit at which it acts (1 if absent; every hit
// from the n-th on for sleep). A line "failpoint NAME" is written to standard error
// before the action, so that a test knows what happened.
//
// What asks for the time of day, and not for how long something takes, asks
// WallClock. With the tag, PENSTOCK_CLOCK_JUMP=DURATION sets that clock forward and
// back by so much, several times a second.
package failpoint
