package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// From a topic that nobody has described to rows, with the commands that init names.
func TestFromATopicToAFlowThatIsCheckedAndTested(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	broker := cluster.ListenAddrs()[0]
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 50 {
		value := fmt.Appendf(nil, `{"id": %d, "customer": {"name": "Ann"}, "amount": %d.5}`, i, i)
		if err := client.ProduceSync(t.Context(), &kgo.Record{Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	dir := folder(t, nil)
	file, test, db := filepath.Join(dir, "shop.yaml"), filepath.Join(dir, "shop.test.yaml"), filepath.Join(dir, "orders.db")
	args := []string{
		"init", "--brokers", broker, "--topic", "orders", "--sqlite", db, "--file", file,
		"--set", "source.kafka.client_id=secret-name",
	}
	r := penstock(t, nil, args...)
	if r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	for _, want := range []string{"50 rows, 0 dead letters", "customer_name", "source.kafka.client_id", "penstock test " + test} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in\n%s", want, r.stdout)
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"shop.yaml: ok", []string{"lint", "--services", file}},
		{"1 passed, 0 failed", []string{"test", test}},
		{"rows: 3, tombstones: 0, dead letters: 0", []string{"run", "--dry-run", "-n", "3", file}},
	} {
		if r := penstock(t, nil, c.args...); r.code != 0 || !strings.Contains(r.stdout, c.want) {
			t.Errorf("%v: exit code %d, %q is not in\n%s%s", c.args, r.code, c.want, r.stdout, r.stderr)
		}
	}

	if r := penstock(t, nil, args...); r.code != 2 || !strings.Contains(r.stderr, "--force writes over it") {
		t.Errorf("a file that is there: exit code %d: %s", r.code, r.stderr)
	}
	r = penstock(t, nil, append(args, "--force", "-n", "1", "-o", "json")...)
	var out struct {
		File    string
		Records int
		Columns []map[string]any
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || out.File != file || out.Records != 1 || out.Columns[0]["name"] != "id" {
		t.Errorf("%v: %s%s", err, r.stdout, r.stderr)
	}
	missing := filepath.Join(dir, "none", "shop.yaml")
	if r := penstock(t, nil, append(args, "--file", missing)...); r.code != 2 || !strings.Contains(r.stderr, "mkdir -p "+filepath.Dir(missing)) {
		t.Errorf("a folder that is missing: exit code %d: %s", r.code, r.stderr)
	}
}

func TestNoFileOfCasesHidesAnother(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"flow.yaml":   strings.Replace(goodFlow, "${PASSWORD}", "x", 1),
		"a.test.yaml": "flw: flow.yaml\n", "b.test.yaml": "flow: none.yaml\ncases: [{name: b, records: [{value: 1}]}]\n",
		"c.test.yaml": "flow: flow.yaml\ncases: [{name: c, records: [{value_text: no}], dead_letters: [{record: 1, class: malformed}]}]\n",
	})
	r := penstock(t, nil, "test", dir)
	if r.code != 2 || !strings.Contains(r.stdout, "1 passed, 0 failed") || !strings.Contains(r.stderr, `unknown field "flw"`) || !strings.Contains(r.stderr, "there is no file "+filepath.Join(dir, "none.yaml")) {
		t.Errorf("exit code %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, name := range []string{"a.test.yaml", "b.test.yaml"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if r := penstock(t, nil, "test", dir); r.code != 0 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}
