package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/penstockdev/penstock/flow"
)

// The variables that make the test binary a child which writes until it is killed.
const (
	crashPath  = "PENSTOCK_SQLITE_CRASH_PATH"
	crashNaive = "PENSTOCK_SQLITE_CRASH_NAIVE"
)

const (
	crashRows = 40 // rows a batch
	kills     = 12
)

// crashChild writes batches of rows whose seq is the offset, from the position
// that the database holds, and prints a line after each transaction.
func crashChild() bool {
	path := os.Getenv(crashPath)
	if path == "" {
		return false
	}
	if err := writeForever(path, os.Getenv(crashNaive) != ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func writeForever(path string, naive bool) error {
	ctx := context.Background()
	s, err := NewSink(SinkConfig{Path: path, TableConfig: TableConfig{Table: "telemetry", CreateTable: true}})
	if err != nil {
		return err
	}
	if err := s.Open(ctx, testSetup(telemetryFields)); err != nil {
		return err
	}
	err = s.Init(ctx, func(context.Context) ([]flow.Position, error) {
		return []flow.Position{{Partition: part0, LeaderEpoch: -1}}, nil
	})
	if err != nil {
		return err
	}
	held, err := s.Claim(ctx, 0, []flow.Partition{part0})
	if err != nil {
		return err
	}
	w, err := s.Writer(0)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 16)
	for at := held[0]; ; at.Offset += crashRows {
		rows := make([]row, crashRows)
		for i := range rows {
			rows[i] = row{device: "d", seq: at.Offset + int64(i)}
		}
		b := batchAt(at, rows...)
		if naive { // data now, position in a transaction of its own
			b.Parts[0].Next = b.Parts[0].From
		}
		if err := w.Write(ctx, b); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(out, at.Offset)
		_ = out.Flush()
		if naive {
			b := batchAt(at)
			b.Parts[0].Next = at.Offset + crashRows
			if err := w.Write(ctx, b); err != nil {
				return err
			}
		}
	}
}

// crash kills children until as many kills were made as asked, or until stop
// says so after one, and returns how many rows are lost and doubled.
func crash(t *testing.T, path string, naive bool, stop func(doubled int64) bool) (lost, doubled int64) {
	t.Helper()
	for k := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashPath+"="+path)
		if naive {
			cmd.Env = append(cmd.Env, crashNaive+"=1")
		}
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The line follows a commit: the kill falls into what comes next, and at
		// another place each time.
		lines := bufio.NewScanner(stdout)
		seen := 0
		for seen <= k && lines.Scan() {
			seen++
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			seen++
		}
		_ = cmd.Wait()
		if seen <= k {
			t.Fatalf("kill %d: the child ended by itself after %d batches", k, seen)
		}
		count := func(q string) int64 {
			n, err := strconv.ParseInt(query(t, path, q)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		rows, distinct := count("SELECT count(*) FROM telemetry"), count("SELECT count(DISTINCT seq) FROM telemetry")
		next := count("SELECT next_offset FROM penstock_checkpoint")
		lost, doubled = next-distinct, rows-distinct
		if stop(doubled) {
			return lost, doubled
		}
	}
	return lost, doubled
}

func TestKilledAgainAndAgain(t *testing.T) {
	path := testConfig(t).Path
	lost, doubled := crash(t, path, false, func(int64) bool { return false })
	if lost != 0 || doubled != 0 {
		t.Errorf("%d rows lost, %d doubled, after %d kills", lost, doubled, kills)
	}
	if got := query(t, path, "PRAGMA integrity_check"); got[0] != "ok" {
		t.Errorf("integrity_check: %s", got)
	}
	// Order: rows were inserted by ascending seq.
	got := query(t, path, "SELECT count(*) FROM (SELECT seq, lag(seq) OVER (ORDER BY rowid) AS before FROM telemetry) WHERE seq <= before")
	if got[0] != "0" {
		t.Errorf("%s rows out of order", got[0])
	}
}

// The negative control: with the position in a transaction after the data, the same
// kills must double rows.
func TestKilledWithoutOneTransaction(t *testing.T) {
	_, doubled := crash(t, testConfig(t).Path, true, func(doubled int64) bool { return doubled > 0 })
	if doubled == 0 {
		t.Errorf("%d kills doubled nothing, so that the test above proves nothing", kills)
	}
}
