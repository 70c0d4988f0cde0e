package config

import (
	"slices"
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// overrides puts values from flags and the environment into the tree.
type overrides struct {
	w    *walker
	root *node
	spec *connect.Type
}

// EnvPrefix begins the names of the environment variables that set fields.
const EnvPrefix = "PENSTOCK_"

// EnvName is the environment variable that sets the field at the path.
func EnvName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// flag applies one --set.
func (o *overrides) flag(arg string) {
	path, value, ok := strings.Cut(arg, "=")
	at := place{origin: "--set " + path}
	if !ok {
		at.origin = "--set"
		o.w.report(at, "", "like --set batch.records=5000", "want path.to.field=value, and there is no =")
		return
	}
	names := strings.Split(path, ".")
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
	}
	o.set(o.root, o.spec, names, "", value, at)
}

// environment applies the PENSTOCK_ variables, in the order of the file's
// reference.
func (o *overrides) environment(env map[string]string) {
	known := map[string]string{}
	settable(o.w.registry, o.spec, "", func(path string) { known[EnvName(path)] = path })
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := env[name]
		if !strings.HasPrefix(name, EnvPrefix) || value == "" {
			continue
		}
		at := place{origin: "environment variable " + name}
		path, ok := known[name]
		if !ok {
			o.unknown(name, at, known)
			continue
		}
		parts := strings.Split(path, ".")
		if role, other := o.otherChoice(parts); other != "" {
			o.w.warn(at, "", "", "ignored: it is about %s %s, and the flow uses %s", role, parts[1], other).as(RuleVariable)
			continue
		}
		o.set(o.root, o.spec, parts, "", value, at)
	}
}

// unknown warns of a variable that looks like a field and is none. It is no
// error: an orchestrator may set variables that look like ours.
func (o *overrides) unknown(name string, at place, known map[string]string) {
	for _, f := range o.spec.Fields {
		if !strings.HasPrefix(name, EnvName(f.Name)+"_") {
			continue
		}
		names := make([]string, 0, len(known))
		for k := range known {
			names = append(names, strings.ToLower(k))
		}
		slices.Sort(names)
		mean := ""
		if near := nearest(name, names); near != "" {
			mean = "; did you mean " + strings.ToUpper(near) + "?"
		}
		o.w.warn(at, "", "", "ignored: it sets no field of a flow file%s", mean).as(RuleVariable)
		return
	}
}

// otherChoice says which connector the file has chosen where the path is about
// another one.
func (o *overrides) otherChoice(path []string) (role, chosen string) {
	f := o.spec.Field(path[0])
	if f == nil || f.Type.Kind != connect.KindChoice || len(path) < 2 {
		return "", ""
	}
	e := o.root.field(path[0])
	if e == nil || e.value.kind != mappingNode || len(e.value.fields) == 0 || e.value.field(path[1]) != nil {
		return "", ""
	}
	return path[0], e.value.fields[0].key
}

// settable calls f with the path of every field that a variable can set.
func settable(r *connect.Registry, t *connect.Type, path string, f func(string)) {
	switch t.Kind {
	case connect.KindStruct:
		for _, field := range t.Fields {
			settable(r, field.Type, join(path, field.Name), f)
		}
	case connect.KindChoice:
		for _, c := range r.Connectors(t.Role) {
			settable(r, c.Spec.Type, join(path, c.Name), f)
		}
	case connect.KindList:
		if t.Elem.Scalar() {
			f(path)
		}
	case connect.KindMap:
	default:
		f(path)
	}
}

// set goes down the names and puts the value there, making the sections on
// the way.
func (o *overrides) set(n *node, t *connect.Type, names []string, path, value string, at place) {
	if len(names) == 0 {
		o.put(n, t, path, value, at)
		return
	}
	name, path := names[0], join(path, names[0])
	var next *connect.Type
	switch t.Kind {
	case connect.KindStruct:
		f := t.Field(name)
		if f == nil {
			o.w.unknown(entry{key: name, at: at}, t.FieldNames(), parent(path), "field")
			return
		}
		next = f.Type
	case connect.KindChoice:
		c := o.w.registry.Find(t.Role, name)
		if c == nil {
			o.w.unknown(entry{key: name, at: at}, o.w.registry.Names(t.Role), parent(path), "connector")
			return
		}
		next = c.Spec.Type
		if n.kind == mappingNode && n.field(name) == nil {
			n.fields = nil // another connector replaces that of the file
		}
	case connect.KindRoute:
		c := o.w.routedSink(o.root)
		if c == nil || c.Route == nil {
			o.w.report(at, path, "", "%s: the flow has no sink that takes routes", parent(path))
			return
		}
		f := c.Route.Field(name)
		if f == nil {
			o.w.unknown(entry{key: name, at: at}, c.Route.FieldNames(), parent(path), "field")
			return
		}
		next = f.Type
	case connect.KindMap:
		next = t.Elem
	case connect.KindList:
		if t.Key == nil {
			o.w.report(at, path, "set the whole list: a,b or [a, b]", "the elements of %s cannot be set one by one", parent(path))
			return
		}
		next = t.Elem
	default:
		o.w.report(at, path, "", "%s is a %s and has no fields", parent(path), t)
		if n.kind == nullNode {
			n.kind = unknownNode
		}
		return
	}
	if n.kind != mappingNode {
		*n = node{kind: mappingNode, at: n.at, end: n.end}
	}
	e := n.field(name)
	if e == nil {
		n.fields = append(n.fields, entry{name, at, &node{at: at}})
		e = &n.fields[len(n.fields)-1]
	}
	if t.Short != nil && e.value.kind == scalarNode && len(names) > 1 { // a column in its short form keeps its type
		short := *e.value
		*e.value = node{kind: mappingNode, at: short.at, end: short.end, fields: []entry{{t.Short.Name, short.at, &short}}}
	}
	o.set(e.value, next, names[1:], path, value, at)
}

// put replaces n by what value means for the type.
func (o *overrides) put(n *node, t *connect.Type, path, value string, at place) {
	flowStyle := strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{")
	if t.Scalar() || !flowStyle && (t.Kind == connect.KindList && t.Elem.Scalar()) {
		*n = node{kind: scalarNode, at: at, end: at, text: value, raw: value, plain: true, computed: true}
		return
	}
	sub, err := parse([]byte(value))
	if err != nil {
		o.w.report(at, path, "", "%v", err).as(RuleSyntax)
		return
	}
	relocate(sub, at)
	*n = *sub
}

// relocate gives all of a tree one place.
func relocate(n *node, at place) {
	n.at, n.end = at, at
	for i := range n.fields {
		n.fields[i].at = at
		relocate(n.fields[i].value, at)
	}
	for _, i := range n.items {
		relocate(i, at)
	}
}

// SettablePaths are the fields that an environment variable can set (EnvName
// says which one).
func SettablePaths(r *connect.Registry) ([]string, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	var paths []string
	settable(r, spec.Type, "", func(p string) { paths = append(paths, p) })
	return paths, nil
}
