package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/testservice"
)

// deadFlow makes a flow with eight rows and four dead letters in SQLite, and returns its file. Its
// source is not there any more.
func deadFlow(t *testing.T) string {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 12 {
		value := fmt.Sprintf(`{"id":%d,"amount":%d.5}`, i, i)
		switch {
		case i == 5:
			value = "{'id':5}\x1b[2J"
		case i%4 == 3:
			value = fmt.Sprintf(`{"id":%d,"amount":"%d,5"}`, i, i)
		}
		r := &kgo.Record{Key: fmt.Appendf(nil, "k%d", i), Value: []byte(value), Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}}}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	file := write(t, fmt.Sprintf(`flow: orders
source: {kafka: {brokers: [%q], topics: [orders], start: earliest}}
decode: {json: {columns: {id: int8, amount: float8, off: {type: int8, from: offset}}}}
sink: {sqlite: {path: %q, table: orders, create_table: true}}
admin: {address: "127.0.0.1:%d"}
`, cluster.ListenAddrs()[0], filepath.Join(t.TempDir(), "orders.db"), testservice.Port(t)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, binary, "run", file)
	run.Cancel = func() error { return run.Process.Signal(syscall.SIGTERM) }
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(penstock(t, nil, "dlq", "list", file).stdout, ": 4 dead letters in table penstock_dead_letter") {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("there are no dead letters")
		}
	}
	cancel()
	_ = run.Wait() // it was told to end
	return file
}

func TestDeadLettersFromListToRow(t *testing.T) {
	t.Parallel()
	file := deadFlow(t)
	export := filepath.Join(t.TempDir(), "letters.ndjson")
	const edit = `amount=double(value.amount.replace(",", "."))`
	for _, step := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"list"}, 0, []string{"CLASS", "type       orders  amount  3", "malformed  orders          1", "orders/0/5"}},
		{[]string{"list", "-o", "json", "--class", "type"}, 0, []string{`"letters": 3`, `"unfinished_jobs": []`, `"example": "orders/0/3"`}},
		{[]string{"list", "--letters", "--where", `value.id > 3 && headers["tenant"] == "acme"`}, 0, []string{"orders/0/7", "orders/0/11", "--where could not be evaluated for 1 letters"}},
		{[]string{"show", "orders/0/5"}, 0, []string{"malformed (decode)", "key        k5", "tenant = acme", `{'id':5}\x1b[2J`}},
		{[]string{"show", "orders/0/3"}, 0, []string{"    {\n      \"id\": 3,\n"}},
		{[]string{"show", "-o", "json", "--text", "{'id'"}, 0, []string{`"id":"orders/0/5"`, `"value":"{'id':5}\u001b[2J"`}},
		{[]string{"show", "orders/0/4"}, 1, []string{"no such dead letter"}},
		{[]string{"redrive", "--class", "type"}, 0, []string{"3 dead letters of flow orders", "Nothing was done: --yes does it."}},
		{[]string{"redrive", "--edit", edit, "--dry-run"}, 0, []string{"orders/0/3", `{"amount":3.5,"id":3,"off":3}`, "1 letter is left because the edit does not work", "Nothing was written"}},
		{[]string{"redrive", "--dry-run=2", "-o", "json"}, 0, []string{`"preview": [`, `"class": "type"`}},
		{[]string{"redrive", "--class", "type", "--edit", edit, "--yes"}, 0, []string{"redriven 3, dead again 0"}},
		{[]string{"redrive", "--yes", "-o", "json"}, 0, []string{`"redriven": 0`, `"malformed": 1`, `"left": 0`}},
		{[]string{"redrive", "--yes", "--max-redrives", "1"}, 0, []string{"1 letter is quarantined"}},
		{[]string{"drop"}, 0, []string{"1 dead letter of flow orders in table penstock_dead_letter to be dropped for good", "Nothing was done"}},
		{[]string{"drop", "--yes", "--export", file}, 1, []string{"exists already, and is not written over"}},
		{[]string{"drop", "--yes", "--export", export}, 0, []string{"dropped 1"}},
		{[]string{"list"}, 0, []string{"flow orders has no such dead letters"}},
		{[]string{"redrive", "--release"}, 0, []string{"flow orders has no unfinished redrive"}},

		{[]string{"drop", "--yes", "--key", ""}, 2, []string{"--key is empty"}},
		{[]string{"drop", "--yes", "--class", ""}, 2, []string{"--class is empty"}},
		{[]string{"redrive", "--yes", "--where="}, 2, []string{"--where is empty"}},
		{[]string{"show", "orders"}, 2, []string{"want topic/partition/offset"}},
		{[]string{"list", "--where", "clas == 'type'"}, 2, []string{"the variables are topic,"}},
		{[]string{"list", "--since", "yesterday"}, 2, []string{"--since", "no time"}},
		{[]string{"redrive", "--edit", "amount"}, 2, []string{"want path=expression"}},
		{[]string{"redrive", "--rate", "fast"}, 2, []string{"500/s"}},
		{[]string{"redrive", "--max-redrives", "0"}, 2, []string{"--max-redrives"}},
	} {
		args := append([]string{"dlq", step.args[0], file}, step.args[1:]...)
		got := penstock(t, nil, args...)
		for _, want := range step.want {
			if got.code != step.code || !strings.Contains(got.stdout+got.stderr, want) {
				t.Errorf("%q: exit code %d, want %d, and %q:\n%s%s", step.args, got.code, step.code, want, got.stdout, got.stderr)
			}
		}
		if strings.Contains(got.stdout, "\x1b") {
			t.Errorf("%q: a control character reaches the terminal", step.args)
		}
	}
	lines, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	var letter struct {
		ID, Value string
		Redrives  int
	}
	if err := json.Unmarshal(lines, &letter); err != nil || letter.ID != "orders/0/5" || letter.Redrives != 1 || letter.Value != "{'id':5}\x1b[2J" {
		t.Errorf("exported: %s, %v", lines, err)
	}
}

func TestInterruptedRedriveGoesOn(t *testing.T) {
	t.Parallel()
	file := deadFlow(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// One letter each minute: the first one at once.
	cmd := exec.CommandContext(ctx, binary, "dlq", "redrive", file, "--class", "type", "--yes", "--rate", "1/m")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(penstock(t, nil, "dlq", "list", file).stdout, "an unfinished redrive: repeat its command") {
		<-tick.C
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "the same command goes on with them") {
		t.Fatalf("interrupted: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	if got := penstock(t, nil, "dlq", "drop", file, "--yes"); got.code != 1 || !strings.Contains(got.stderr, "penstock dlq redrive --release") {
		t.Errorf("a drop meanwhile: %+v", got)
	}
	if got := penstock(t, nil, "dlq", "redrive", file, "--class", "type", "--yes"); got.code != 0 || !strings.Contains(got.stdout, "is not finished: this goes on with its 3 dead letters") ||
		!strings.Contains(got.stdout, "dead again 3 (type 3)") {
		t.Errorf("the same command: %+v", got)
	}
	if got := penstock(t, nil, "dlq", "list", file); !strings.Contains(got.stdout, "4 dead letters") || strings.Contains(got.stdout, "unfinished") {
		t.Errorf("in the end: %+v", got)
	}
}
