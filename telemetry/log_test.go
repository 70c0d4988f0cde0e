package telemetry

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		format   string
		terminal bool
		json     bool
	}{{"auto", false, true}, {"auto", true, false}, {"text", false, false}, {"json", true, true}} {
		var b bytes.Buffer
		log, err := NewLogger(&b, tt.terminal, tt.format, "warn")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not this")
		log.Warn("this")
		if json.Valid(b.Bytes()) != tt.json || !strings.Contains(b.String(), "this") || strings.Contains(b.String(), "not this") {
			t.Errorf("%+v: %s", tt, b.String())
		}
	}
	var b bytes.Buffer
	log, err := NewLogger(&b, false, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("x", slog.Duration("wait", 68*time.Millisecond), slog.Group("g", slog.Any("grace", 30*time.Second)))
	for _, part := range []string{`"wait":"68ms"`, `"grace":"30s"`} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("the log lacks %s: %s", part, b.String())
		}
	}
	if _, err := NewLogger(io.Discard, false, "xml", "info"); err == nil {
		t.Error("format xml is accepted")
	}
	if _, err := NewLogger(io.Discard, false, "text", "loud"); err == nil {
		t.Error("level loud is accepted")
	}
}
