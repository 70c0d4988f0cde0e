package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// NewPostgresOnDisk is NewPostgres with its data on a disk of so many MB, of
// which about 40 are used to begin with. The write-ahead log lies elsewhere: a
// full disk refuses statements and does not end the server.
func NewPostgresOnDisk(ctx context.Context, dir string, size int) (*Postgres, error) {
	s, err := preparePostgres(dir)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.data(), 0o700); err != nil {
		return nil, err
	}
	if err := mountDisk(s.data(), size); err != nil {
		return nil, fmt.Errorf("a disk of its own for PostgreSQL needs Linux, and root with the right to mount (CAP_SYS_ADMIN): %w", err)
	}
	s.wal = filepath.Join(dir, "wal")
	err = s.chown(s.data())
	if err == nil {
		err = s.init(ctx, nil)
	}
	if err == nil {
		err = s.startSomewhere(ctx)
	}
	if err == nil {
		err = s.createRoles(ctx)
	}
	if err != nil {
		s.StopImmediately()
		unmountDisk(s.data())
		return nil, err
	}
	return s, nil
}

// RemoveDisk unmounts the disk of a server that was stopped.
func (s *Postgres) RemoveDisk() { unmountDisk(s.data()) }

func (s *Postgres) filler() string { return filepath.Join(s.data(), "filler") }

// FillDisk leaves no free byte on the disk.
func (s *Postgres) FillDisk() error {
	f, err := os.OpenFile(s.filler(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nobody reads it
	_, err = io.Copy(f, zeros{})
	if !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("fill the disk at %s: %w", s.data(), err)
	}
	return nil
}

// FreeDisk gives back what FillDisk took.
func (s *Postgres) FreeDisk() error { return os.Remove(s.filler()) }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
