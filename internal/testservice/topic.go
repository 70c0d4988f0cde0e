package testservice

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// AwaitTopic waits until a topic that was just made can be read. A broker answers
// CreateTopics before it knows the topic itself, and who asks for it then is told that it
// does not exist.
func AwaitTopic(t testing.TB, adm *kadm.Client, topic string, partitions int) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ends, err := adm.ListEndOffsets(t.Context(), topic)
		if err == nil && ends.Error() == nil && len(ends[topic]) >= partitions {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("topic %s cannot be read: %v, %v", topic, err, ends.Error())
		}
	}
}
