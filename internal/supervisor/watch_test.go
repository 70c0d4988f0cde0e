package supervisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/internal/supervisor"
)

func TestFilesAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.file("a")
	w.options.Watch = true
	s, stop := w.start()
	w.await(s, "a", in(flow.StateRunning))

	w.file("b") // renamed into place, as editors do
	w.await(s, "b", in(flow.StateRunning))

	path := w.file("c")
	w.await(s, "c", in(flow.StateRunning))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0) // written in place
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("lanes: 1\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.await(s, "c", func(v *supervisor.FlowView) bool { return v.Restarts == 1 })

	w.write("c.yaml", "flow: {")
	w.await(s, "c", func(v *supervisor.FlowView) bool { return v.ReloadError != "" })
	if err := os.Remove(filepath.Join(w.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { _, err := s.Flow("b"); return err != nil })
	if n := w.messages.count("is refused"); n != 1 {
		t.Errorf("a file that stays wrong was refused aloud %d times", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What is mounted of a ConfigMap are links to ..data/name, and ..data is a link that is replaced.
func TestAConfigMapIsFollowed(t *testing.T) {
	w := newWorld(t)
	text := read(t, w.file("f"))
	if err := os.Remove(filepath.Join(w.dir, "f.yaml")); err != nil {
		t.Fatal(err)
	}
	publish := func(version, text string) {
		t.Helper()
		dir := filepath.Join(w.dir, "..v"+version)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..v"+version, filepath.Join(w.dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(w.dir, "..data_tmp"), filepath.Join(w.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("1", text)
	if err := os.Symlink(filepath.Join("..data", "f.yaml"), filepath.Join(w.dir, "f.yaml")); err != nil {
		t.Fatal(err)
	}
	w.options.Watch = true
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	publish("2", text+"lanes: 1\n")
	if err := os.RemoveAll(filepath.Join(w.dir, "..v1")); err != nil {
		t.Fatal(err)
	}
	w.await(s, "f", func(v *supervisor.FlowView) bool { return v.Restarts == 1 })
	publish("3", strings.Replace(text, "sink", "sinc", 1))
	w.await(s, "f", func(v *supervisor.FlowView) bool { return v.ReloadError != "" })
	publish("4", text+"lanes: 2\n")
	w.await(s, "f", func(v *supervisor.FlowView) bool { return v.Restarts == 2 && v.ReloadError == "" })
}

// A configuration that failed is not tried again because another file has changed.
func TestWhatFailedIsNotTriedAgainByItself(t *testing.T) {
	w := newWorld(t)
	w.file("f")
	w.options.Watch = true
	s, _ := w.start()
	w.await(s, "f", in(flow.StateRunning))
	w.file("f", "    refuse: not here")
	w.await(s, "f", func(v *supervisor.FlowView) bool { return v.ReloadError != "" && v.Restarts == 2 })
	w.file("g")
	w.await(s, "g", in(flow.StateRunning))
	if v, _ := s.Flow("f"); v.Restarts != 2 || v.ReloadError == "" {
		t.Errorf("%+v", short(v))
	}
}

// until polls for at most 10 s.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

func TestFilesAreFollowedBesideAFlowThatHangs(t *testing.T) {
	w := newWorld(t)
	w.options.Watch = true
	w.file("f")
	w.file("hangs")
	s, _ := w.start()
	release := w.hang(s, "hangs")
	defer release()
	for i := range 3 {
		w.file("hangs", fmt.Sprintf("batch: {records: %d}", 10+i))
		w.file("f", fmt.Sprintf("batch: {records: %d}", 10+i))
		w.await(s, "f", restarted(i+1))
	}
	path := w.file("hangs", "batch: {records: 20}")
	good := read(t, path)
	w.write("hangs.yaml", "nonsense: 1\n")
	w.await(s, "hangs", func(v *supervisor.FlowView) bool { return v.ReloadError != "" })
	release()
	w.await(s, "hangs", func(v *supervisor.FlowView) bool { return restarted(1)(v) && v.ReloadError != "" })
	w.write("hangs.yaml", good)
	w.await(s, "hangs", func(v *supervisor.FlowView) bool { return restarted(2)(v) && v.ReloadError == "" })
	w.add("hangs", 20)
	w.exact("hangs")
	w.exact("f")
}
