package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/decode"
	"github.com/penstockdev/penstock/flow"
)

func jsonConnectors() []connect.Entry {
	return []connect.Entry{connect.Decoder[decode.JSONConfig]{
		Name: "json", Doc: "JSON documents: a path and a type per column; columns also from key, headers and position.",
		New: func(c decode.JSONConfig) (flow.Transform, error) { return decode.NewJSON(c) },
	}}
}
