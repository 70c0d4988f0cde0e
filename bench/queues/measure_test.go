package queues

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// spinVariable makes the test binary a process that keeps every core busy until
// its standard input ends.
const spinVariable = "PENSTOCK_QUEUES_SPIN"

func TestMain(m *testing.M) {
	if os.Getenv(spinVariable) != "" {
		for range runtime.GOMAXPROCS(0) {
			go spin()
		}
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func spin() {
	for {
		runtime.KeepAlive(nil)
	}
}

// machines are what a benchmark runs beside. The busy one has as many spinning
// threads as the benchmark has processors, in a process of their own, so that
// their processor time is not counted.
var machines = []struct {
	name    string
	prepare func(*testing.B)
}{
	{"idle", func(*testing.B) {}},
	{"busy", startSpinning},
}

func startSpinning(b *testing.B) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), spinVariable+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := stdin.Close(); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil && b.Context().Err() == nil {
			b.Errorf("spinning process: %v", err)
		}
	})
}

// measured runs f and reports the processor time, user and system, that this process
// spent in it, per operation.
func measured(b *testing.B, f func()) {
	b.Helper()
	before := processorTime(b)
	b.ResetTimer()
	f()
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
