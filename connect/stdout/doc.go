// Package stdout is the sink that prints rows for a person, or for the next
// program in a pipe: JSON lines, or a table.
//
// What belongs here: printing. Delivery is at least once: after a crash the
// rows of the last batch may be printed again. Records that cannot be processed
// are printed to standard error and the flow goes on.
//
// A flow that decodes prints its columns; one that does not prints the records
// themselves, with their position.
package stdout
