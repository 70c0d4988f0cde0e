package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/config"
)

// scanned is what there is at the paths.
type scanned struct {
	// files are the flow files, each once, in the order of the paths.
	files []string
	// named are those among the paths.
	named map[string]bool
	// failed are the paths that cannot be read, with the reason.
	failed map[string]error
}

// scan finds the flow files at the paths.
func scan(paths []string) *scanned {
	f := &scanned{named: map[string]bool{}, failed: map[string]error{}}
	seen := map[string]bool{}
	add := func(path string) {
		key, err := filepath.Abs(path)
		if err != nil {
			key = path
		}
		if !seen[key] {
			seen[key] = true
			f.files = append(f.files, path)
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			f.failed[path] = err
			continue
		}
		if !info.IsDir() {
			f.named[path] = true
			add(path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			f.failed[path] = err
			continue
		}
		for _, e := range entries {
			file := filepath.Join(path, e.Name())
			if !isFlowFile(e.Name()) {
				continue
			}
			if info, err := os.Stat(file); err == nil && !info.IsDir() { // what a link points to counts
				add(file)
			}
		}
	}
	return f
}

// isFlowFile says whether a file of a directory is taken for a flow's.
func isFlowFile(name string) bool {
	ext := filepath.Ext(name)
	base := strings.TrimSuffix(name, ext)
	return (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(name, ".") && !strings.HasSuffix(base, ".test")
}

// problems are what stops a process from starting.
func (f *scanned) problems() config.Problems {
	var ps config.Problems
	for path, err := range f.failed {
		ps = append(ps, problemsOf(path, err)...)
	}
	slices.SortFunc(ps, func(a, b *config.Problem) int { return strings.Compare(a.File, b.File) })
	if len(ps) == 0 && len(f.files) == 0 {
		ps = config.Problems{{File: ".", Message: "no flow file: a directory is read for files *.yaml and *.yml, those that are hidden and *.test.yaml left out"}}
	}
	return ps
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
	return config.Problems{{File: path, Message: err.Error()}}
}

// file is a flow file as it was read: either flow or err is set.
type file struct {
	path string
	flow *config.Flow
	err  error
}

// load reads all files.
func (s *Supervisor) load(paths []string) []*file {
	files := make([]*file, len(paths))
	for i, path := range paths {
		f := &file{path: path}
		f.flow, f.err = s.o.Load(path)
		files[i] = f
	}
	return files
}

// refuseDuplicates refuses files whose flow's name another file has. One that has had the name so far
// (owners: paths by name) keeps it.
func (s *Supervisor) refuseDuplicates(files []*file, owners map[string]string) {
	byPath, byName := map[string]*file{}, map[string][]*file{}
	for _, f := range files {
		byPath[f.path] = f
		if f.err == nil {
			byName[f.flow.Name] = append(byName[f.flow.Name], f)
		}
	}
	for name, claims := range byName {
		owner := byPath[owners[name]]
		if owner != nil && (owner.err != nil || owner.flow.Name == name) {
			claims = slices.DeleteFunc(claims, func(f *file) bool { return f == owner })
		} else if len(claims) > 1 {
			owner = nil
		} else {
			continue
		}
		for i, f := range claims {
			other := owner
			if other == nil {
				other = claims[(i+1)%len(claims)]
			}
			f.flow, f.err = nil, fmt.Errorf("flow %q is that of %s, too, and positions, metrics and dead letters belong to the name: rename one of them",
				name, other.path)
		}
	}
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
