package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad: no panic, every finding has a place in the file, and no finding
// shows what stands where a secret belongs.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(good))
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	o := testOptions(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		flow, err := Load("flow.yaml", data, o)
		if err == nil {
			if flow.Name == "" || flow.Source.Connector == nil || flow.Sink.Connector == nil {
				t.Fatal("a flow without its parts was accepted")
			}
			return
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("the error is no list of findings: %v", err)
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, p := range ps {
			if p.more == 0 && (p.Line < 1 || p.Column < 1 || p.Line > lines+1) {
				t.Fatalf("a finding without a place: %+v", p)
			}
		}
		_ = ps.Text()
	})
}

func TestHostileInput(t *testing.T) {
	o := testOptions(t)
	for name, data := range map[string]string{
		"too large":        strings.Repeat("a", maxFileSize+1),
		"open lists":       strings.Repeat("[", 100_000),
		"open mappings":    strings.Repeat("{a: ", 30_000),
		"dashes":           strings.Repeat("- ", 50_000),
		"indented":         indented(1000),
		"billion laughs":   "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
		"many keys":        strings.Repeat("a: 1\n", 5_000),
		"question marks":   strings.Repeat("? ", 30_000),
		"tags":             strings.Repeat("!!a ", 30_000),
		"not UTF-8":        "flow: \xff",
		"UTF-16":           "\xff\xfef\x00l\x00",
		"zero":             "flow: a\x00b",
		"colons":           strings.Repeat("a:\n a:\n", 2_000),
		"quotes":           strings.Repeat(`"`, 100_001),
		"unclosed literal": "a: |\n" + strings.Repeat(" x\n", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load("flow.yaml", []byte(data), o)
			var ps Problems
			if !errors.As(err, &ps) || ps[0].Line < 1 {
				t.Errorf("error %.200v", err)
			}
		})
	}
}

func indented(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}
