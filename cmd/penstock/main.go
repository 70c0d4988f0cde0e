// Command penstock runs flows: records from a log into the place where they
// are needed, none lost, none repeated.
//
// What belongs here: commands and their flags, and how a process lives and
// ends. What does not: logic; that is in the packages that the commands call.
//
// # Exit codes
//
//	0  success: for run, the flow was told to stop and everything was written
//	1  the flow failed, or lint has findings, a check of doctor or a test has failed
//	2  wrong usage, or a wrong flow file: nothing was started
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

//go:generate go run . schema --format markdown --output ../../docs/reference/flow-file.md
//go:generate go run . schema --output ../../docs/reference/flow-file.schema.json

// The exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	cobra.EnableCommandSorting = false // see arrange
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs the command and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot() //nolint:contextcheck // the commands take theirs from ExecuteContext
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitUsage // what cobra itself refuses is wrong usage
	if e, ok := errors.AsType[*exitError](err); ok {
		code, err = e.code, e.err
	}
	if err != nil {
		printError(root.ErrOrStderr(), err)
	}
	return code
}

// exitError carries the exit code of a command. A nil err has been printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitFailed, err}
}

func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUsage, err}
}
