package config

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/penstockdev/penstock/connect"
)

// object is a JSON object; encoding/json writes its keys in order.
type object map[string]any

// JSONSchema is the schema of flow files (draft 2020-12), for editors.
func JSONSchema(r *connect.Registry) ([]byte, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	root := schemaOf(r, nil, spec.Type)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Penstock flow file"
	root["allOf"] = routeRules(r)
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the JSON Schema: %w", err)
	}
	return append(out, '\n'), nil
}

// interpolated is a text that becomes a value when the file is read.
func interpolated() object { return object{"type": "string", "pattern": `\$\{`} }

func schemaOf(r *connect.Registry, f *connect.Field, t *connect.Type) object {
	switch t.Kind {
	case connect.KindString, connect.KindSecret:
		if f != nil && f.Enum != nil {
			return object{"anyOf": []any{object{"enum": f.Enum}, interpolated()}}
		}
		// What is plain in YAML is text here, whatever it looks like.
		return object{"type": []string{"string", "number", "boolean"}}
	case connect.KindBool:
		return object{"anyOf": []any{object{"type": "boolean"}, interpolated()}}
	case connect.KindInt:
		return object{"anyOf": []any{object{"type": "integer"}, interpolated()}}
	case connect.KindFloat:
		return object{"anyOf": []any{object{"type": "number"}, interpolated()}}
	case connect.KindDuration:
		return object{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h))+$|\$\{`}
	case connect.KindBytes:
		return object{"anyOf": []any{
			object{"type": "integer", "minimum": 0},
			object{"type": "string", "pattern": `^[0-9]+ *([KMG]i?B|B)?$|\$\{`},
		}}
	case connect.KindList:
		if t.Key != nil {
			return object{"type": "object", "additionalProperties": keyedSchema(r, t)}
		}
		list := object{"type": "array", "items": schemaOf(r, f, t.Elem)}
		if t.Elem.Scalar() {
			return object{"anyOf": []any{list, interpolated()}}
		}
		return list
	case connect.KindMap:
		return object{"type": "object", "additionalProperties": schemaOf(r, f, t.Elem)}
	case connect.KindStruct:
		return structSchema(r, t)
	case connect.KindChoice:
		props := object{}
		for _, c := range r.Connectors(t.Role) {
			s := schemaOf(r, nil, sectionType(c))
			s["description"] = c.Doc
			if s["required"] == nil {
				s["type"] = []string{"object", "null"}
			}
			props[c.Name] = s
		}
		return object{"type": "object", "properties": props, "additionalProperties": false, "minProperties": 1, "maxProperties": 1}
	case connect.KindRoute: // see routeRules
		return object{"type": "object"}
	}
	return object{}
}

// sectionType is the type of a connector's section. What is required of its
// routes is not required of the section: that depends on whether there are routes.
func sectionType(c *connect.Connector) *connect.Type {
	if c.Route == nil {
		return c.Spec.Type
	}
	t := *c.Spec.Type
	t.Fields = make([]*connect.Field, len(c.Spec.Fields))
	for i, f := range c.Spec.Fields {
		own := *f
		own.Required = f.Required && c.Route.Field(f.Name) == nil
		t.Fields[i] = &own
	}
	return &t
}

// routeRules say for each sink that takes routes where the routes' fields are: in
// the routes, or without these in the sink's section.
func routeRules(r *connect.Registry) []any {
	const routes, sink = routesPath, string(connect.RoleSink)
	rules := []any{object{"not": object{"required": []string{routes, string(connect.RoleDecode)}}}}
	for _, c := range r.Connectors(connect.RoleSink) {
		section := func(s object) object {
			return object{sink: object{"properties": object{c.Name: s}}}
		}
		is := object{"required": []string{sink}, "properties": object{sink: object{"required": []string{c.Name}}}}
		if c.Route == nil {
			rules = append(rules, object{"if": is, "then": object{"not": object{"required": []string{routes}}}})
			continue
		}
		elsewhere, required := object{}, []string{}
		for _, f := range c.Route.Fields {
			elsewhere[f.Name] = false
			if f.Required {
				required = append(required, f.Name)
			}
		}
		routed := section(object{"properties": elsewhere})
		routed[routes] = object{"additionalProperties": object{"properties": object{sink: structSchema(r, c.Route.Type)}}}
		rules = append(rules, object{
			"if": is,
			"then": object{
				"if":   object{"required": []string{routes}},
				"then": object{"properties": routed},
				"else": object{"properties": section(object{"required": required})},
			},
		})
	}
	return rules
}

// keyedSchema is one value of a mapping that stands for a list.
func keyedSchema(r *connect.Registry, t *connect.Type) object {
	full := structSchema(r, t.Elem)
	if t.Short == nil {
		return full
	}
	return object{"anyOf": []any{schemaOf(r, t.Short, t.Short.Type), full}}
}

func structSchema(r *connect.Registry, t *connect.Type) object {
	props, required := object{}, []string{}
	for _, f := range t.Fields {
		s := schemaOf(r, f, f.Type)
		s["description"] = f.Doc
		if f.Default != "" {
			s["default"] = defaultValue(f)
		}
		if f.Secret {
			s["writeOnly"] = true
		}
		props[f.Name] = s
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out := object{"type": "object", "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// defaultValue is a default as JSON has it.
func defaultValue(f *connect.Field) any {
	if f.Type.Kind == connect.KindInt || f.Type.Kind == connect.KindFloat {
		if n, err := strconv.ParseFloat(f.Default, 64); err == nil {
			return n
		}
	}
	return f.Default
}
