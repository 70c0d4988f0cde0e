package config

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/penstockdev/penstock/connect"
)

// Reference is the reference page of flow files, in Markdown.
func Reference(r *connect.Registry) (string, error) {
	spec, err := Spec()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(referenceHead)
	b.WriteString("## The file\n\n")
	fieldTable(&b, spec.Type, "")
	titles := map[connect.Role]string{
		connect.RoleSource: "Sources", connect.RoleDecode: "Decoders", connect.RoleSink: "Sinks", connect.RoleDeadLetters: "Dead-letter queues",
	}
	for _, role := range connect.Roles() {
		fmt.Fprintf(&b, "## %s\n\n", titles[role])
		for _, c := range r.Connectors(role) {
			fmt.Fprintf(&b, "### %s: %s\n\n%s\n\n", role, c.Name, c.Doc)
			if len(c.Spec.Fields) == 0 {
				b.WriteString("It has no fields.\n\n")
				continue
			}
			fieldTable(&b, c.Spec.Type, "")
			if c.Route != nil {
				fmt.Fprintf(&b, "%s\n\n", routeText(c, "`"))
			}
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

const referenceHead = `<!-- Generated from the connectors' configuration structs by "go generate ./cmd/penstock". Do not edit. -->

# Flow files

A flow file is a YAML document that says what a flow is made of. ` + "`penstock lint FILE`" + ` checks one,
` + "`penstock run FILE`" + ` runs it, ` + "`penstock schema`" + ` prints a JSON Schema for editors.

A duration is a number with a unit: ` + "`500ms`, `30s`, `5m`, `1h30m`" + `. A size is a number of bytes, or one with a unit:
` + "`512KiB`, `16MiB`, `1GiB`, `10MB`" + `. A list of plain values that comes from a variable or a flag is separated by commas.

## Where a value comes from

The first of these that gives a value wins:

1. a flag: ` + "`--set batch.records=5000`" + `. Whole sections are written like YAML: ` + "`--set 'batch={records: 5000, wait: 1ms}'`" + `.
   Another connector replaces that of the file: ` + "`--set sink.stdout={}`" + `;
2. an environment variable: ` + "`PENSTOCK_`" + ` and the path of the field in upper case with underscores for dots, like
   ` + "`PENSTOCK_SOURCE_KAFKA_BROKERS=a:9092,b:9092`" + `. An empty variable counts as absent, and one about a connector that the flow does
   not use is ignored with a warning. Columns cannot be set this way;
3. the file;
4. the default.

In the values of the file, ` + "`${NAME}`" + ` is the environment variable NAME, which must be set; ` + "`${NAME:-text}`" + ` has a default for
when it is absent or empty; ` + "`${file:/path}`" + ` is what a file holds, without its last line end; ` + "`$$`" + ` is a dollar sign (one that no
brace follows may stay single). The result is always one plain value, never YAML. Values marked *secret* never appear in a message, a log or a page.

Anchors, aliases, tags and several documents are not supported. A file has at most 1 MiB, and 32 levels.

`

func fieldTable(b *strings.Builder, t *connect.Type, prefix string) {
	b.WriteString("| field | type | default | |\n|---|---|---|---|\n")
	fieldRows(b, t, prefix)
	b.WriteString("\n")
}

func fieldRows(b *strings.Builder, t *connect.Type, prefix string) {
	eachField(t, prefix, func(path string, f *connect.Field) {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", path, cell(typeText(f)), cell(defaultText(f, "`")), cell(f.Doc))
	})
}

// eachField calls visit for the fields of t and of what is in them. Names of the
// user's own appear as NAME.
func eachField(t *connect.Type, prefix string, visit func(path string, f *connect.Field)) {
	for _, f := range t.Fields {
		path := prefix + f.Name
		visit(path, f)
		switch f.Type.Kind {
		case connect.KindStruct:
			eachField(f.Type, path+".", visit)
		case connect.KindMap:
			eachField(f.Type.Elem, path+".NAME.", visit)
		case connect.KindList:
			if f.Type.Key != nil {
				eachField(f.Type.Elem, path+".NAME.", visit)
			} else {
				eachField(f.Type.Elem, path+"[].", visit)
			}
		default: // scalars and choices
		}
	}
}

// routeText says which fields a sink's routes have of their own.
func routeText(c *connect.Connector, quote string) string {
	names := c.Route.FieldNames()
	for i := range names {
		names[i] = quote + names[i] + quote
	}
	return "In a flow with routes, " + strings.Join(names, ", ") + " are fields of each route's sink section, and not of this one."
}

func typeText(f *connect.Field) string {
	s := f.Type.String()
	if f.Enum != nil {
		s = strings.Join(f.Enum, ", ")
		if f.Type.Kind == connect.KindList {
			s = "list of " + s
		}
	}
	if f.Type.Kind == connect.KindChoice {
		s = "one of the connectors below"
	}
	if f.Type.Kind == connect.KindRoute {
		s = "fields of the flow's sink"
	}
	if f.Type.Short != nil {
		s += ", or to " + f.Type.Short.Name + " alone"
	}
	if f.Secret {
		s += ", secret"
	}
	return s
}

func defaultText(f *connect.Field, quote string) string {
	switch {
	case f.Required:
		return "required"
	case f.Default != "":
		return quote + f.Default + quote
	case f.Type.Kind == connect.KindBool:
		return quote + "false" + quote
	}
	return ""
}

// cell escapes what would end a cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// Explain describes the connectors of that name, the section of a flow file, or
// the field (batch.records, kafka.sasl, sink.kafka.delivery), for a terminal. It
// returns "" where there is none.
func Explain(r *connect.Registry, name string) (string, error) {
	spec, err := Spec()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	section, _, _ := strings.Cut(name, ".")
	f := spec.Field(section)
	if f != nil && f.Type.Kind == connect.KindChoice && name == f.Name {
		fmt.Fprintf(&b, "%s\n%s\n\n", f.Name, f.Doc)
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
			explain(&b, fmt.Sprintf("%s: %s\n%s", role, c.Name, c.Doc), c.Spec.Type, field)
			if !dotted {
				explainRoutes(&b, c)
			}
		}
	}
	if f != nil && f.Type.Kind != connect.KindChoice {
		explain(&b, f.Name+"\n"+f.Doc, &connect.Type{Fields: []*connect.Field{f}}, name)
	}
	return strings.TrimRight(b.String(), "\n"), nil
}

// Suggest says what may be meant by a name that Explain does not know: where
// there is a field of that name, or which name is like it. It may be empty.
func Suggest(r *connect.Registry, name string) (string, error) {
	spec, err := Spec()
	if err != nil {
		return "", err
	}
	names := spec.FieldNames()
	var owners []string
	look := func(owner string, t *connect.Type, prefixes ...string) {
		eachField(t, "", func(path string, _ *connect.Field) {
			if path == name || strings.HasSuffix(path, "."+name) {
				owners = append(owners, owner)
			}
			for _, p := range prefixes {
				names = append(names, p+"."+path)
			}
		})
	}
	for _, role := range connect.Roles() {
		for _, c := range r.Connectors(role) {
			full := join(string(role), c.Name)
			names = append(names, c.Name, full)
			look(c.Name, c.Spec.Type, c.Name, full)
		}
	}
	for _, f := range spec.Fields {
		look(f.Name, f.Type, f.Name)
	}
	if len(owners) > 0 {
		slices.Sort(owners)
		return fmt.Sprintf("it is a field: see penstock explain %s", strings.Join(slices.Compact(owners), " ")), nil
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near), nil
	}
	return "", nil
}

// explain writes the field of t and those in it; all of them where it is empty, and
// nothing where there is no such field.
func explain(b *strings.Builder, title string, t *connect.Type, field string) {
	var fields strings.Builder
	eachField(t, "", func(path string, f *connect.Field) {
		if !within(path, field) {
			return
		}
		meta := typeText(f)
		if d := defaultText(f, ""); f.Required {
			meta += "; required"
		} else if d != "" {
			meta += "; default " + d
		}
		fmt.Fprintf(&fields, "  %s\n      %s\n", path, meta)
		for _, l := range wrap(f.Doc, 72) {
			fmt.Fprintf(&fields, "      %s\n", l)
		}
	})
	if field == "" || fields.Len() > 0 {
		fmt.Fprintf(b, "%s\n\n%s\n", title, fields.String())
	}
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

func explainRoutes(b *strings.Builder, c *connect.Connector) {
	if c.Route == nil {
		return
	}
	for _, l := range wrap(routeText(c, ""), 76) {
		fmt.Fprintf(b, "  %s\n", l)
	}
	b.WriteString("\n")
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

// List names the connectors and what they are, for a terminal.
func List(r *connect.Registry) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, role := range connect.Roles() {
		for _, c := range r.Connectors(role) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", role, c.Name, c.Doc)
		}
	}
	_ = w.Flush() // a strings.Builder does not fail
	return b.String()
}
