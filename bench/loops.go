package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/valyala/fastjson"
	"golang.org/x/sync/errgroup"
)

// The programs that people write instead. They run as children of the
// benchmark, so that their cost is counted as Penstock's is.

// loopOptions are what a loop is told on its command line.
type loopOptions struct {
	Brokers  string
	Topic    string
	Target   string
	Database string
	File     string
	Lanes    int
	Records  int
	Batch    int
}

// handLoop is what a good team writes in a day: franz-go, a fast JSON parser,
// hand-encoded binary COPY, and the positions in the same transaction. It has
// no retries, no dead letters, no rebalance and no fence, and trusts every
// record to be as expected.
func handLoop(ctx context.Context, o loopOptions) error {
	group, ctx := errgroup.WithContext(ctx)
	for lane := range o.Lanes {
		group.Go(func() error { return handLane(ctx, o, lane) })
	}
	return group.Wait()
}

func handLane(ctx context.Context, o loopOptions, lane int) error {
	offsets := map[int32]kgo.Offset{}
	left := 0
	for p := range int32(partitions) {
		if int(p)%o.Lanes == lane {
			offsets[p] = kgo.NewOffset().AtStart()
			left += (o.Records - int(p) + partitions - 1) / partitions
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(o.Brokers, ",")...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: offsets}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	conn, err := pgconn.Connect(ctx, o.Database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // everything is committed, or the process fails

	var (
		parser fastjson.Parser
		rows   = []byte(copySignature)
		count  int
		next   [partitions]int64
	)
	flush := func() error {
		var sql strings.Builder
		sql.WriteString("BEGIN")
		for p, n := range next {
			if n > 0 {
				fmt.Fprintf(&sql, ";UPDATE hand_position SET next_offset=%d WHERE partition=%d", n, p)
			}
		}
		if _, err := conn.Exec(ctx, sql.String()).ReadAll(); err != nil {
			return err
		}
		rows = appendCopyEnd(rows)
		if _, err := conn.CopyFrom(ctx, bytes.NewReader(rows), "COPY "+table+" FROM STDIN (FORMAT binary)"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "COMMIT").ReadAll()
		rows, count = rows[:len(copySignature)], 0
		return err
	}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			v, err := parser.ParseBytes(r.Value)
			if err != nil {
				return err
			}
			ts, err := time.Parse(time.RFC3339Nano, string(v.GetStringBytes("ts")))
			if err != nil {
				return err
			}
			rows = appendCopyRow(rows, v.GetStringBytes("device_id"), v.GetInt64("seq"), ts.UnixMicro(),
				v.GetFloat64("temp"), v.GetStringBytes("payload"))
			next[r.Partition] = r.Offset + 1
			left--
			if count++; count == o.Batch || left == 0 {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// firstLoop is what people write first: a group consumer that inserts and
// commits every message by itself. It writes to out how long it took from the
// first message on, because joining the group is not what it is slow at.
func firstLoop(ctx context.Context, o loopOptions) (time.Duration, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(o.Brokers, ",")...),
		kgo.ConsumerGroup(o.Topic+"-first"),
		kgo.ConsumeTopics(o.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	conn, err := pgx.Connect(ctx, o.Database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx) //nolint:errcheck // everything is committed, or the process fails

	var started time.Time
	for n := 0; n < o.Records; {
		fetches := client.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		if started.IsZero() {
			started = time.Now()
		}
		for _, r := range fetches.Records() {
			var v struct {
				DeviceID string    `json:"device_id"`
				Seq      int64     `json:"seq"`
				TS       time.Time `json:"ts"`
				Temp     float64   `json:"temp"`
				Payload  string    `json:"payload"`
			}
			if err := json.Unmarshal(r.Value, &v); err != nil {
				return 0, err
			}
			if _, err := conn.Exec(ctx, "INSERT INTO "+table+" (device_id, seq, ts, temp, payload) VALUES ($1, $2, $3, $4, $5)",
				v.DeviceID, v.Seq, v.TS, v.Temp, v.Payload); err != nil {
				return 0, err
			}
			if err := client.CommitRecords(ctx, r); err != nil {
				return 0, err
			}
			n++
		}
	}
	return time.Since(started), nil
}
