package config

import (
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// examples are values of fields whose names mean the same in every connector, in YAML.
// Where the type and the default say it all there is none.
var examples = map[string]string{
	"address":           "127.0.0.1:9464",
	"brokers":           "[localhost:9092]",
	"ca_file":           "/etc/penstock/ca.pem",
	"cert_file":         "/etc/penstock/client.pem",
	"columns":           "{id: int8, customer: text, created: {type: timestamptz, path: meta.created, required: true}}",
	"dead_letter_topic": "orders.dead",
	"flow":              "orders",
	"group":             "orders-loader",
	"instance_id":       "loader-${HOSTNAME}",
	"key":               "[id]",
	"key_file":          "/etc/penstock/client.key",
	"password":          "${PASSWORD}",
	"password_file":     "/run/secrets/password",
	"pattern":           `^orders\.`,
	"routes":            "{orders: {topics: [orders], decode: {json: {columns: {id: int8}}}, sink: {table: orders}}}",
	"start":             "2026-01-31T00:00:00Z",
	"table":             "orders",
	"token_file":        "/run/secrets/token",
	"topics":            "[orders]",
	"username":          "app",
}

// essentials are the fields that an example of a connector shows beside the required
// ones.
var essentials = []string{"brokers", "topics"}

// ownExample is a value that may depend on the connector's role or name.
func ownExample(c *connect.Connector, field string) string {
	switch field {
	case "topic":
		if c.Role == connect.RoleDeadLetters {
			return "orders.dead"
		}
		return "orders.copy"
	case "path":
		return "orders.db"
	case "url":
		return c.Name + "://app@localhost:5432/shop"
	case "columns":
		return "{id: int8, customer: text}"
	}
	return examples[field]
}

// fieldExample is a line of YAML; empty where it would say nothing new.
func fieldExample(f *connect.Field) string {
	value, ok := examples[f.Name]
	fits := f.Enum == nil && f.Type.Kind != connect.KindStruct && f.Type.Kind != connect.KindBool
	if !ok || !fits || strings.HasPrefix(value, "[") != (f.Type.Kind == connect.KindList && f.Type.Key == nil) {
		return ""
	}
	return f.Name + ": " + value
}

// exampleOf is the shortest section of the connector that a person would write.
func exampleOf(c *connect.Connector) string {
	var b strings.Builder
	b.WriteString(string(c.Role) + ":\n  " + c.Name + ":")
	written := false
	for _, f := range c.Spec.Fields {
		value := ownExample(c, f.Name)
		essential := f.Required
		for _, e := range essentials {
			essential = essential || e == f.Name
		}
		if !essential || value == "" {
			continue
		}
		written = true
		b.WriteString("\n    " + f.Name + ": " + value)
	}
	if !written {
		b.WriteString(" {}")
	}
	b.WriteByte('\n')
	return b.String()
}
