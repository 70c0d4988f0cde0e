package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// NewLogger makes the logger of a command. Format is text, json or auto: text on a
// terminal, JSON elsewhere. Level is debug, info, warn or error.
func NewLogger(w io.Writer, terminal bool, format, level string) (*slog.Logger, error) {
	var l slog.Level
	switch strings.ToLower(level) {
	case "debug", "info", "warn", "error":
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("log level: %w", err)
		}
	default:
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch {
	case format == "json", format == "auto" && !terminal:
		o.ReplaceAttr = durationText
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case format == "text", format == "auto":
		if terminal {
			o.ReplaceAttr = shortTime
		}
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, fmt.Errorf("log format %q: want auto, text or json", format)
}

// durationText writes durations with their unit; JSON has bare nanoseconds else.
func durationText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}

// shortTime leaves the date out, which a person at a terminal knows.
func shortTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String(slog.TimeKey, a.Value.Time().Format("15:04:05.000"))
	}
	return a
}
