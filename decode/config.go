package decode

import (
	"errors"
	"fmt"
	"strings"

	"github.com/penstockdev/penstock/connect"
)

// Column describes one column: its type, and where in the record it comes from.
type Column struct {
	Name string `yaml:"name" required:"true" doc:"The column's name in the target."`

	Type string `yaml:"type" required:"true" doc:"text, int2, int4, int8, float4, float8, numeric, numeric(p), numeric(p,s), bool, timestamptz, timestamp, date, uuid, bytea, json, jsonb, or one of them followed by []."`

	Path string `yaml:"path" doc:"Where the value is in the document: keys and array indices with dots between them (meta.sensors.0.id), a key with dots in double quotes (meta.\"a.b\"), $ alone for the whole document (write a, not $.a). A document that is not an object, null too, is rejected unless a column takes it whole. Default: the key that is the column's name. With from: key, a path says that the key is a document."`

	From string `yaml:"from" default:"value" doc:"What is read: value, key, header:NAME (the last header of that name), topic, partition, offset, timestamp (the record's), or raw: the whole value as it is, into text, bytea, json or jsonb."`

	Format string `yaml:"format" doc:"How the value is written. Times and dates: rfc3339 (the default; dates: 2006-01-02), unix, unix_ms, unix_us, unix_ns, or a layout of Go's package time. Numbers and bool: string allows them in a string. bytea: base64 (the default in a document), base64url, hex."`

	Default string `yaml:"default" doc:"The value where there is none or null, written as text; arrays, json and jsonb as JSON. An empty text is written \"\" with its quotes."`

	Required bool `yaml:"required" doc:"Reject records where the value is absent or null and there is no default."`
}

// JSONConfig says which columns are made of JSON documents.
type JSONConfig struct {
	Columns []Column `yaml:"columns" keyed:"Name" short:"Type" required:"true" doc:"The columns, in the target's order."`
}

// Validate refuses columns that cannot be, with a *connect.FieldError for each of
// them.
func (c *JSONConfig) Validate() error {
	_, err := compile(c.Columns)
	return err
}

// source is what a column is read from.
type source uint8

const (
	fromValue source = iota
	fromKey
	fromHeader
	fromTopic
	fromPartition
	fromOffset
	fromTimestamp
	fromRaw
)

func parseFrom(s string) (src source, header string, err error) {
	if name, ok := strings.CutPrefix(s, "header:"); ok {
		if name == "" {
			return 0, "", errors.New("header: needs the name of the header, like header:trace-id")
		}
		return fromHeader, name, nil
	}
	switch s {
	case "", "value":
		return fromValue, "", nil
	case "key":
		return fromKey, "", nil
	case "topic":
		return fromTopic, "", nil
	case "partition":
		return fromPartition, "", nil
	case "offset":
		return fromOffset, "", nil
	case "timestamp":
		return fromTimestamp, "", nil
	case "raw":
		return fromRaw, "", nil
	}
	return 0, "", fmt.Errorf("%q is not a part of a record; one of value, key, header:NAME, topic, partition, offset, timestamp, raw", s)
}

// fieldErrorf makes the error about one field of a column.
func fieldErrorf(c *Column, field, format string, args ...any) error {
	path := "columns"
	if c.Name != "" {
		path += "." + c.Name
	}
	if field != "" {
		path += "." + field
	}
	return connect.Errorf(path, format, args...)
}
