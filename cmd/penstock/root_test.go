package main

import (
	"debug/buildinfo"
	"encoding/json"
	"strings"
	"testing"
)

func TestWrongUsageNamesTheCommandAndTheNextStep(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"lnt":                        `penstock has no command "lnt"; did you mean init or lint or list?`,
		"help lnt":                   `penstock has no command "lnt"`,
		"help dlq lst":               `penstock dlq has no command "lst"; did you mean list?`,
		"dlq lst":                    "\n  penstock dlq --help says more",
		"completion bsh":             `penstock completion has no command "bsh"; did you mean bash or`,
		"init orders":                `penstock init takes no arguments, and was given ["orders"]`,
		"init --tpic x":              "unknown flag: --tpic\n  usage: penstock init --brokers",
		"lint":                       "penstock lint: requires at least 1 arg(s), only received 0\n  usage: penstock lint FILE|DIR...",
		"run x.yaml -n 5":            "--records is for --dry-run",
		"flows --token-file nowhere": "nowhere",
		"lint -o yaml x":             "want table, json or github\n  usage: penstock lint",
	} {
		if r := penstock(t, nil, strings.Fields(args)...); r.code != 2 || !strings.Contains(r.stderr, want) || r.stdout != "" {
			t.Errorf("penstock %s: exit code %d, want 2, and\n%s\ngot\n%s%s", args, r.code, want, r.stderr, r.stdout)
		}
	}
	for _, args := range []string{"help", "help dlq list", "dlq", "completion", "completion bash"} {
		if r := penstock(t, nil, strings.Fields(args)...); r.code != 0 || r.stderr != "" {
			t.Errorf("penstock %s: exit code %d: %s", args, r.code, r.stderr)
		}
	}
	if r := penstock(t, nil, "schema", "-o", "json"); r.code != 0 || !json.Valid([]byte(r.stdout)) {
		t.Errorf("-o json wrote %q, exit code %d", r.stdout, r.code)
	}
}

// termenv asks the terminal for its colours when the process starts, which costs every command five
// seconds where nobody answers, and leaves the answer in the input where somebody does.
func TestNothingAsksTheTerminalAtTheStart(t *testing.T) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range info.Deps {
		if d.Path == "github.com/muesli/termenv" {
			t.Errorf("the binary holds %s %s", d.Path, d.Version)
		}
	}
}
