package all

import (
	"github.com/penstockdev/penstock/connect"
	"github.com/penstockdev/penstock/connect/stdout"
	"github.com/penstockdev/penstock/flow"
)

func stdoutConnectors() []connect.Entry {
	return []connect.Entry{connect.Sink[stdout.SinkConfig]{
		Name: "stdout", Doc: "Standard output: rows, or records as they are, for a person or a pipe. At least once.",
		StoresDeadLetters: true,
		New:               func(c stdout.SinkConfig) (flow.Sink, error) { return stdout.NewSink(c) },
	}}
}
