package config

import (
	"errors"
	"io"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// Options say with what a flow file is read.
type Options struct {
	// Registry holds the connectors. Required.
	Registry *connect.Registry
	// Environ is the environment, like os.Environ(). Nil: an empty one.
	Environ []string
	// Set are the values of --set flags: path.to.field=value.
	Set []string
}

// LoadFile reads a flow file. The error is a Problems where the file is wrong.
func LoadFile(path string, o Options) (*Flow, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, &unreadableError{path, err}
	}
	return Load(path, data, o)
}

// unreadableError says what to do about a flow file that cannot be read.
type unreadableError struct {
	path string
	err  error
}

func (e *unreadableError) Error() string { return "flow file " + e.path + ": " + reason(e.err) }
func (e *unreadableError) Unwrap() error { return e.err }

// readFile reads little more than a flow file may have. Its errors name the path.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(f, maxFileSize+1))
}

// Load reads a flow file from data; name is what findings call it. The error is
// a Problems.
func Load(name string, data []byte, o Options) (*Flow, error) {
	f, w, err := read(name, data, o)
	if err != nil {
		return nil, err
	}
	if w.finished(); len(w.problems) > 0 {
		return nil, w.problems
	}
	return f, nil
}

// read decodes as much of the file as it can; w has the findings. An error is a
// mistake in a Spec.
func read(name string, data []byte, o Options) (*Flow, *walker, error) {
	env := environment(o.Environ)
	w := &walker{
		file: name, registry: o.Registry, places: map[string]written{}, data: data,
		env: &interpolator{lookup: func(s string) (string, bool) { v, ok := env[s]; return v, ok }},
	}
	root, err := parse(data)
	if err != nil {
		var se *syntaxError
		if !errors.As(err, &se) {
			se = &syntaxError{at: place{line: 1, column: 1}, msg: err.Error()}
		}
		w.report(se.at, "", se.hint, "%s", se.msg).as(RuleSyntax)
		return nil, w, nil
	}
	w.root = root
	spec, err := Spec()
	if err != nil {
		return nil, nil, err
	}
	w.interpolate(root)
	ov := overrides{w: w, root: root, spec: spec.Type}
	ov.environment(env)
	for _, s := range o.Set {
		ov.flag(s)
	}

	f := &Flow{}
	w.sink, w.routed = w.routedSink(root), root.field(routesPath) != nil
	w.value(root, root.at, nil, spec.Type, reflect.ValueOf(f).Elem(), "")
	spec.Defaults(reflect.ValueOf(f).Elem())
	w.complete(f, spec)
	f.origin, f.Warnings = w, w.warnings
	return f, w, nil
}

// finished makes the findings ready to be shown, once there are no more.
func (w *walker) finished() {
	w.frames(w.warnings)
	w.frames(w.problems)
	w.problems.Sort()
	if w.more > 0 {
		p := w.problem(place{}, "", "", "%d more %s not shown", w.more, plural(w.more, "finding is", "findings are"))
		p.Rule, p.more, w.more = RuleTooMany, w.more, 0
		w.problems = append(w.problems, p)
	}
}

// frames fills in the lines of the findings and hides what is secret.
func (w *walker) frames(ps Problems) {
	ps.frames(w.data, w.root, slices.Concat(w.secrets, w.env.secrets))
}

// Spec describes a flow file, the connectors' sections as choices.
func Spec() (*connect.Spec, error) { return connect.SpecOf[Flow]() }

// interpolate expands the scalars of the file.
func (w *walker) interpolate(root *node) {
	root.scalars(func(n *node) {
		if !strings.Contains(n.text, "$") {
			return
		}
		text, err := w.env.expand(n.text)
		if err != nil {
			n.public = reference.MatchString(n.raw)
			w.report(n.at, "", "", "%v", err).as(RuleVariable)
			// Unknown from here on: whatever a field makes of it is no finding.
			n.kind, n.text = unknownNode, ""
			return
		}
		n.computed = text != n.text
		n.text = text
	})
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	return env
}

// secretParts are the texts that would give a secret away: itself, and the
// password of an address.
func secretParts(s string) []string {
	parts := []string{s}
	if u, err := url.Parse(s); err == nil && u.User != nil {
		if p, ok := u.User.Password(); ok {
			parts = append(parts, p, url.QueryEscape(p), url.PathEscape(p))
		}
	}
	return parts
}
