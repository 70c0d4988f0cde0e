package admin

import (
	"log/slog"
	"os"
	"sync"
	"time"
)

// rereadEvery bounds how often files are looked at.
const rereadEvery = time.Second

// reread is what was made of files, made again when one of them has changed. Files that
// cannot be read or understood any more leave what there was.
type reread[T any] struct {
	paths []string
	read  func() (T, error)
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex // guards what follows
	value  T
	seen   []stamp
	looked time.Time
}

// stamp tells one version of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// newReread makes it for the first time; an error is of that.
func newReread[T any](log *slog.Logger, read func() (T, error), paths ...string) (*reread[T], error) {
	r := &reread[T]{paths: paths, read: read, log: log, now: time.Now}
	r.looked, r.seen = r.now(), r.stamps()
	var err error
	r.value, err = read()
	return r, err
}

func (r *reread[T]) stamps() []stamp {
	s := make([]stamp, len(r.paths))
	for i, p := range r.paths {
		if info, err := os.Stat(p); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

func (r *reread[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Sub(r.looked) < rereadEvery {
		return r.value
	}
	r.looked = now
	stamps, changed := r.stamps(), false
	for i := range stamps {
		changed = changed || stamps[i] != r.seen[i]
	}
	if !changed {
		return r.value
	}
	value, err := r.read()
	if err != nil {
		// seen stays: a certificate and its key are written one after the other, and the
		// next look tries again.
		r.log.Warn("a file of the admin server has changed and cannot be used; the old one holds", slog.Any("error", err))
		return r.value
	}
	r.value, r.seen = value, stamps
	r.log.Info("the admin server uses a file that has changed", slog.Any("files", r.paths))
	return value
}
