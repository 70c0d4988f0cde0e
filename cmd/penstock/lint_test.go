package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/penstockdev/penstock/config"
	"github.com/penstockdev/penstock/connect/all"
)

// folder writes files and returns their folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLintFindsAllOfAllFilesInOnePass(t *testing.T) {
	wrong := strings.Replace(strings.Replace(goodFlow, "table: telemetry", "tabel: telemetry", 1), "seq: int8", "seq: int9", 1)
	dir := folder(t, map[string]string{
		"a.yaml": goodFlow,
		"b.yaml": "flow: [",
		"c.yaml": strings.Replace(wrong, "flow: telemetry", "flow: c", 1),
		"d.yaml": goodFlow,
	})
	r := penstock(t, []string{password}, "lint", dir, "/nonexistent.yaml")
	out := strings.ReplaceAll(r.stdout, dir+"/", "")
	for _, want := range []string{
		"/nonexistent.yaml: cannot be read: no such file",
		"a.yaml: ok\n",
		"b.yaml:1:7: this is not YAML",
		"c.yaml:11:12: decode.json.columns.seq.type: \"int9\"",
		`did you mean "table"?`,
		"d.yaml:1:7: flow: \"telemetry\" is the name of another flow, too: a.yaml:1:7",
		"every record becomes two rows",
		"\n7 findings\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if r.code != 2 || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d, want 2 for the file that is not there; or colour:\n%q", r.code, out)
	}
	if r := penstock(t, []string{password}, "lint", dir); r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
}

func TestLintTellsProgramsAndWorkflows(t *testing.T) {
	dir := folder(t, map[string]string{"x.yaml": strings.Replace(goodFlow, "table: telemetry", "tabel: telemetry", 1)})
	path := filepath.Join(dir, "x.yaml")
	r := penstock(t, []string{password}, "lint", path, "-o", "json")
	var got lintReport
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != 1 {
		t.Fatalf("exit code %d, %v:\n%s", r.code, err, r.stdout)
	}
	if got.Errors != 1 || got.Warnings != 0 || len(got.Findings) != 1 {
		t.Fatalf("%+v", got)
	}
	p := got.Findings[0]
	if p.File != path || p.Line != 14 || p.Column != 41 || p.Severity != config.SeverityError || p.Rule != config.RuleUnknownField || p.Suggestion != "table" {
		t.Errorf("%+v", p)
	}
	for _, field := range []string{`"allowed": [`, `"suggestion":`, `"rule":`, `"column":`, `"message":`} {
		if !strings.Contains(r.stdout, field) {
			t.Errorf("%s is not in\n%s", field, r.stdout)
		}
	}
	r = penstock(t, []string{password}, "lint", path, "-o", "github")
	if want := "::error file=" + path + ",line=14,col=41,title=unknown-field::sink.sqlite has no field \"tabel\"; did you mean \"table\"?%0Aallowed: "; !strings.HasPrefix(r.stdout, want) {
		t.Errorf("got  %s\nwant %s", r.stdout, want)
	}
	r = penstock(t, []string{password}, "lint", write(t, goodFlow), "-o", "json")
	if !strings.Contains(r.stdout, `"findings": []`) || r.code != 0 {
		t.Errorf("exit code %d, and no empty list:\n%s", r.code, r.stdout)
	}
}

func TestWarningsFailWithStrict(t *testing.T) {
	path := write(t, goodFlow)
	env := []string{password, "PENSTOCK_BATCH_RECRODS=1"}
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"lint", path}, 0}, {[]string{"lint", path, "--strict"}, 1}} {
		r := penstock(t, env, c.args...)
		if r.code != c.code || !strings.Contains(r.stdout, "warning: ignored") || !strings.Contains(r.stdout, "0 findings, 1 warning") {
			t.Errorf("%v: exit code %d, want %d:\n%s", c.args, r.code, c.code, r.stdout)
		}
	}
}

func TestLintWithServicesPointsAtTheField(t *testing.T) {
	path := write(t, goodFlow)
	r := penstock(t, []string{password, "DB=" + filepath.Join(t.TempDir(), "t.db")}, "lint", path, "--services", "--timeout", "5s")
	if r.code != 1 || !strings.Contains(r.stdout, path+":") || !strings.Contains(r.stdout, "127.0.0.1:1") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	if all := r.stdout + r.stderr; strings.Contains(all, "correct-horse") {
		t.Errorf("a secret is shown:\n%s", all)
	}
}

func TestColourOnDemand(t *testing.T) {
	path := write(t, "flow: [")
	for args, want := range map[string]bool{"": false, "always": true, "never": false} {
		command := []string{"lint", path}
		if args != "" {
			command = append(command, "--color", args)
		}
		if got := strings.Contains(penstock(t, nil, command...).stdout, "\x1b["); got != want {
			t.Errorf("--color %s: colour %v", args, got)
		}
	}
	r := penstock(t, nil, "run", path, "--color", "always") // on the other stream
	if !strings.Contains(r.stderr, "\x1b[") {
		t.Errorf("no colour in %q", r.stderr)
	}
}

// TestExamplesOfExplainAreRight takes the examples of the real connectors for what
// they are: flow files.
func TestExamplesOfExplainAreRight(t *testing.T) {
	r, err := all.Registry()
	if err != nil {
		t.Fatal(err)
	}
	example := func(name string) string {
		d, err := config.Explain(r, name)
		if err != nil || len(d) != 1 {
			t.Fatalf("explain %s: %v, %v", name, d, err)
		}
		return d[0].Example
	}
	for _, e := range config.List(r) {
		file := "flow: example\n"
		parts := map[string]string{"source": "kafka", "decode": "json", "sink": "postgres"}
		parts[string(e.Role)] = e.Name
		for _, role := range []string{"source", "decode", "sink", "dead_letters"} {
			if parts[role] != "" {
				file += example(role + "." + parts[role])
			}
		}
		if e.Name == "stdout" {
			file += example("dead_letters.kafka")
		}
		if e.Name == "kafka" && string(e.Role) == "sink" {
			file = strings.Replace(file, example("decode.json"), "", 1)
		}
		_, err := config.Load("example.yaml", []byte(file), config.Options{Registry: r})
		if diff := cmp.Diff(nil, err); diff != "" {
			t.Errorf("%s %s: %v\n%s", e.Role, e.Name, err, file)
		}
	}
}
