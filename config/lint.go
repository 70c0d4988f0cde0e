package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/penstockdev/penstock/connect"
)

// Files are the flow files that the paths name: a file is itself, and a folder is its
// *.yaml and *.yml, in order of name, without those in folders below it, hidden ones, and the
// files of penstock test (*.test.yaml). A file that is named twice comes once. A folder without any is an error, as is a path that
// is not there.
func Files(paths []string) ([]string, error) {
	var files []string
	var errs []error
	for _, p := range paths {
		info, err := os.Stat(p)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("reading flow files: %w", err))
		case !info.IsDir():
			files = append(files, p)
		default:
			found, err := filesIn(p)
			if err != nil {
				errs = append(errs, err)
			}
			files = append(files, found...)
		}
	}
	var seen []os.FileInfo
	files = slices.DeleteFunc(files, func(p string) bool {
		info, err := os.Stat(p)
		if err != nil {
			return false // reading it says why
		}
		if slices.ContainsFunc(seen, func(s os.FileInfo) bool { return os.SameFile(s, info) }) {
			return true
		}
		seen = append(seen, info)
		return false
	})
	return files, errors.Join(errs...)
}

func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading flow files: %w", err)
	}
	var files []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		tests := strings.HasSuffix(strings.TrimSuffix(e.Name(), ext), ".test")
		if strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" || tests {
			continue
		}
		path := filepath.Join(dir, e.Name())
		// Stat follows links. A pipe would be waited for, without an end.
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			continue
		}
		files = append(files, path)
	}
	if len(files) == 0 {
		return nil, &fs.PathError{Op: "reading the folder", Path: dir, Err: errNoFiles}
	}
	return files, nil
}

var errNoFiles = errors.New("it holds no flow file (*.yaml, *.yml)")

// Linted is what Lint says of one file.
type Linted struct {
	Path string
	// Flow is nil where the file itself is wrong; it is there where only other files are
	// against it.
	Flow *Flow
	// Findings are errors and warnings, in the order of the file.
	Findings Problems

	partial *Flow // decoded as far as it can be; nil where the file is not YAML
	walk    *walker
}

// Lint checks files and folders (see Files): each file by itself, and whether the flows of
// all of them can live beside each other. What cannot be read, or is not there, is a
// finding of RuleUnreadable. An error is a mistake in a connector.
func Lint(paths []string, o Options) ([]*Linted, error) {
	files, err := Files(paths)
	var out []*Linted
	unreadable := func(path string, err error) {
		out = append(out, &Linted{Path: path, Findings: Problems{{File: path, Severity: SeverityError, Rule: RuleUnreadable, Message: reason(err)}}})
	}
	if err != nil {
		for _, p := range paths {
			if _, err := Files([]string{p}); err != nil {
				unreadable(p, err)
			}
		}
	}
	for _, path := range files {
		data, err := readFile(path)
		if err != nil {
			unreadable(path, err)
			continue
		}
		l := &Linted{Path: path}
		out = append(out, l)
		if l.partial, l.walk, err = read(path, data, o); err != nil {
			return nil, err
		}
		if len(l.walk.problems) == 0 {
			l.Flow = l.partial
		}
	}
	for i, l := range out {
		for _, other := range out[:i] {
			if l.partial != nil && other.partial != nil {
				l.against(other)
			}
		}
	}
	for _, l := range out {
		if l.walk == nil {
			continue
		}
		l.walk.finished()
		if l.Flow != nil {
			l.Flow.Warnings = l.walk.warnings
		}
		l.Findings = slices.Concat(l.walk.problems, l.walk.warnings)
		l.Findings.Sort()
	}
	return out, nil
}

// reason is an error without the path, which the finding has.
func reason(err error) string {
	pe, ok := errors.AsType[*fs.PathError](err)
	switch {
	case !ok:
		return err.Error()
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(pe.Path); err == nil {
			return "cannot be read: it is a link to " + target + ", which is not there; remove the link, or mend it"
		}
		return "cannot be read: no such file or directory; check the path, or write a first flow file with penstock init"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("cannot be read: permission denied; the user with id %d needs the right to read it", os.Getuid())
	case errors.Is(err, syscall.EISDIR):
		return "cannot be read: it is a folder; name a file in it"
	}
	return "cannot be read: " + pe.Err.Error()
}

// against reports what keeps the flow from living beside the other one.
func (l *Linted) against(other *Linted) {
	w, a, b := l.walk, other.partial, l.partial
	theirs := func(path string) string { return other.walk.where(path) }
	const name = "flow"
	if b.Name != "" && a.Name == b.Name {
		w.report(w.placeOf(name), name, "a flow's checkpoint, metrics and logs go by its name: give each flow its own",
			"flow: %q is the name of another flow, too: %s", b.Name, theirs(name)).as(RuleSharedName)
		return // whatever else they share follows from a file that was copied
	}
	if filepath.Dir(other.Path) == filepath.Dir(l.Path) && a.Admin != (Admin{}) && b.Admin != (Admin{}) && a.Admin != b.Admin {
		w.warn(w.placeOf("admin"), "admin", "give them the same section, or leave it out of all but one",
			"admin: differs from that of flow %s (%s): one process cannot run both", a.Name, theirs("admin")).as(RuleAdmin)
	}
	if a.Source.Connector == nil || b.Source.Connector == nil || a.Source.Connector != b.Source.Connector {
		return
	}
	ra, rb := reading(a.Source), reading(b.Source)
	if !ra.sameCluster(rb) {
		return
	}
	source := join(string(connect.RoleSource), b.Source.Connector.Name)
	if rb.group != "" && ra.group == rb.group {
		path := join(source, "group")
		w.report(w.placeOf(path), path, "leave group out: it is the flow's name then",
			"%s: flow %s reads as the same consumer group %q (%s): its members share the partitions out, so each flow gets only some of the records",
			path, a.Name, rb.group, theirs(path)).as(RuleSharedGroup)
	}
	if topic := ra.sharedTopic(rb); topic != "" {
		l.doubled(a, topic, theirs)
	}
}

// doubled reports the tables into which both flows write the topic.
func (l *Linted) doubled(a *Flow, topic string, theirs func(string) string) {
	w, b := l.walk, l.partial
	if b.Sink.Connector == nil || a.Sink.Connector != b.Sink.Connector || a.Sink.Config == nil || b.Sink.Config == nil {
		return
	}
	place := database(a.Sink)
	if place == "" || place != database(b.Sink) {
		return
	}
	mine, others := b.writes(topic), a.writes(topic)
	if mine.Table == "" || mine.Table != others.Table {
		return
	}
	at := func(f *Flow, wr Writing) string {
		if wr.Route != "" {
			return join(join(join(routesPath, wr.Route), string(connect.RoleSink)), "table")
		}
		return join(join(string(connect.RoleSink), f.Sink.Connector.Name), "table")
	}
	path := at(b, mine)
	if mine.Mode == "append" || others.Mode == "append" {
		w.report(w.placeOf(path), path, "write to another table, or read other topics",
			"%s: flow %s writes topic %s into table %s as well (%s): every record becomes two rows", path, a.Name, topic, mine.Table, theirs(at(a, others))).as(RuleDoubledRows)
		return
	}
	w.warn(w.placeOf(path), path, "",
		"%s: flow %s writes topic %s into table %s as well (%s): every row is written twice", path, a.Name, topic, mine.Table, theirs(at(a, others))).as(RuleDoubledRows)
}

// writes is how the flow writes the records of a topic; zero if it does not.
func (f *Flow) writes(topic string) Writing {
	if len(f.Routes) == 0 {
		return writing("", f.Sink.Connector.Spec.Type, f.Sink.Config)
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		if r.Sink.Config != nil && r.Validate() == nil && r.match()(topic) {
			return writing(r.Name, f.Sink.Connector.Route.Type, r.Sink.Config)
		}
	}
	return Writing{}
}

// where is the field's place, for the findings of another file.
func (w *walker) where(path string) string {
	at := w.placeOf(path)
	if at.origin != "" {
		return at.origin
	}
	return fmt.Sprintf("%s:%d:%d", w.file, at.line, at.column)
}

// reads is what a source reads, as far as its fields are called brokers, group,
// and topics.
type reads struct {
	brokers, topics []string
	group           string
}

func reading(c connect.Choice) reads {
	t, v := c.Connector.Spec.Type, reflect.ValueOf(c.Config).Elem()
	return reads{
		brokers: fieldNamed[[]string](t, v, "brokers"), topics: fieldNamed[[]string](t, v, "topics"), group: fieldNamed[string](t, v, "group"),
	}
}

func (r reads) sameCluster(o reads) bool { return common(r.brokers, o.brokers) != "" }

// sharedTopic is a topic that both name. Patterns are left out: what they match is known to the
// cluster alone.
func (r reads) sharedTopic(o reads) string { return common(r.topics, o.topics) }

func common(a, b []string) string {
	if i := slices.IndexFunc(a, func(s string) bool { return slices.Contains(b, s) }); i >= 0 {
		return a[i]
	}
	return ""
}

// database says where a sink's tables are, without who logs in: its field is called url or
// path; empty where it cannot be told.
func database(c connect.Choice) string {
	t, v := c.Connector.Spec.Type, reflect.ValueOf(c.Config).Elem()
	if path := fieldNamed[string](t, v, "path"); path != "" {
		if full, err := filepath.Abs(path); err == nil {
			return full
		}
		return path
	}
	u, err := url.Parse(fieldNamed[string](t, v, "url"))
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Host + u.Path
}

// Finding is a finding about a field of the section of a role, at its place in the file: what a
// real service says. The field is a path as in connect.Check; it may be empty, and
// whatever part of it is not written in the file is left out.
func (f *Flow) Finding(role connect.Role, field string, severity Severity, message, hint string) *Problem {
	section := string(role)
	p := &Problem{File: f.Name, Path: section, Severity: severity, Rule: RuleService, Message: message, Hint: hint}
	if f.origin == nil {
		return p
	}
	w := f.origin
	for _, c := range []struct {
		role connect.Role
		connect.Choice
	}{{connect.RoleSource, f.Source}, {connect.RoleDecode, f.Decode}, {connect.RoleSink, f.Sink}, {connect.RoleDeadLetters, f.DeadLetters}} {
		if c.role == role && c.Connector != nil {
			section = join(section, c.Connector.Name)
		}
	}
	path := section
	if field != "" {
		path = w.atColumn(w.atRoute(join(section, strings.NewReplacer("[", ".", "]", "").Replace(field))), section)
	}
	at := w.placeOf(path)
	p = w.problem(at, path, hint, "%s", message)
	p.Severity, p.Rule = severity, RuleService
	w.frames(Problems{p})
	return p
}

// atColumn is where a column is that a sink speaks of: where it is decoded.
func (w *walker) atColumn(path, section string) string {
	const columns = "columns"
	of, column, ok := strings.Cut(path, "."+columns+".")
	if _, written := w.places[path]; !ok || written {
		return path
	}
	decode := string(connect.RoleDecode)
	if of != section { // a route's sink
		decode = join(parent(of), decode)
	}
	at, ok := w.places[decode]
	if !ok || len(at.value.fields) == 0 {
		return path
	}
	return join(join(join(decode, at.value.fields[0].key), columns), column)
}
