package flow_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockdev/penstock/flow"
	"github.com/penstockdev/penstock/flow/flowtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// process is one running flow: what a process of a group is in production.
type process struct {
	flow   *flow.Flow
	source *flowtest.LogSource
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, cfg flow.Config, source *flowtest.LogSource) *process {
	t.Helper()
	cfg.Name, cfg.Source = "f", source
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.Retry == (flow.Retry{}) {
		cfg.Retry = flow.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond}
	}
	f, err := flow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{flow: f, source: source, cancel: cancel, done: make(chan error, 1)}
	go func() { p.done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		_ = p.wait(t)
	})
	return p
}

// stop ends the flow and returns what Run returned.
func (p *process) stop(t *testing.T) error {
	t.Helper()
	p.cancel()
	return p.wait(t)
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(patience):
		t.Fatal("Run did not return")
		return nil
	}
}

var quiet = func() *slog.Logger {
	w := io.Writer(io.Discard)
	if os.Getenv("PENSTOCK_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil))
}()

func produce(l *flowtest.Log, rng *rand.Rand, partitions int32, n int) (poison int) {
	for range n {
		p := rng.Int32N(partitions)
		r := flow.Record{Key: []byte{byte('a' + rng.IntN(20))}, Value: []byte("v" + strconv.Itoa(rng.IntN(1e6)))}
		switch rng.IntN(60) {
		case 0:
			r.Headers = []flow.Header{{Key: "poison"}}
			poison++
		case 1, 2:
			l.Skip("t", p, int64(1+rng.IntN(3)))
		}
		l.Append("t", p, r)
	}
	return poison
}

// allStored reports whether all partitions have a checkpoint: a restore to before
// that stops the flow, as it should.
func allStored(table *flowtest.Table, partitions int32) bool {
	for id := range partitions {
		if table.Checkpoint("f", flow.Partition{Topic: "t", ID: id}).Offset < 0 {
			return false
		}
	}
	return true
}

func durable(table *flowtest.Table, n int) func() bool {
	return func() bool {
		rows, dead := table.Len()
		return rows+dead >= n
	}
}

func awaitDurable(t *testing.T, table *flowtest.Table, n int, running ...*process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := table.Wait(ctx, durable(table, n)); err != nil {
		rows, dead := table.Len()
		for _, p := range running {
			t.Logf("%+v", p.flow.Status())
		}
		t.Fatalf("%d rows and %d dead letters of %d records: %v", rows, dead, n, err)
	}
}

// Several processes of a group, with everything going wrong that can: nothing
// is lost, doubled or reordered.
func TestExactlyOnceThroughChaos(t *testing.T) {
	schedules := uint64(12)
	if s := os.Getenv("PENSTOCK_CHAOS_SEEDS"); s != "" {
		schedules, _ = strconv.ParseUint(s, 10, 64)
	}
	var fences atomic.Int64
	t.Run("schedules", func(t *testing.T) {
		for seed := range schedules {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				fences.Add(int64(chaos(t, seed)))
			})
		}
	})
	if fences.Load() == 0 {
		t.Error("no write was fenced in any schedule: the test proves nothing")
	}
}

func chaos(t *testing.T, seed uint64) (fenced int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	partitions := int32(1 + rng.IntN(6))
	log := flowtest.NewLog()
	log.Create("t", int(partitions))
	table := flowtest.NewTable(flowtest.TableOptions{Vague: rng.IntN(2) == 0})
	cfg := flow.Config{
		Lanes:  1 + rng.IntN(3),
		Batch:  flow.BatchLimits{Records: 1 + rng.IntN(50), Wait: time.Millisecond},
		Buffer: int64(1000 + rng.IntN(50_000)),
		// The table may be away when a process stops.
		ShutdownGrace: time.Duration(1+rng.IntN(30)) * time.Millisecond,
	}
	var mu sync.Mutex // guards faults, drawn by the table's goroutines
	faults := rand.New(rand.NewPCG(seed, 4))
	table.Intercept(func(flowtest.Attempt) flowtest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch n := faults.IntN(60); n {
		case 0, 1, 2, 3:
			return flowtest.Fault{At: []flowtest.Point{
				flowtest.BeforeBegin, flowtest.InTransaction, flowtest.LostCommit, flowtest.LostRollback,
			}[n]}
		case 4:
			return flowtest.Fault{At: flowtest.BeforeBegin, Err: errors.New("something without a class")}
		}
		return flowtest.Fault{}
	})
	var running []*process
	spawn := func() {
		cfg := cfg
		cfg.Sink = table.Sink()
		running = append(running, start(t, cfg, log.Source(flowtest.LogOptions{Topics: []string{"t"}, Group: "g", MaxRecords: 1 + rng.IntN(40)})))
	}
	total := 0
	for range 1 + rng.IntN(3) {
		spawn()
	}
	for range 25 {
		n := rng.IntN(120)
		produce(log, rng, partitions, n)
		total += n
		// Let something happen, but not for long: the wait may well be in vain.
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(15))*time.Millisecond)
		_ = table.Wait(ctx, durable(table, total))
		cancel()
		p := running[rng.IntN(len(running))]
		switch rng.IntN(10) {
		case 9:
			if partitions < 12 {
				partitions++
				log.Create("t", int(partitions))
			}
		case 0:
			log.Evict(p.source) // a zombie until it is told
		case 1, 2:
			log.Notice(p.source)
		case 3:
			log.Move(flow.Partition{Topic: "t", ID: rng.Int32N(partitions)}, p.source)
		case 4:
			if err := p.stop(t); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			for i := range running {
				if running[i] == p {
					running = append(running[:i], running[i+1:]...)
					break
				}
			}
			spawn()
		case 5:
			if len(running) < 4 {
				spawn()
			}
		case 6:
			table.Break()
		case 7:
			log.Break()
		case 8:
			if rng.IntN(3) == 0 && allStored(table, partitions) { // a failover that loses the newest transactions
				restore := table.Snapshot()
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				_ = table.Wait(ctx, durable(table, total))
				cancel()
				restore()
			}
		}
		if rng.IntN(2) == 0 {
			table.Mend()
			log.Mend()
		}
	}
	table.Mend()
	log.Mend()
	for _, p := range running {
		log.Notice(p.source)
	}
	awaitDurable(t, table, total, running...)
	for _, p := range running {
		if err := p.stop(t); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
	if err := flowtest.Audit(log.All("t"), table.Rows(), table.Dead()).ExactlyOnce(); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	return table.Fenced()
}
