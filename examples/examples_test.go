package examples

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/penstockdev/penstock/internal/embedded"
	"github.com/penstockdev/penstock/internal/testservice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	good      = 2000
	malformed = 3
)

// kafka starts an embedded Kafka whose topic telemetry holds the records.
func kafka(t *testing.T) string {
	t.Helper()
	k, err := embedded.StartKafka(t.Context(), embedded.KafkaConfig{Dir: t.TempDir(), Port: 23092})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if _, err := k.CreateTopic("telemetry", 4); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Address()), kgo.DefaultProduceTopic("telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var records []*kgo.Record
	for i := range good {
		vehicle := fmt.Sprintf("VH-%d", i%50)
		records = append(records, kgo.KeySliceRecord([]byte(vehicle),
			fmt.Appendf(nil, `{"vehicle_id":%q,"seq":%d,"ts":"2026-01-31T12:00:00Z","speed_kmh":%d}`, vehicle, i, i%130)))
	}
	for i := range malformed {
		records = append(records, kgo.KeySliceRecord([]byte("VH-bad"), fmt.Appendf(nil, `{"vehicle_id":"VH-bad","seq":%d,"speed_kmh":`, i)))
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return k.Address()
}

// program is a running example.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	mu  sync.Mutex
	out bytes.Buffer
}

// Write collects what the program prints.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func run(t *testing.T, example string, env ...string) *program {
	t.Helper()
	p := &program{t: t, dir: t.TempDir()}
	binary := filepath.Join(p.dir, example)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./"+example).CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", example, err, out)
	}
	p.cmd = exec.CommandContext(t.Context(), binary)
	p.cmd.Dir, p.cmd.Env = p.dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 30 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits until what count returns is want, then stops the program, which must
// end well.
func (p *program) until(want int, count func() (int, error)) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := count()
		if err == nil && n == want {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("got %d (%v), want %d; the program said:\n%s", n, err, want, p.output())
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("after SIGTERM: %v\n%s", err, p.output())
	}
}

const counts = "SELECT (SELECT count(*) FROM telemetry) + 1000000 * (SELECT count(*) FROM penstock_dead_letter)"

func TestKafkaToSQLite(t *testing.T) {
	p := run(t, "kafka-to-sqlite", "KAFKA="+kafka(t))
	db, err := sql.Open("sqlite", filepath.Join(p.dir, "example.db")+"?_pragma=busy_timeout(1000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	p.until(good+1_000_000*malformed, func() (n int, err error) {
		err = db.QueryRowContext(t.Context(), counts).Scan(&n)
		return n, err
	})
}

func TestKafkaToPostgres(t *testing.T) {
	url := testservice.Postgres(t)
	p := run(t, "kafka-to-postgres", "KAFKA="+kafka(t), "DATABASE_URL="+url)
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(context.WithoutCancel(t.Context())) }()
	p.until(good+1_000_000*malformed, func() (n int, err error) {
		err = db.QueryRow(t.Context(), counts).Scan(&n)
		return n, err
	})
}

func TestBatches(t *testing.T) {
	p := run(t, "batches", "KAFKA="+kafka(t))
	rows := regexp.MustCompile(`(?m) (\d+) rows, fastest: VH-\d+ with`)
	p.until(good, func() (int, error) {
		n := 0
		for _, m := range rows.FindAllStringSubmatch(p.output(), -1) {
			k, err := strconv.Atoi(m[1])
			if err != nil {
				return 0, err
			}
			n += k
		}
		return n, nil
	})
}

func TestHandler(t *testing.T) {
	p := run(t, "handler", "KAFKA="+kafka(t))
	handled := regexp.MustCompile(`(?m)VH-\w+: \d+ bytes at offset \d+$`)
	p.until(good+malformed, func() (int, error) { return len(handled.FindAllString(p.output(), -1)), nil })
}

func TestKafkaToKafka(t *testing.T) {
	addr := kafka(t)
	p := run(t, "kafka-to-kafka", "KAFKA="+addr)
	count := func(topic string) (n int, err error) {
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return 0, err
		}
		defer cl.Close()
		for ctx, cancel := context.WithTimeout(t.Context(), time.Second); ; {
			defer cancel()
			fetches := cl.PollFetches(ctx)
			if ctx.Err() != nil {
				return n, nil
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if topic != "telemetry.checked" || bytes.Contains(r.Value, []byte(`"too_fast":`)) {
					n++
				}
			})
		}
	}
	p.until(good+1_000_000*malformed, func() (int, error) {
		checked, err := count("telemetry.checked")
		if err != nil {
			return 0, err
		}
		dead, err := count("telemetry.dead")
		return checked + 1_000_000*dead, err
	})
}
