package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/internal/doctor"
)

func TestEveryCommandHasAHeadingInTheHelp(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		if cmd.Runnable() && !cmd.Hidden && cmd.GroupID == "" {
			t.Errorf("%s is in no group: add it to groups in root.go", cmd.Name())
		}
	}
	help := penstock(t, nil, "--help").stdout
	for _, want := range []string{"Before it runs:", "While it runs:", "Look up:", "completion", "exit-codes"} {
		if !strings.Contains(help, want) {
			t.Errorf("%q is not in\n%s", want, help)
		}
	}
	if r := penstock(t, nil, "help", "exit-codes"); r.code != 0 || !strings.Contains(r.stdout, "2  wrong usage") {
		t.Errorf("exit code %d:\n%s", r.code, r.stdout)
	}
}

func TestWhatIsLookedUpIsThereForPrograms(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"list"}, `"name": "postgres"`},
		{[]string{"explain", "batch.records"}, `"default": "20000"`},
		{[]string{"explain", "sqlite", "kafka"}, `"example": "sink:\n  sqlite:\n    path: orders.db\n    table: orders\n"`},
		{[]string{"version"}, `"go": "go1.`},
		{[]string{"schema", "--output", ""}, `"title": "Penstock flow file"`},
	} {
		args := c.args
		if args[0] != "schema" {
			args = append(args, "-o", "json")
		}
		r := penstock(t, nil, args...)
		if r.code != 0 || !json.Valid([]byte(r.stdout)) || !strings.Contains(r.stdout, c.want) {
			t.Errorf("%v: exit code %d, %q is not in\n%s", args, r.code, c.want, r.stdout)
		}
	}
	r := penstock(t, nil, "explain", "kafak", "batch", "moed")
	if r.code != 2 || !strings.Contains(r.stderr, `"kafka"`) || !strings.Contains(r.stderr, `"mode"`) && !strings.Contains(r.stderr, "moed") {
		t.Errorf("exit code %d:\n%s", r.code, r.stderr)
	}
}

func TestTheShellCompletes(t *testing.T) {
	for _, c := range []struct{ args, want, without string }{
		{"lint ", "yaml\nyml\n:8", ""},
		{"doctor ", "yaml\nyml\n:8", ""},
		{"run ", "yaml\nyml\n:8", ""},
		{"explain ", "kafka\n", "kafka.topics"},
		{"explain kafka.to", "kafka.topics\n", "batch"},
		{"lint -o ", "table\njson\ngithub\n", ""},
		{"list -o ", "table\njson\n", "github"},
		{"run --set batch.", "batch.records=\n", "lanes"},
		{"run --log-level ", "debug\n", ""},
		{"doctor --color ", "always\n", ""},
	} {
		words := strings.Split(c.args, " ")
		out := penstock(t, nil, append([]string{"__complete"}, words...)...).stdout
		if !strings.Contains(out, c.want) || c.without != "" && strings.Contains(out, c.without) {
			t.Errorf("%s: %q is not in %q, or %q is", c.args, c.want, out, c.without)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := penstock(t, nil, "completion", shell); r.code != 0 || r.stdout == "" {
			t.Errorf("completion %s: exit code %d\n%s", shell, r.code, r.stderr)
		}
	}
}

func TestDoctor(t *testing.T) {
	r := penstock(t, nil, "doctor")
	if r.code != 0 || !strings.Contains(r.stdout, "GOMAXPROCS") || !strings.Contains(r.stdout, "penstock doctor FILE") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	missing := filepath.Join(t.TempDir(), "none", "t.db")
	path := write(t, goodFlow)
	r = penstock(t, []string{password, "DB=" + missing}, "doctor", path, "--timeout", "5s", "-o", "json")
	var report doctor.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 1 {
		t.Fatalf("exit code %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if len(report.Flows) != 1 || report.Flows[0].File != path || report.Failed < 2 {
		t.Errorf("%+v", report)
	}
	for _, want := range []string{"mkdir -p " + filepath.Dir(missing), "127.0.0.1:1"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in\n%s", want, r.stdout)
		}
	}
	if _, err := os.Stat(filepath.Dir(missing)); !os.IsNotExist(err) {
		t.Errorf("something was created: %v", err)
	}
	if all := r.stdout + r.stderr; strings.Contains(all, "correct-horse") {
		t.Errorf("a secret is shown:\n%s", all)
	}
	r = penstock(t, nil, "doctor", write(t, "flow: ["))
	if r.code != 2 || !strings.Contains(r.stderr, "not YAML") {
		t.Errorf("exit code %d:\n%s", r.code, r.stderr)
	}
}
