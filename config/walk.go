package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// walker decodes a tree against a Spec. It goes on after every finding.
type walker struct {
	file     string
	data     []byte
	root     *node // nil where the file is not YAML
	registry *connect.Registry
	env      *interpolator
	problems Problems
	// warnings are findings that do not stop the flow.
	warnings Problems
	// more counts the findings beyond maxProblems.
	more int
	// places are where the fields were written, by path: the key and the value.
	places map[string]written
	// sink is the connector whose fields routes have; routed says that there are
	// routes, and routeNames which of them the sink's configuration was given.
	sink       *connect.Connector
	routed     bool
	routeNames []string
	// secrets are the values that no message may repeat.
	secrets []string
}

type written struct {
	key   place
	value *node
}

// finding is a Problem while it is made.
type finding struct{ problem *Problem }

// as sets the rule.
func (f finding) as(r Rule) finding {
	f.problem.Rule = r
	return f
}

// allow sets what may stand there, and what of it was probably meant.
func (f finding) allow(allowed []string, suggestion string) finding {
	f.problem.Allowed, f.problem.Suggestion = allowed, suggestion
	return f
}

// report adds a finding, its rule being RuleInvalid.
func (w *walker) report(at place, path, hint, format string, args ...any) finding {
	p := w.problem(at, path, hint, format, args...)
	if len(w.problems) >= maxProblems {
		w.more++ // p is not kept
		return finding{p}
	}
	w.problems = append(w.problems, p)
	return finding{p}
}

func (w *walker) warn(at place, path, hint, format string, args ...any) finding {
	p := w.problem(at, path, hint, format, args...)
	p.Severity = SeverityWarning
	w.warnings = append(w.warnings, p)
	return finding{p}
}

func (w *walker) problem(at place, path, hint, format string, args ...any) *Problem {
	p := &Problem{
		File: w.file, Line: at.line, Column: at.column, Severity: SeverityError, Rule: RuleInvalid,
		Path: path, Message: fmt.Sprintf(format, args...), Hint: hint,
	}
	if at.origin != "" {
		p.File, p.Line, p.Column = at.origin, 0, 0
	}
	return p
}

// maxProblems bounds what a hostile file can make us say.
const maxProblems = 100

// join makes the path of a field.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// label is how a message names a path.
func label(path string) string {
	if path == "" {
		return "a flow file"
	}
	return path
}

// value decodes n into v. f is the field that the value, or the list or map
// around it, belongs to.
func (w *walker) value(n *node, at place, f *connect.Field, t *connect.Type, v reflect.Value, path string) {
	w.places[path] = written{at, n}
	if n.kind == unknownNode {
		reveal(n, f, t)
		return
	}
	if t.Pointer && v.Kind() == reflect.Pointer {
		v.Set(reflect.New(t.Go))
		v = v.Elem()
	}
	switch {
	case n.kind == nullNode && (t.Kind == connect.KindStruct || t.Kind == connect.KindChoice || t.Kind == connect.KindRoute):
		n = &node{kind: mappingNode, at: n.at, end: n.end}
	case n.kind == nullNode:
		w.report(at, path, enumHint(f), "%s has no value; give one, or remove the line", path).as(RuleMissing).allow(enumOf(f), "").problem.covers = true
		return
	}
	switch t.Kind {
	case connect.KindStruct:
		if w.expect(n, mappingNode, t, path) {
			w.structure(n, at, t, v, path)
		}
	case connect.KindChoice:
		w.choice(n, at, t, v, path)
	case connect.KindRoute:
		w.route(n, at, t, v, path)
	case connect.KindList:
		w.list(n, f, t, v, path)
	case connect.KindMap:
		if !w.expect(n, mappingNode, t, path) {
			return
		}
		m := reflect.MakeMapWithSize(t.Go, len(n.fields))
		for _, e := range w.unique(n, path) {
			elem := reflect.New(t.Go.Elem()).Elem()
			w.value(e.value, e.at, f, t.Elem, elem, join(path, e.key))
			m.SetMapIndex(reflect.ValueOf(e.key).Convert(t.Go.Key()), elem)
		}
		v.Set(m)
	case connect.KindString, connect.KindBool, connect.KindInt, connect.KindFloat, connect.KindDuration, connect.KindBytes, connect.KindSecret:
		w.scalar(n, f, t, v, path)
	}
}

func (w *walker) expect(n *node, kind nodeKind, t *connect.Type, path string) bool {
	if n.kind == kind {
		return true
	}
	reveal(n, nil, t)
	if n.kind != unknownNode {
		hint, allowed := w.contents(t, path)
		w.report(n.at, path, hint, "%s wants %s, not %s", label(path), t.Want(), n.kind).as(RuleType).allow(allowed, "").problem.covers = true
	}
	return false
}

// contents says what a section of the type holds.
func (w *walker) contents(t *connect.Type, path string) (hint string, allowed []string) {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case path == "":
	case t.Kind == connect.KindChoice:
		allowed = w.registry.Names(t.Role)
		return fmt.Sprintf("like %s: {%s: {...}}; allowed: %s", name, allowed[0], orList(allowed)), allowed
	case t.Kind == connect.KindStruct && t.Pointer:
		allowed = t.FieldNames()
		return fmt.Sprintf("%s: {} has the defaults; allowed in it: %s", name, orList(allowed)), allowed
	case t.Kind == connect.KindStruct && len(t.Fields) > 0:
		allowed = t.FieldNames()
		return fmt.Sprintf("like %s: {%s: ...}; allowed: %s", name, allowed[0], orList(allowed)), allowed
	}
	return "", nil
}

// reveal lets a value be shown that was not decoded, if nothing in its type is
// secret.
func reveal(n *node, f *connect.Field, t *connect.Type) {
	if f != nil && f.Secret || hasSecret(t) {
		return
	}
	n.scalars(func(s *node) { s.public = true })
}

func hasSecret(t *connect.Type) bool {
	if t == nil {
		return false
	}
	return t.Kind == connect.KindSecret || t.Kind == connect.KindChoice || t.Kind == connect.KindRoute || hasSecret(t.Elem) ||
		slices.ContainsFunc(t.Fields, func(f *connect.Field) bool { return f.Secret || hasSecret(f.Type) })
}

// unique returns the entries of a mapping, and reports the keys that occur twice.
func (w *walker) unique(n *node, path string) []entry {
	seen := make(map[string]place, len(n.fields))
	out := make([]entry, 0, len(n.fields))
	for _, e := range n.fields {
		if first, ok := seen[e.key]; ok {
			w.report(e.at, join(path, e.key), "remove one of the two", "%q is given twice; the first is on line %d", e.key, first.line).as(RuleDuplicate)
			continue
		}
		seen[e.key] = e.at
		out = append(out, e)
	}
	return out
}

func (w *walker) structure(n *node, at place, t *connect.Type, v reflect.Value, path string) {
	for _, e := range n.fields { // the second of two is not decoded
		if f := t.Field(e.key); f != nil {
			reveal(e.value, f, f.Type)
		}
	}
	for _, e := range w.unique(n, path) {
		f := t.Field(e.key)
		if f == nil {
			w.unknown(e, t.FieldNames(), path, "field")
			meant := t.Field(nearest(e.key, t.FieldNames()))
			if meant == nil || !meant.Secret && secretish.MatchString(e.key) && distance(e.key, meant.Name) > 2 {
				continue // what api_key holds is not to be shown, though there is a field key
			}
			reveal(e.value, meant, meant.Type)
			if _, taken := w.places[join(path, meant.Name)]; taken || n.field(meant.Name) != nil {
				continue
			}
			f = meant // a name that is wrong hides nothing of what is below it
		}
		w.value(e.value, e.at, f, f.Type, v.FieldByIndex(f.Index), join(path, f.Name))
	}
	for _, f := range t.Fields {
		if f.Required && n.field(f.Name) == nil && !w.misspelt(path, f.Name) {
			w.report(at, join(path, f.Name), f.Name+": "+f.Doc, "%s lacks %q", label(path), f.Name).as(RuleMissing)
		}
	}
}

// misspelt says that an unknown field of the section was probably meant to be
// the missing one: one finding is enough.
func (w *walker) misspelt(path, name string) bool {
	return slices.ContainsFunc(w.problems, func(p *Problem) bool { return p.meant == join(path, name) })
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

func (w *walker) unknown(e entry, allowed []string, path, what string) {
	near := nearest(e.key, allowed)
	mean, name := "", ""
	if near != "" {
		mean, name = fmt.Sprintf("; did you mean %q?", near), join(path, near)
	}
	rule := RuleUnknownField
	if what == "connector" {
		rule = RuleUnknownConnector
	}
	w.report(e.at, join(path, e.key), "allowed: "+orList(allowed), "%s has no %s %q%s", label(path), what, e.key, mean).
		as(rule).allow(allowed, near).problem.meant = name
}

func (w *walker) choice(n *node, at place, t *connect.Type, v reflect.Value, path string) {
	names := w.registry.Names(t.Role)
	if n.kind == scalarNode {
		if slices.Contains(names, n.text) {
			n.public = true
		}
		w.report(n.at, path, fmt.Sprintf("like %s: {...}; allowed: %s", names[0], orList(names)),
			"%s wants a mapping with the name of a connector and its fields", path).as(RuleType).allow(names, "").problem.covers = true
		return
	}
	if !w.expect(n, mappingNode, t, path) {
		return
	}
	if len(n.fields) == 0 {
		w.report(at, path, "allowed: "+orList(names), "%s names no connector", path).as(RuleMissing).allow(names, "").problem.covers = true
		return
	}
	var chosen *entry
	for _, e := range w.unique(n, path) {
		c := w.registry.Find(t.Role, e.key)
		switch {
		case c == nil:
			w.unknown(e, names, path, "connector")
			if c = w.registry.Find(t.Role, nearest(e.key, names)); c != nil && len(n.fields) == 1 {
				v.Set(reflect.ValueOf(w.section(c, e, path)))
			}
		case chosen != nil:
			w.report(e.at, join(path, e.key), "", "%s names a second connector; a flow has one, and %s is it since line %d", path, chosen.key, chosen.at.line).as(RuleDuplicate)
		default:
			chosen = &e
			v.Set(reflect.ValueOf(w.section(c, e, path)))
		}
	}
}

// section decodes the section of a connector.
func (w *walker) section(c *connect.Connector, e entry, path string) connect.Choice {
	cfg := c.NewConfig()
	section, fields := e.value, c.Spec.Type
	if c.Role == connect.RoleSink {
		section, fields = w.withoutRoute(c, section, join(path, c.Name))
	}
	w.value(section, e.at, nil, fields, reflect.ValueOf(cfg).Elem(), join(path, c.Name))
	return connect.Choice{Connector: c, Config: cfg}
}

func (w *walker) list(n *node, f *connect.Field, t *connect.Type, v reflect.Value, path string) {
	if t.Key != nil {
		w.keyed(n, t, v, path)
		return
	}
	if n.kind == scalarNode && n.computed && t.Elem.Scalar() { // ${KAFKA_BROKERS}
		parts := strings.Split(n.text, ",")
		split := &node{kind: sequenceNode, at: n.at, end: n.end}
		for _, p := range parts {
			item := *n
			item.text = strings.TrimSpace(p)
			split.items = append(split.items, &item)
		}
		n.public = !f.Secret && reference.MatchString(n.raw)
		n = split
	}
	if n.kind != sequenceNode {
		if n.kind == scalarNode && t.Elem.Scalar() {
			n.public = !f.Secret
			w.report(n.at, path, "write it in brackets: ["+elemExample(n, f)+"]", "%s wants a %s, not a single value", path, t).as(RuleType).problem.covers = true
			return
		}
		w.expect(n, sequenceNode, t, path)
		return
	}
	list := reflect.MakeSlice(t.Go, len(n.items), len(n.items))
	for i, item := range n.items {
		w.value(item, item.at, f, t.Elem, list.Index(i), join(path, strconv.Itoa(i)))
	}
	v.Set(list)
	if f.Required && len(n.items) == 0 {
		w.report(n.at, path, f.Name+": "+f.Doc, "%s must not be empty", path).as(RuleMissing)
	}
}

func elemExample(n *node, f *connect.Field) string {
	if f.Secret || n.computed {
		return "..."
	}
	return n.text
}

// keyed decodes a mapping into a slice of structs.
func (w *walker) keyed(n *node, t *connect.Type, v reflect.Value, path string) {
	if !w.expect(n, mappingNode, t, path) {
		return
	}
	entries := w.unique(n, path)
	list := reflect.MakeSlice(t.Go, len(entries), len(entries))
	for i, e := range entries {
		elem, at := list.Index(i), join(path, e.key)
		if e.key == "" {
			w.report(e.at, path, "", "%s has an empty name", path)
			continue
		}
		st := elem
		if t.Elem.Pointer {
			elem.Set(reflect.New(t.Elem.Go))
			st = elem.Elem()
		}
		st.FieldByIndex(t.Key.Index).SetString(e.key)
		if e.value.kind == scalarNode && t.Short != nil {
			w.places[at] = written{e.at, e.value}
			w.value(e.value, e.at, t.Short, t.Short.Type, st.FieldByIndex(t.Short.Index), join(at, t.Short.Name))
			continue
		}
		w.places[at] = written{e.at, e.value}
		if e.value.kind == nullNode {
			hint := ""
			if t.Short != nil {
				hint = t.Short.Name + ": " + t.Short.Doc
			}
			w.report(e.at, at, hint, "%s has no value; give one, or remove the line", at).as(RuleMissing).problem.covers = true
			continue
		}
		if e.value.kind != unknownNode && w.expect(e.value, mappingNode, t.Elem, at) {
			w.structure(e.value, e.at, t.Elem, st, at)
		}
	}
	v.Set(list)
}

func (w *walker) scalar(n *node, f *connect.Field, t *connect.Type, v reflect.Value, path string) {
	if n.kind != scalarNode {
		reveal(n, f, t)
		hint := enumHint(f)
		if hint == "" && n.kind == mappingNode && t.Kind == connect.KindString {
			hint = "if it is meant as text, put it in quotes"
		}
		w.report(n.at, path, hint, "%s wants %s, not %s", path, t.Want(), n.kind).as(RuleType).allow(enumOf(f), "").problem.covers = true
		return
	}
	secret := f.Secret || t.Kind == connect.KindSecret
	n.public = !secret || n.computed && reference.MatchString(n.raw)
	if secret {
		w.secrets = append(w.secrets, secretParts(n.text)...)
	}
	if !n.plain && !n.computed && (t.Kind == connect.KindInt || t.Kind == connect.KindFloat || t.Kind == connect.KindBool) {
		w.report(n.at, path, "remove the quotes", "%s wants %s, not text in quotes", path, t.Want()).as(RuleType)
		return
	}
	field := *f
	field.Type = t
	field.Secret = secret || n.computed && n.at.origin == "" // what a variable holds is not shown
	err := field.SetText(v, n.text)
	var enum *connect.EnumError
	switch {
	case errors.As(err, &enum):
		mean, near := "", nearest(enum.Text(), enum.Allowed)
		if near != "" {
			mean = fmt.Sprintf("; did you mean %q?", near)
		}
		w.report(n.at, path, "allowed: "+orList(enum.Allowed), "%s: %v%s", path, err, mean).as(RuleNotAllowed).allow(enum.Allowed, near)
		return
	case err != nil:
		write := meantText(t, &field, n.text)
		hint := ""
		if write != "" {
			hint = "write " + write
		} else if word := strings.ToLower(n.text); !field.Secret && (word == "auto" || word == "default" || word == "none") {
			hint = "leave the line out for the default"
		}
		w.report(n.at, path, hint, "%s: %v", path, err).as(RuleType).allow(nil, write)
		return
	}
	switch {
	case f.Required && t == f.Type && v.IsZero():
		w.report(n.at, path, f.Name+": "+f.Doc, "%s must not be empty", path).as(RuleMissing)
	case f.Default != "" && t == f.Type && v.IsZero():
		w.report(n.at, path, "leave the line out for the default", "%s cannot be %q: that stands for the default, %s", path, n.text, f.Default)
	}
}

func enumOf(f *connect.Field) []string {
	if f == nil {
		return nil
	}
	return f.Enum
}

func enumHint(f *connect.Field) string {
	if allowed := enumOf(f); allowed != nil {
		return "allowed: " + orList(allowed)
	}
	return ""
}
