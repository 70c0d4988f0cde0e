package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// Entry is a connector as a list shows it.
type Entry struct {
	Role connect.Role `json:"role"`
	Name string       `json:"name"`
	Doc  string       `json:"doc"`
}

// List is the connectors, by role and name.
func List(r *connect.Registry) []Entry {
	var out []Entry
	for _, role := range connect.Roles() {
		for _, c := range r.Connectors(role) {
			out = append(out, Entry{role, c.Name, c.Doc})
		}
	}
	return out
}

// Description is what there is to know of a connector or of a section of a flow file.
type Description struct {
	// Role and Name are those of a connector; a section has no Role.
	Role connect.Role `json:"role,omitempty"`
	Name string       `json:"name"`
	Doc  string       `json:"doc"`
	// Fields are those asked for, with those in them.
	Fields []FieldDescription `json:"fields"`
	// RouteFields are the names of the fields that move into the routes, in a flow
	// that has routes.
	RouteFields []string `json:"route_fields,omitempty"`
	// Example is YAML; empty where single fields were asked for.
	Example string `json:"example,omitempty"`
}

// FieldDescription describes one field. Names of the user's own appear as NAME in Path.
type FieldDescription struct {
	Path     string   `json:"path"`
	Type     string   `json:"type"`
	Required bool     `json:"required"`
	Default  string   `json:"default"`
	Allowed  []string `json:"allowed,omitempty"`
	Secret   bool     `json:"secret,omitempty"`
	Doc      string   `json:"doc"`
	// Example is YAML, where one says more than the type and the default.
	Example string `json:"example,omitempty"`

	meta string
}

// Explain describes the connectors of that name, the section of a flow file, or the field
// (batch.records, kafka.sasl, sink.kafka.delivery). It returns nothing where there is none.
func Explain(r *connect.Registry, name string) ([]Description, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	var out []Description
	section, _, _ := strings.Cut(name, ".")
	f := spec.Field(section)
	if f != nil && f.Type.Kind == connect.KindChoice && name == f.Name {
		out = append(out, Description{Name: f.Name, Doc: f.Doc, Fields: []FieldDescription{}})
	}
	for _, role := range connect.Roles() {
		for _, c := range r.Connectors(role) {
			short := strings.TrimPrefix(name, string(role)+".")
			if short == string(role) {
				short = c.Name
			}
			owner, field, dotted := strings.Cut(short, ".")
			if owner != c.Name {
				continue
			}
			d := Description{Role: role, Name: c.Name, Doc: c.Doc, Fields: describe(c.Spec.Type, field)}
			if dotted && len(d.Fields) == 0 {
				continue
			}
			if !dotted {
				d.Example = exampleOf(c)
				if c.Route != nil {
					d.RouteFields = c.Route.FieldNames()
				}
			}
			out = append(out, d)
		}
	}
	if f != nil && f.Type.Kind != connect.KindChoice {
		if fields := describe(&connect.Type{Fields: []*connect.Field{f}}, name); len(fields) > 0 {
			out = append(out, Description{Name: f.Name, Doc: f.Doc, Fields: fields})
		}
	}
	return out, nil
}

// Text is the description for a terminal; heading shows titles and names.
func (d *Description) Text(heading func(string) string) string {
	var b strings.Builder
	title := d.Name
	if d.Role != "" {
		title = string(d.Role) + ": " + title
	}
	fmt.Fprintf(&b, "%s\n%s\n\n", heading(title), d.Doc)
	for _, f := range d.Fields {
		meta := f.meta
		if f.Required {
			meta += "; required"
		} else if f.Default != "" {
			meta += "; default " + f.Default
		}
		fmt.Fprintf(&b, "  %s\n      %s\n", heading(f.Path), meta)
		for _, l := range wrap(f.Doc, 72) {
			fmt.Fprintf(&b, "      %s\n", l)
		}
		if f.Example != "" {
			fmt.Fprintf(&b, "      example: %s\n", f.Example)
		}
	}
	if d.RouteFields != nil {
		for _, l := range wrap(routeText(d.RouteFields, ""), 76) {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	if d.Example != "" {
		b.WriteString("\n  Example:\n\n")
		for l := range strings.Lines(d.Example) {
			b.WriteString("    " + l)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// describe is the field of t and those in it; all of them where it is empty, and
// nothing where there is no such field.
func describe(t *connect.Type, field string) []FieldDescription {
	out := []FieldDescription{}
	eachField(t, "", func(path string, f *connect.Field) {
		if within(path, field) {
			out = append(out, FieldDescription{
				Path: path, Type: f.Type.String(), Required: f.Required, Default: defaultText(f, ""), Allowed: f.Enum, Secret: f.Secret,
				Doc: f.Doc, Example: fieldExample(f), meta: typeText(f),
			})
			if f.Required {
				out[len(out)-1].Default = ""
			}
		}
	})
	return out
}

// within says that the path, as eachField gives it, is the field or in it, which is
// everything where it is empty. Names of the user's own are all alike.
func within(path, field string) bool {
	names := strings.Split(path, ".")
	for i, n := range strings.FieldsFunc(field, func(r rune) bool { return r == '.' }) {
		if i >= len(names) || names[i] != "NAME" && strings.TrimSuffix(names[i], "[]") != n {
			return false
		}
	}
	return true
}

// Names are all names that Explain knows.
func Names(r *connect.Registry) ([]string, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	names := spec.FieldNames()
	add := func(t *connect.Type, prefixes ...string) {
		eachField(t, "", func(path string, _ *connect.Field) {
			for _, p := range prefixes {
				names = append(names, p+"."+path)
			}
		})
	}
	for _, role := range connect.Roles() {
		for _, c := range r.Connectors(role) {
			full := join(string(role), c.Name)
			names = append(names, c.Name, full)
			add(c.Spec.Type, c.Name, full)
		}
	}
	for _, f := range spec.Fields {
		eachField(&connect.Type{Fields: []*connect.Field{f}}, "", func(path string, _ *connect.Field) { names = append(names, path) })
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Suggest says what may be meant by a name that Explain does not know: where
// there is a field of that name, or which name is like it. It may be empty.
func Suggest(r *connect.Registry, name string) (string, error) {
	names, err := Names(r)
	if err != nil {
		return "", err
	}
	var owners []string
	for _, n := range names {
		owner, path, ok := strings.Cut(n, ".")
		if ok && r.Find(connect.Role(owner), path) == nil && !slices.Contains(connect.Roles(), connect.Role(owner)) && (path == name || strings.HasSuffix(path, "."+name)) {
			owners = append(owners, owner)
		}
	}
	if len(owners) > 0 {
		return fmt.Sprintf("it is a field: see penstock explain %s", strings.Join(slices.Compact(owners), " ")), nil
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near), nil
	}
	return "", nil
}

// wrap breaks text into lines of at most n characters, where words allow it.
func wrap(s string, n int) []string {
	var lines []string
	line := ""
	for w := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(w) > n {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
