// Package redrive kills redrives of dead letters: the real binary, real services, many
// letters, SIGKILL at every step and at any moment, and in the end a check of every letter.
package redrive
