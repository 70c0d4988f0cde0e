package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestCopyFileReadsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.copy")
	w, err := createCopyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := newGenerator()
	const n = 100
	for i := range n {
		if err := w.Write(g.Row(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := newCopyReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		row, err := r.Next()
		if err != nil {
			t.Fatalf("row %d: %v", i, err)
		}
		if want := g.Row(i); row != want {
			t.Fatalf("row %d is %+v, want %+v", i, row, want)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last row: %v, want io.EOF", err)
	}
}
