//go:build !linux

package rig

import "os/exec"

// dieWithParent does nothing where the system offers nothing.
func dieWithParent(*exec.Cmd) {}
