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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/internal/admin"
	"github.com/penstockdev/penstock/internal/testservice"
)

const steeredFlow = `flow: %[1]s
source:
  kafka: {brokers: ["%[2]s"], topics: [orders], group: %[1]s, heartbeat_interval: 100ms}
decode:
  json: {columns: {id: int8}}
sink:
  sqlite: {path: "%[3]s", table: t, create_table: true}
shutdown: {grace: 2s}
`

// steered is a penstock that runs flows of a directory.
type steered struct {
	t   *testing.T
	dir string
	env []string
}

// runDirectory runs the flows orders and other, which read the same topic of six records.
func runDirectory(t *testing.T) *steered {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	r := &steered{t: t, dir: t.TempDir()}
	token := filepath.Join(r.dir, "token")
	for name, text := range map[string]string{
		"token":       "0123456789abcdef-token\n",
		"orders.yaml": fmt.Sprintf(steeredFlow, "orders", cluster.ListenAddrs()[0], filepath.Join(r.dir, "orders.db")),
		"other.yaml":  fmt.Sprintf(steeredFlow, "other", cluster.ListenAddrs()[0], filepath.Join(r.dir, "other.db")),
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 6 {
		value := fmt.Sprintf(`{"id":%d}`, i)
		if i == 5 {
			value = `{"id":"five\u001b[2J"}`
		}
		if err := client.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", testservice.Port(t))
	r.env = []string{"PENSTOCK_ADMIN=" + address, "PENSTOCK_ADMIN_TOKEN=0123456789abcdef-token"}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "run", r.dir, "--watch=false", "--log-format", "json", "--set", "admin.address="+address, "--set", "admin.token_file="+token)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was told to end
		if t.Failed() {
			t.Logf("log of the process:\n%s", log.String())
		}
	})
	return r
}

// do runs a command, its words between blanks, against the process.
func (r *steered) do(args string) result {
	r.t.Helper()
	return penstock(r.t, r.env, strings.Fields(args)...)
}

// await repeats a command until what it prints is right.
func (r *steered) await(args, want string) {
	r.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		got := r.do(args)
		if got.code == 0 && strings.Contains(got.stdout, want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("penstock %s: %q did not come: %+v", args, want, got)
		}
	}
}

func TestSteeringARunningPenstock(t *testing.T) {
	t.Parallel()
	r := runDirectory(t)
	r.await("flows orders -o json", `"records": 6`)
	r.await("flows other -o json", `"records": 6`)
	file := filepath.Join(r.dir, "orders.yaml")
	for _, step := range []struct {
		args string
		code int
		want string
	}{
		{"flows", 0, "FLOW    STATE    RECORDS/S  LAG"},
		{"flows orders", 0, "dead letters 1 (type 1)"},
		{"flows nobody", 1, "there are: orders, other"},
		{"top --once", 0, "orders  running"},
		{"top --once orders", 0, "PARTITION  LANE  POSITION"},
		{"__complete pause o", 0, "orders\trunning\nother\trunning\n"},
		{"pause orders", 0, "to go on: penstock resume orders"},
		{"flows", 0, "orders: a person has paused it"},
		{"resume orders", 0, "flow orders reads on"},
		{"position orders", 0, "orders  0          6         0      6    0"},
		{"position orders --to beginning", 0, "6 rows are written"},
		{"position orders --to beginning", 0, "the same with --yes"},
		{"position orders --to beginning --yes", 1, "stop it first"},
		{"position " + file + " --to beginning --yes", 1, "penstock stop orders"},
		{"stop orders", 0, "to go on: penstock start orders"},
		{"pause orders", 1, "start it first"},
		{"position orders --to somewhere", 2, "want beginning, end"},
		{"position orders --yes", 2, "--to"},
		{"position orders --to orders/0=99", 1, "6"},
		{"position orders --to orders/0=6 --yes", 0, "stands there already"},
		{"position orders --to orders/0=4 --yes", 0, "are set; to go on from there: penstock start orders"},
		{"position " + file, 0, "orders  0          4         0      6    2"},
		{"position " + file + " --to end --yes -o json", 0, `"applied": true`},
		{"position " + file, 0, "orders  0          6         0      6    0"},
		{"start orders", 0, "flow orders was started"},
		{"reload", 0, "unchanged"},
		{"tap orders --where value.", 2, "--where"},
		{"tap orders --stage nothing", 1, `no stage "nothing"`},
	} {
		got := r.do(step.args)
		if got.code != step.code || !strings.Contains(got.stdout+got.stderr, step.want) {
			t.Errorf("penstock %s: exit code %d, want %d with %q:\n%s%s", step.args, got.code, step.code, step.want, got.stdout, got.stderr)
		}
		if strings.Contains(got.stdout, "\x1b") {
			t.Errorf("penstock %s colours a pipe: %q", step.args, got.stdout)
		}
	}
	if err := os.WriteFile(file, []byte("flow: orders\nsink: {nosql: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.do("reload"); got.code != 1 || !strings.Contains(got.stdout, "refused") || !strings.Contains(got.stdout, "orders.yaml:2:8") {
		t.Errorf("reload of a broken file: %+v", got)
	}
	if got := r.do("flows"); !strings.Contains(got.stdout, "the newest version of "+file+" was refused") {
		t.Errorf("flows does not say that a file was refused:\n%s", got.stdout)
	}
	r.env = r.env[:1]
	if got := r.do("flows"); got.code != 1 || !strings.Contains(got.stderr, "--token-file") {
		t.Errorf("without the token: %+v", got)
	}
	var list admin.FlowList
	if got := r.do("flows -o json --token-file " + filepath.Join(r.dir, "token")); json.Unmarshal([]byte(got.stdout), &list) != nil || len(list.Flows) != 2 {
		t.Errorf("with the token's file: %+v", got)
	}
}

func TestTapShowsWhatPasses(t *testing.T) {
	t.Parallel()
	r := runDirectory(t)
	r.await("flows orders -o json", `"records": 6`)
	// Set back again and again: the records pass until the tap has seen them.
	var seen atomic.Bool
	var passing sync.WaitGroup
	passing.Go(func() {
		for !seen.Load() {
			for _, args := range []string{"stop orders", "position orders --to beginning --yes", "start orders"} {
				r.do(args)
			}
		}
	})
	got := r.do("tap orders --stage dead -n 1")
	seen.Store(true)
	passing.Wait()
	for _, want := range []string{"dead orders[0]@5 ", `value {"id":"five\u001b[2J"}`, "\n  type "} {
		if got.code != 0 || !strings.Contains(got.stdout, want) {
			t.Errorf("lacks %q: %+v", want, got)
		}
	}
}
