package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// An operator stops a flow, sets it back, and starts it: what was written is written a
// second time into a table that keeps everything, as the plan has said.
func TestAFlowIsStoppedSetBackAndStarted(t *testing.T) {
	t.Parallel()
	topic := rig.NewTopic(t, testservice.Kafka(t))
	target := rig.Postgres(t)
	path := filepath.Join(t.TempDir(), "flow.yaml")
	write(t, path, flowFile(topic, target.URL, "public.t", ""))
	p := start(t, path)
	topic.Produce(2000)
	p.settled(topic, target)
	rows, _ := topic.Expected()

	set := func(apply bool) (int, string) {
		return p.ask(http.MethodPut, "/v1/flows/"+topic.Name+"/position", fmt.Sprintf(`{"to":"beginning","apply":%t}`, apply))
	}
	if status, body := set(true); status != http.StatusConflict || !strings.Contains(body, "stop it first") {
		t.Errorf("setting the position of a flow that runs: %d %s", status, body)
	}
	if status, body := p.ask(http.MethodPost, "/v1/flows/"+topic.Name+"/stop", ""); status != http.StatusOK {
		t.Fatalf("stop: %d %s", status, body)
	}
	if status, body := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("a flow that a person has stopped makes the process unready: %s", body)
	}
	if status, body := set(false); status != http.StatusOK {
		t.Errorf("the plan: %d %s", status, body)
	}
	if status, body := set(true); status != http.StatusOK {
		t.Fatalf("setting the position: %d %s", status, body)
	}
	if target.RowCount() != rows {
		t.Error("a flow that is stopped has written")
	}
	if status, body := p.ask(http.MethodPost, "/v1/flows/"+topic.Name+"/start", ""); status != http.StatusOK {
		t.Fatalf("start: %d %s", status, body)
	}
	p.until("all rows are there a second time", func() bool { return target.RowCount() == 2*rows })
	var list struct {
		Positions []json.RawMessage `json:"positions"`
	}
	if status, body := p.get("/v1/flows/" + topic.Name + "/position"); status != http.StatusOK || json.Unmarshal([]byte(body), &list) != nil || len(list.Positions) != rig.Partitions {
		t.Errorf("positions: %d %s", status, body)
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
