package supervisor

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce is how long after a first change the files are read: editors write in several steps.
	debounce = 500 * time.Millisecond
	// watchAgain is when a directory that could not be watched is tried again.
	watchAgain = 5 * time.Second
)

// watch reads the files again when they change. What is watched are directories: editors
// replace files, and Kubernetes replaces the link ..data beside them.
func (s *Supervisor) watch(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("changes of the flow files are not noticed; SIGHUP and POST /v1/reload make them count", slog.Any("error", err))
		return
	}
	defer func() { _ = w.Close() }()
	watched := s.watchDirs(w, true)
	timer := time.NewTimer(debounce) // what has changed since the files were read for the first time
	defer timer.Stop()
	pending := true
	var reloads sync.WaitGroup // one that waits for a flow does not hold up the others
	defer reloads.Wait()
	soon := func() {
		if !pending {
			pending = true
			timer.Reset(debounce)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.Events:
			if s.concerns(e) {
				soon()
			}
		case err := <-w.Errors:
			s.log.Debug("watching the flow files", slog.Any("error", err))
			soon() // events were lost
		case <-timer.C:
			pending = false
			ok := s.watchDirs(w, watched)                      // before they are read: what changes from here on is another event
			reloads.Go(func() { _, _ = s.reload(ctx, false) }) // it logs what there is to say
			if watched = ok; !ok {
				pending = true
				timer.Reset(watchAgain)
			}
		}
	}
}

// concerns says whether an event may have changed a flow file.
func (s *Supervisor) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	name := filepath.Base(e.Name)
	ext := filepath.Ext(name)
	return name == "..data" || ext == ".yaml" || ext == ".yml" || slices.ContainsFunc(s.o.Paths, func(path string) bool {
		return filepath.Base(path) == name
	})
}

// watchDirs watches the directories of the files as they are now, and those of what links
// point to. It returns false if it could not, which it says aloud where it could so far.
func (s *Supervisor) watchDirs(w *fsnotify.Watcher, watched bool) bool {
	want := map[string]bool{}
	add := func(path string) {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			want[filepath.Dir(real)] = true
		}
		want[filepath.Dir(path)] = true
	}
	for _, path := range s.o.Paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			want[filepath.Clean(path)] = true
		}
		add(path) // a directory may be replaced, too
	}
	for _, f := range scan(s.o.Paths).files {
		add(f)
	}
	for _, dir := range w.WatchList() {
		if !want[dir] {
			_ = w.Remove(dir) // it may be gone
		}
	}
	ok := true
	for dir := range want {
		if err := w.Add(dir); err != nil {
			if ok && watched {
				s.log.Warn("a directory of flow files cannot be watched, and is looked at every 5 s", slog.String("directory", dir), slog.Any("error", err))
			}
			ok = false
		}
	}
	return ok
}
