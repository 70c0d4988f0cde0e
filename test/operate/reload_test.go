package operate

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstockdev/penstock/internal/testservice"
	"github.com/penstockdev/penstock/test/rig"
)

// Edits of all kinds, noticed in all ways, while records arrive: a good one goes on at its
// position, a broken one is refused, one that the database refuses is taken back. In the end every record
// is there once and in order, and the process is as large as before.
func TestReloadUnderLoadLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	topic := rig.NewTopic(t, testservice.Kafka(t))
	target := rig.Postgres(t)
	other, otherTarget := rig.NewTopic(t, testservice.Kafka(t)), rig.Postgres(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "flow.yaml")
	good := func(records int) string {
		return flowFile(topic, target.URL, "public.t", fmt.Sprintf("batch: {records: %d, wait: 5ms, timeout: 10s}\n", records))
	}
	write(t, path, good(100))
	write(t, filepath.Join(dir, "other.yaml"), flowFile(other, otherTarget.URL, "public.t", ""))
	p := start(t, dir)
	ends := []func(){topic.Flow(200, 20*time.Millisecond), other.Flow(20, 20*time.Millisecond)}
	p.until("the flow writes", func() bool { return p.flow(topic.Name).Records > 0 })

	restarts := 0
	grown := func(by int) func() bool {
		restarts += by
		return func() bool {
			v := p.flow(topic.Name)
			return v.Restarts == restarts && v.State == "running" && v.ReloadError == ""
		}
	}
	refused := func(by int, reason string) func() bool {
		restarts += by
		return func() bool {
			v := p.flow(topic.Name)
			return v.Restarts == restarts && v.State == "running" && strings.Contains(v.ReloadError, reason)
		}
	}
	hangup := func() { p.signal(syscall.SIGHUP) }
	nobody := func() {} // the change itself is noticed
	var goroutines float64
	for round := range 6 {
		post := func() {
			if status, body := p.ask(http.MethodPost, "/v1/reload", ""); status != http.StatusOK {
				t.Errorf("POST /v1/reload: %d %s", status, body)
			}
		}
		tell := []func(){nobody, hangup, post}[round%3]
		write(t, path, good(50+round))
		tell()
		p.until("the edit counts", grown(1))
		before := p.flow(topic.Name).Records
		write(t, path, strings.Replace(good(10), "retry:", "rerty:", 1))
		tell()
		p.until("the broken edit is refused", refused(0, "rerty"))
		if round == 0 {
			write(t, path, flowFile(topic, target.URL, "public.nope", ""))
			tell()
			p.until("what the database refuses is taken back", refused(2, "nope"))
			goroutines = p.metric("go_goroutines")
		}
		p.until("the flow goes on", func() bool { return p.flow(topic.Name).Records > before })
	}
	for _, end := range ends {
		end()
	}
	p.settled(topic, target)
	p.settled(other, otherTarget)
	if v := p.flow(other.Name); v.Restarts != 0 {
		t.Errorf("the flow that nobody edited was restarted %d times", v.Restarts)
	}
	if n := p.metric("go_goroutines"); n > goroutines+10 {
		t.Errorf("%v goroutines after the reloads, %v before", n, goroutines)
	}
	if accepted, refused := p.metric(`penstock_reloads_total{result="accepted"}`), p.metric(`penstock_reloads_total{result="refused"}`); accepted != 6 || refused < 7 {
		t.Errorf("%v reloads were accepted and %v refused, want 6 and at least 7", accepted, refused)
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
