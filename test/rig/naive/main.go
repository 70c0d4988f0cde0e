// Command naive is what people write first: read a batch from Kafka, insert it,
// commit. It is the negative control of the fault tests, which must catch it.
//
// With -positions=group it commits the group's offsets after the database: a
// kill between the two doubles rows. With -positions=database it keeps the
// offsets in the database, in the transaction of the rows, but nothing fences
// a writer that has lost its partitions: a frozen process that thaws doubles rows.
// With -positions=count it takes the number of rows of a partition for its
// position: a log with gaps doubles rows.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite" // the driver sqlite

	"github.com/penstockdev/penstock/internal/failpoint"
)

var (
	brokers   = flag.String("brokers", "", "host:port of Kafka, several with commas")
	topic     = flag.String("topic", "", "topic to read")
	group     = flag.String("group", "", "consumer group")
	driver    = flag.String("driver", "pgx", "pgx or sqlite")
	database  = flag.String("database", "", "URL or path of the database")
	positions = flag.String("positions", "group", "where positions are kept: group, database, or count (the number of rows is the position)")
	start     = flag.String("start", "earliest", "where to start a partition without a position: earliest or latest")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open(*driver, *database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(2)
	n := &naive{db: db, next: map[int32]int64{}}
	if *positions == "database" {
		if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS naive_position (part int PRIMARY KEY, next bigint)"); err != nil &&
			!strings.Contains(err.Error(), "already exists") && !strings.Contains(err.Error(), "duplicate key") {
			return err
		}
	}
	reset := kgo.NewOffset().AtStart()
	if *start == "latest" {
		reset = kgo.NewOffset().AtEnd()
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.ConsumeTopics(*topic), kgo.ConsumerGroup(*group),
		kgo.ConsumeResetOffset(reset), kgo.DisableAutoCommit(), kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(500*time.Millisecond),
		kgo.SessionTimeout(1500*time.Millisecond), kgo.HeartbeatInterval(300*time.Millisecond), kgo.RebalanceTimeout(3*time.Second),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.RequestTimeoutOverhead(2*time.Second),
		kgo.AdjustFetchOffsetsFn(n.startFrom),
	)
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	for {
		fetches := cl.PollRecords(ctx, 200)
		if ctx.Err() != nil {
			return nil
		}
		failpoint.Hit("source.read")
		records := n.fresh(fetches.Records())
		if len(records) == 0 {
			continue
		}
		for n.insert(ctx, records) != nil { // try again until the database answers
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		}
		failpoint.Hit("sink.after_commit")
		if *positions == "group" {
			_ = cl.CommitRecords(ctx, records...) // the next commit makes up for one that failed
		}
	}
}

type naive struct {
	db *sql.DB

	mu   sync.Mutex      // guards next
	next map[int32]int64 // by partition, with -positions=database
}

// startFrom puts the positions of the database in place of the group's.
func (n *naive) startFrom(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	query := "SELECT next FROM naive_position WHERE part = "
	switch *positions {
	case "group":
		return offsets, nil
	case "count":
		query = "SELECT count(*) FROM t WHERE part = "
	}
	for part := range offsets[*topic] {
		var next int64
		err := n.db.QueryRowContext(ctx, query+fmt.Sprint(part)).Scan(&next)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		offsets[*topic][part] = kgo.NewOffset().At(next)
		n.mu.Lock()
		n.next[part] = next
		n.mu.Unlock()
	}
	return offsets, nil
}

// fresh drops what was read again after a rebalance; what it keeps in memory is
// all that this process knows of the others.
func (n *naive) fresh(records []*kgo.Record) []*kgo.Record {
	if *positions != "database" {
		return records
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	kept := records[:0]
	for _, r := range records {
		if r.Offset >= n.next[r.Partition] {
			kept = append(kept, r)
			n.next[r.Partition] = r.Offset + 1
		}
	}
	return kept
}

func (n *naive) insert(ctx context.Context, records []*kgo.Record) error {
	failpoint.Hit("sink.before_begin")
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	next := map[int32]int64{}
	var rows []string
	for _, r := range records {
		next[r.Partition] = r.Offset + 1
		var v struct {
			DeviceID string `json:"device_id"`
			Seq      int64  `json:"seq"`
		}
		if json.Unmarshal(r.Value, &v) != nil {
			continue // what people write first drops what it does not understand
		}
		rows = append(rows, fmt.Sprintf("('%s',%d,%d,%d)", v.DeviceID, v.Seq, r.Partition, r.Offset))
	}
	failpoint.Hit("sink.in_copy")
	if len(rows) > 0 {
		if _, err := tx.ExecContext(ctx, "INSERT INTO t (device_id, seq, part, off) VALUES "+strings.Join(rows, ",")); err != nil {
			return err
		}
	}
	if *positions == "database" {
		for part, off := range next {
			if _, err := tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO naive_position VALUES (%d, %d) "+
				"ON CONFLICT (part) DO UPDATE SET next = excluded.next", part, off)); err != nil {
				return err
			}
		}
	}
	failpoint.Hit("sink.before_commit")
	return tx.Commit()
}
