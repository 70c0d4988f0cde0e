package faults

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/penstockdev/penstock/test/rig"
)

// careless is a negative control: a consumer that logs what the database
// refuses, and goes on with the next batch. It reads a rig's topic under a group of its
// own, into a database of its own.
type careless struct {
	t      *testing.T
	topic  *rig.Topic
	target *rig.Target
	seen   atomic.Int64
	failed atomic.Int64
}

// startCareless starts one. It ends with the test.
func startCareless(t *testing.T, topic *rig.Topic, target *rig.Target) *careless {
	t.Helper()
	c := &careless{t: t, topic: topic, target: target}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(topic.Brokers, ",")...), kgo.ConsumeTopics(topic.Name), kgo.ConsumerGroup(topic.Name+"-careless"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		t.Fatal(err)
	}
	// A lock is not waited for.
	db, err := sql.Open("pgx", target.URL+"&lock_timeout=1000&connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			records := cl.PollRecords(ctx, 200).Records()
			if err := c.insert(ctx, db, records); err != nil {
				c.failed.Add(1)
			}
			c.seen.Add(int64(len(records)))
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		cl.Close()
		_ = db.Close()
	})
	return c
}

func (c *careless) insert(ctx context.Context, db *sql.DB, records []*kgo.Record) error {
	var rows []string
	for _, r := range records {
		var v struct {
			DeviceID string `json:"device_id"`
			Seq      int64  `json:"seq"`
		}
		if json.Unmarshal(r.Value, &v) == nil {
			rows = append(rows, fmt.Sprintf("('%s',%d,%d,%d,'')", v.DeviceID, v.Seq, r.Partition, r.Offset))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := db.ExecContext(ctx, "INSERT INTO t (device_id, seq, part, off, pad) VALUES "+strings.Join(rows, ","))
	return err
}

// await waits until it has failed so many times more.
func (c *careless) await(more int64) {
	c.t.Helper()
	before := c.failed.Load()
	if !rig.Poll(c.t.Context(), 30*time.Second, func() bool { return c.failed.Load() >= before+more }) {
		c.t.Fatal("the careless control met no error: this test proves nothing")
	}
}

// wantCaught waits until it has read everything, and checks that the rows which it
// lost are missed.
func (c *careless) wantCaught() {
	c.t.Helper()
	rows, dead := c.topic.Expected()
	if !rig.Poll(c.t.Context(), time.Minute, func() bool { return c.seen.Load() >= int64(rows+dead) }) {
		c.t.Fatalf("the careless control has read %d of %d records", c.seen.Load(), rows+dead)
	}
	if v := rig.New(c.t, c.topic, c.target).Control("group").Verify(); v.Lost == 0 {
		c.t.Fatalf("a consumer that goes on after errors lost nothing: this test proves nothing: %s", v)
	} else {
		c.t.Logf("the control was caught: %d lost", v.Lost)
	}
}
