package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/penstockdev/penstock/config"
)

// scanned is what there is at the paths.
type scanned struct {
	// files are the flow files, each once, in the order of the paths.
	files []string
	// failed are the paths that cannot be read, with the reason.
	failed map[string]error
}

// scan finds the flow files at the paths. A directory may have none by now.
func scan(paths []string) *scanned {
	found := &scanned{failed: map[string]error{}}
	for _, path := range paths {
		files, err := config.Files([]string{path})
		if err != nil {
			if _, dir := os.ReadDir(path); dir != nil {
				found.failed[path] = err
			}
		}
		found.files = append(found.files, files...)
	}
	found.files, _ = config.Files(found.files) // each once; one that has just gone is found wrong by whoever reads it
	return found
}

// missing says why the flow of a file that was not found goes on; empty where it is to stop.
func (f *scanned) missing(paths []string, file string) string {
	for _, path := range paths {
		err := f.failed[path]
		switch {
		case err == nil:
		case path == file:
			return fmt.Sprintf("%v: it was named when the process was started, so its flow goes on; put it back, or stop the flow", err)
		case path == filepath.Dir(file):
			return fmt.Sprintf("%v: the flow goes on", err)
		}
	}
	return ""
}

// file is a flow file as it was read: either flow or err is set.
type file struct {
	path string
	flow *config.Flow
	err  error
}

// read lints all files. What is wrong between two files is said of the later one.
func (s *Supervisor) read(paths []string) ([]*file, error) {
	linted, err := s.o.Lint(paths)
	if err != nil {
		return nil, err
	}
	files := make([]*file, len(linted))
	for i, l := range linted {
		files[i] = &file{path: l.Path, flow: l.Flow}
		var wrong config.Problems
		for _, p := range l.Findings {
			if p.Severity == config.SeverityError {
				wrong = append(wrong, p)
			}
		}
		if len(wrong) > 0 {
			files[i].flow, files[i].err = nil, wrong
		}
	}
	return files, nil
}

// reread lints all files in such an order that what is wrong between two of them is said of the
// one that is new, or was changed. Running are the configurations by path, owners the paths by name.
func (s *Supervisor) reread(paths []string, running map[string]*config.Flow, owners map[string]string) ([]*file, error) {
	files, err := s.read(paths)
	if err != nil {
		return nil, err
	}
	rank := map[string]int{}
	for _, f := range files {
		switch runs := running[f.path]; {
		case runs == nil:
			rank[f.path] = 2
		case f.flow == nil || !same(runs, f.flow):
			rank[f.path] = 1
		}
	}
	ordered := slices.Clone(paths)
	slices.SortStableFunc(ordered, func(a, b string) int { return rank[a] - rank[b] })
	if files, err = s.read(ordered); err != nil {
		return nil, err
	}
	wrong := map[string]bool{}
	for _, f := range files {
		wrong[f.path] = f.err != nil
	}
	for _, f := range files { // a file that nobody can read keeps its name, too
		if f.flow == nil {
			continue
		}
		if owner := owners[f.flow.Name]; owner != f.path && wrong[owner] {
			f.flow, f.err = nil, fmt.Errorf("flow %q is that of %s, which is wrong now, and goes on", f.flow.Name, owner)
		}
	}
	return files, nil
}

// problemsOf makes findings of an error.
func problemsOf(path string, err error) config.Problems {
	var ps config.Problems
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ps):
		return ps
	}
	return config.Problems{{File: path, Severity: config.SeverityError, Message: err.Error()}}
}

// warn logs the findings that do not stop a flow.
func (s *Supervisor) warn(f *file) {
	for _, w := range f.flow.Warnings {
		s.log.Warn("the flow file has a warning", slog.String("flow", f.flow.Name), slog.String("warning", w.Error()))
	}
}

// same says whether a flow of b would do what one of a does: all that the files say counts, except
// the admin section, which is the process's.
func same(a, b *config.Flow) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, f := range reflect.VisibleFields(x.Type()) {
		if tag := f.Tag.Get("yaml"); tag == "" || tag == "-" || tag == "admin" {
			continue
		}
		if !reflect.DeepEqual(x.FieldByIndex(f.Index).Interface(), y.FieldByIndex(f.Index).Interface()) {
			return false
		}
	}
	return true
}
