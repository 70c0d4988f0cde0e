package dlq

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newLog makes a log in which every letter is a second younger than the one before.
func newLog() *flowtest.LetterLog {
	now := time.Date(2026, 1, 31, 11, 59, 59, 0, time.UTC)
	return flowtest.NewLetterLog(flowtest.LetterLogOptions{Partitions: 2, Now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}})
}

// there are the letters of a flow that were not removed, by id.
func there(t *testing.T, log *flowtest.LetterLog, name string) map[string]flow.Letter {
	t.Helper()
	out := map[string]flow.Letter{}
	for _, l := range log.There(name) {
		id := IDOf(&l).String()
		if _, twice := out[id]; twice {
			t.Errorf("letter %s is there twice", id)
		}
		out[id] = l
	}
	return out
}
