// Package sim runs the engine in a simulated world and checks the promises of
// the design after every step.
//
// What belongs here: a world (a log with a consumer group, and a transactional
// table), a scheduler that draws everything that happens in it from one seed,
// the promises, and bugs that are planted in the world to show that the
// promises find them. What does not: tests that need a service, and tests of a
// single behaviour (flow has those).
//
// # How a schedule runs
//
// The flows are real (flow.Flow); each is a process of one consumer group. They
// run in a bubble of testing/synctest together with the scheduler, which is the
// bubble's first goroutine. Whatever an engine calls outside of itself parks
// until the scheduler releases it, so that exactly one thing happens at a time;
// then the scheduler waits until every goroutine is blocked again. Time is
// virtual and moves only when the scheduler says so. All state of the world is
// changed by the scheduler alone.
//
// A schedule therefore depends on its seed alone, as far as the engine's
// goroutines do not race for an outcome; TestReplay finds where they do.
//
// # Looking at one schedule
//
//	go test ./test/sim -run TestSchedules -v -args -seed=N -trace
package sim
