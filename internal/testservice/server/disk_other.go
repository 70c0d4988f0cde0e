//go:build !linux

package server

import "errors"

func mountDisk(string, int) error { return errors.ErrUnsupported }

func unmountDisk(string) {}
