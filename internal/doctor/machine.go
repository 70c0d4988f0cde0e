package doctor

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstockdev/penstock/connect"
)

// What flows need at least.
const (
	minFiles  = 1024           // connections to every broker, of every lane, and what a database file needs
	minWindow = 1 << 20        // bytes of a TCP receive window; 1 MiB at 20 ms are 50 MB/s
	baseBytes = 64 << 20       // of a process whose buffers are empty
	maxSkew   = time.Second    // that the kernel admits for its own clock
	unlimited = math.MaxUint64 // no limit
)

// machine is what was read of the machine, so that judging it is pure. A value that
// cannot be read is zero.
type machine struct {
	files uint64 // open files that the process may have
	procs int    // GOMAXPROCS
	cores float64
	// memory is the limit of the container, else the machine's memory.
	memory    uint64
	container bool
	buffers   uint64 // of all flows
	flows     int
	clock     clock
	window    uint64 // largest TCP receive window
}

type clock struct {
	known, synchronized bool
	maxError            time.Duration
}

// Machine looks at this machine and process, and at what the flows will take of it.
func Machine(files []File) []connect.Check {
	m := machine{procs: runtime.GOMAXPROCS(0), cores: cpuQuota(), files: openFiles(), clock: readClock(), window: receiveWindow(), flows: len(files)}
	m.memory, m.container = memoryLimit()
	for _, f := range files {
		m.buffers += uint64(max(0, f.Flow.Buffer))
	}
	return m.checks()
}

func (m *machine) checks() []connect.Check {
	out := []connect.Check{m.checkCPU(), m.checkMemory(), m.checkFiles(), m.checkClock()}
	if m.window > 0 && m.window < minWindow {
		out = append(out, connect.Check{
			What: "TCP receive window", Status: connect.CheckWarning,
			Found: fmt.Sprintf("at most %s: one connection carries little from a broker or database that is not near", size(m.window)),
			Next:  `sysctl -w net.ipv4.tcp_rmem="4096 131072 6291456"`,
		})
	}
	return slices.DeleteFunc(out, func(c connect.Check) bool { return c.What == "" })
}

func (m *machine) checkCPU() connect.Check {
	c := connect.Check{What: "CPU", Status: connect.CheckOK, Found: fmt.Sprintf("%d threads run Go code (GOMAXPROCS)", m.procs)}
	if m.cores == 0 {
		return c
	}
	c.Found += fmt.Sprintf(", the container may use %s CPUs", strconv.FormatFloat(m.cores, 'g', 3, 64))
	switch {
	case m.cores < 1:
		c.Status = connect.CheckWarning
		c.Found += ": a part of every 100 ms the process stands still"
		c.Next = "give it at least one CPU, or leave out the CPU limit and keep the request"
	case float64(m.procs) > math.Max(2, math.Ceil(m.cores)):
		c.Status = connect.CheckWarning
		c.Found += ": it will be throttled"
		c.Next = "unset GOMAXPROCS: by default it follows the container's limit"
	}
	return c
}

func (m *machine) checkMemory() connect.Check {
	if m.memory == 0 {
		return connect.Check{}
	}
	of := "the machine has " + size(m.memory)
	if m.container {
		of = "the container may use " + size(m.memory)
	}
	c := connect.Check{What: "memory", Status: connect.CheckOK, Found: of}
	if m.flows == 0 {
		return c
	}
	// What was measured at full speed: batches in two forms beside the buffer.
	need := baseBytes + 3*m.buffers
	c.Found += fmt.Sprintf(", the buffers of %s hold %s: expect up to %s in one process", count(m.flows, "flow"), size(m.buffers), size(need))
	switch {
	case m.memory < baseBytes+m.buffers:
		c.Status, c.Next = connect.CheckFailed, "raise the limit, or make buffer smaller"
	case m.memory < need:
		c.Status, c.Next = connect.CheckWarning, "raise the limit to "+size(need)+", or make buffer smaller"
	}
	return c
}

func (m *machine) checkFiles() connect.Check {
	c := connect.Check{What: "open files", Status: connect.CheckOK, Found: "the process may have " + strconv.FormatUint(m.files, 10)}
	switch {
	case m.files == 0:
		return connect.Check{}
	case m.files == unlimited:
		c.Found = "no limit"
	case m.files < minFiles:
		c.Status, c.Next = connect.CheckWarning, "ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit"
	}
	return c
}

func (m *machine) checkClock() connect.Check {
	c := connect.Check{What: "clock", Status: connect.CheckOK, Found: fmt.Sprintf("synchronized, at most %s off", m.clock.maxError.Round(time.Microsecond))}
	switch {
	case !m.clock.known:
		return connect.Check{}
	case !m.clock.synchronized:
		c.Status, c.Found = connect.CheckWarning, "the kernel is not told the time by NTP: lag in seconds and times of dead letters may be wrong"
		c.Next = "timedatectl set-ntp true, or run chrony (with rtcsync)"
	case m.clock.maxError > maxSkew:
		c.Status, c.Next = connect.CheckWarning, "chronyc tracking says how far its sources are"
	}
	return c
}

// size is a number of bytes for a person.
func size(n uint64) string {
	for _, u := range []struct {
		name string
		of   float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if x := float64(n) / u.of; x >= 1 {
			return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0") + " " + u.name
		}
	}
	return strconv.FormatUint(n, 10) + " B"
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// firstNumber reads the first of the files that holds a number in that field; "max" and what
// cannot be read is 0.
func firstNumber(field int, paths ...string) uint64 {
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(data)); field < len(fields) {
			n, err := strconv.ParseUint(fields[field], 10, 64)
			if err == nil && n < math.MaxInt64/2 { // version 1 of cgroups writes a very large one for none
				return n
			}
		}
	}
	return 0
}

// cpuQuota is how many CPUs the container may use; 0 for no limit.
func cpuQuota() float64 {
	quota := firstNumber(0, "/sys/fs/cgroup/cpu.max")
	period := firstNumber(1, "/sys/fs/cgroup/cpu.max")
	if quota == 0 {
		quota, period = firstNumber(0, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), firstNumber(0, "/sys/fs/cgroup/cpu/cpu.cfs_period_us")
	}
	return float64(quota) / float64(cmp.Or(period, 100_000))
}

// memoryLimit is the container's limit, else the machine's memory, in bytes.
func memoryLimit() (bytes uint64, container bool) {
	total := firstNumber(1, "/proc/meminfo") << 10
	limit := firstNumber(0, "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	if limit > 0 && (total == 0 || limit < total) {
		return limit, true
	}
	return total, false
}

// receiveWindow is the largest window that the kernel gives a connection; 0 if not known.
func receiveWindow() uint64 { return firstNumber(2, "/proc/sys/net/ipv4/tcp_rmem") }
