package config

import (
	"fmt"
	"strings"

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
				fmt.Fprintf(&b, "%s\n\n", routeText(c.Route.FieldNames(), "`"))
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
func routeText(names []string, quote string) string {
	quoted := make([]string, len(names))
	for i := range names {
		quoted[i] = quote + names[i] + quote
	}
	return "In a flow with routes, " + strings.Join(quoted, ", ") + " are fields of each route's sink section, and not of this one."
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
