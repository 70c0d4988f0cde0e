package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestTake(t *testing.T) {
	if !Supported {
		return
	}
	path := filepath.Join(t.TempDir(), "x.lock")
	l, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Take(path)
	var held *HeldError
	if !errors.As(err, &held) || !strings.Contains(held.Holder, strconv.Itoa(os.Getpid())) {
		t.Fatalf("second take: got %v, want the holder's process", err)
	}
	l.Release()
	l.Release()
	again, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
	(*Lock)(nil).Release()
	if _, err := Take(filepath.Join(t.TempDir(), "none", "x.lock")); err == nil {
		t.Error("a lock in a directory that does not exist was taken")
	}
}
