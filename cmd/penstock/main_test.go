package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the built command: exit codes and signals are those of a process.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "penstock-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "penstock")
	out, err := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the command: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

func penstock(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flow.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodFlow = `flow: telemetry
source:
  kafka:
    brokers: ["${BROKER:-127.0.0.1:1}"]
    topics: [telemetry]
    sasl: {username: app, password: "${PASSWORD}"}
decode:
  json:
    columns:
      device_id: text
      seq: int8
      ts: {type: timestamptz, path: meta.ts}
sink:
  sqlite: {path: "${DB:-telemetry.db}", table: telemetry, create_table: true}
shutdown: {grace: 1s}
`

const password = "PASSWORD=correct-horse"

func TestExitCodes(t *testing.T) {
	good, bad := write(t, goodFlow), write(t, strings.Replace(goodFlow, "table:", "tabel:", 1))
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, 0, "(PostgreSQL,\nSQLite, another Kafka topic)"},
		{"no arguments", nil, 0, "Usage"},
		{"version", []string{"version"}, 0, "penstock "},
		{"list", []string{"list"}, 0, "postgres"},
		{"explain", []string{"explain", "kafka", "batch"}, 0, "session_timeout"},
		{"explain field of a section", []string{"explain", "batch.records"}, 0, "batch.records\n"},
		{"explain field of a connector", []string{"explain", "sink.kafka.tls"}, 0, "tls.ca_file\n"},
		{"explain misspelt field", []string{"explain", "kafka.sals"}, 2, `did you mean "kafka.sasl"?`},
		{"explain misspelt", []string{"explain", "kafak"}, 2, `did you mean "kafka"?`},
		{"explain field", []string{"explain", "columns"}, 2, "it is a field: see penstock explain json"},
		{"explain unknown", []string{"explain", "zzzzzzzz"}, 2, "penstock list names the connectors"},
		{"schema", []string{"schema"}, 0, "json-schema.org"},
		{"schema of unknown format", []string{"schema", "--format", "xml"}, 2, "json or markdown"},
		{"unknown command", []string{"rnu"}, 2, "rnu"},
		{"unknown flag", []string{"run", "--nope", good}, 2, "nope"},
		{"run without a file", []string{"run"}, 2, "arg"},
		{"lint", []string{"lint", good}, 0, "ok"},
		{"lint with findings", []string{"lint", good, bad}, 1, `did you mean "table"?`},
		{"lint with one finding", []string{"lint", bad}, 1, "\n1 finding\n"},
		{"lint of no file", []string{"lint", "/nonexistent.yaml"}, 2, "nonexistent"},
		{"run of a wrong file", []string{"run", bad}, 2, `did you mean "table"?`},
		{"run of a directory without flows", []string{"run", t.TempDir()}, 2, "no flow file"},
		{"run of one flow twice", []string{"run", good, write(t, goodFlow)}, 2, "is the name of another flow, too: "},
		{"run of several wrong files", []string{"run", bad, bad + "x"}, 2, "no such file"},
		{"dry run of two files", []string{"run", "--dry-run", good, good}, 2, "give one file"},
		{"run of a wrong setting", []string{"run", good, "--set", "lanes=x"}, 2, "whole number"},
		{"run with a wrong log level", []string{"run", good, "--log-level", "loud"}, 2, "debug, info"},
		{"run with a remote admin address", []string{"run", good, "--set", "admin.address=0.0.0.0:1"}, 2, "allow_remote"},
		{"dry run of too many", []string{"run", good, "--dry-run", "-n", "0"}, 2, "--records"},
		{"dry run without a broker", []string{"run", good, "--dry-run", "--timeout", "2s"}, 1, "127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := penstock(t, []string{password}, tt.args...)
			if r.code != tt.code || !strings.Contains(r.stdout+r.stderr, tt.want) {
				t.Errorf("exit code %d, want %d with %q:\n%s%s", r.code, tt.code, tt.want, r.stdout, r.stderr)
			}
			if all := r.stdout + r.stderr; strings.Contains(all, "correct-horse") || strings.Contains(all, "goroutine ") {
				t.Errorf("a secret or a stack is shown:\n%s", all)
			}
		})
	}
}

func TestRunStopsOnSignal(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "run", write(t, goodFlow), "--log-format", "json", "--set", "admin.address="+address)
			cmd.Env = []string{password, "DB=" + filepath.Join(t.TempDir(), "t.db")}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{"/healthz": "ok", "/readyz": "connecting", "/metrics": `penstock_state{flow="telemetry",state="starting"} 1`} {
				if body := get(ctx, t, "http://"+address+path); !strings.Contains(body, want) {
					t.Errorf("%s answers %q, want %q", path, body, want)
				} else if strings.Contains(body, "correct-horse") {
					t.Errorf("%s shows a secret", path)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("a flow that was told to stop: %v\n%s", err, stderr.String())
			}
			if s := stderr.String(); strings.Contains(s, "correct-horse") || !strings.Contains(s, `"msg":"stopped"`) {
				t.Errorf("log:\n%s", s)
			}
		})
	}
}

// A connection to the admin server that asks nothing holds the end of the
// process up for adminStop, which is longer than signalRepeats.
func TestRunTellsARepeatedSignalFromALaterOne(t *testing.T) {
	for _, tt := range []struct {
		name  string
		later bool // which kills
	}{{"repeated at once, as timeout(1) does", false}, {"later", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "run", write(t, goodFlow), "--log-format", "json", "--set", "admin.address=127.0.0.1:0")
			cmd.Env = []string{password, "DB=" + filepath.Join(t.TempDir(), "t.db")}
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			var signalling sync.WaitGroup
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				var line struct{ Msg, Address string }
				if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
					t.Errorf("not JSON: %s", lines.Bytes())
				}
				switch {
				case line.Address != "":
					conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimSuffix(strings.TrimPrefix(line.Address, "http://"), "/metrics"))
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					get(ctx, t, line.Address) // it was accepted after the one above
					if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
						t.Fatal(err)
					}
				case strings.HasPrefix(line.Msg, "stopping"):
					signalling.Go(func() {
						for again := true; again; {
							_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
							select {
							case <-ended:
								again = false
							case <-time.After(50 * time.Millisecond):
								again = tt.later
							}
						}
					})
				}
			}
			close(ended)
			signalling.Wait()
			_ = cmd.Wait() // its state says more
			if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signaled() != tt.later {
				t.Errorf("ended with %v", cmd.ProcessState)
			}
		})
	}
}

func TestRunLogsWhyItFailed(t *testing.T) {
	for _, tt := range []struct {
		name, cause, flow, begins string
		set                       []string
	}{
		{"admin server", "256.0.0.1", "", "admin server: listen", []string{"admin={address: \"256.0.0.1:0\", allow_remote: true}"}},
		{"flow", "/nonexistent/ca.pem", "telemetry", "flow telemetry stopped: ", []string{"source.kafka.tls.ca_file=/nonexistent/ca.pem"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"run", write(t, goodFlow), "--log-format", "json"}
			for _, s := range tt.set {
				args = append(args, "--set", s)
			}
			r := penstock(t, []string{password, "DB=" + filepath.Join(t.TempDir(), "t.db")}, args...)
			if r.code != 1 || r.stdout != "" {
				t.Errorf("exit code %d, want 1; on stdout %q", r.code, r.stdout)
			}
			lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
			type record struct{ Level, Msg, Flow, Error string }
			var last record // that is an error: the admin server may say that it listens after the flow has failed
			for _, l := range lines {
				var r record
				if err := json.Unmarshal([]byte(l), &r); err != nil {
					t.Errorf("not JSON: %s", l)
				}
				if r.Level == "ERROR" {
					last = r
				}
			}
			if last.Flow != tt.flow || !strings.HasPrefix(last.Error, tt.begins) {
				t.Errorf("the last error is %+v", last)
			}
			if strings.Contains(r.stderr, `"msg":"the process ends"`) || strings.Count(r.stderr, tt.cause) != 1 {
				t.Errorf("log:\n%s", r.stderr)
			}
		})
	}
}

// A process with more than one flow goes on without those that have failed, and its exit code
// says so.
func TestRunOfADirectoryGoesOnWithoutAFailedFlow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"waits.yaml": strings.NewReplacer("flow: telemetry", "flow: waits", "table: telemetry", "table: waits").Replace(goodFlow),
		"fails.yaml": strings.Replace(goodFlow, "flow: telemetry\nsource:\n  kafka:\n", "flow: fails\nsource:\n  kafka:\n    tls: {ca_file: /nonexistent/ca.pem}\n", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := launch(t, nil, "run", dir, "--set", "admin.address=127.0.0.1:0")
	p.await("metrics and health", `"msg":"failed"`)
	if body := get(t.Context(), t, p.admin+"/healthz"); body != "ok\n" {
		t.Errorf("/healthz answers %q: a restart would help neither flow", body)
	}
	body := get(t.Context(), t, p.admin+"/readyz")
	if !strings.Contains(body, "fails: the flow has stopped: ") || !strings.Contains(body, "ca.pem") || !strings.Contains(body, "waits: the flow is connecting") {
		t.Errorf("/readyz answers %q", body)
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", code, p.log())
	}
}

func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	told := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.Contains(string(b[:n]), want) {
				return
			}
		}
	}
	p := launch(t, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"}, "run", write(t, goodFlow), "--set", "admin.address=off")
	told("READY=1")
	told("WATCHDOG=1")
	p.signal(syscall.SIGHUP)
	told("MONOTONIC_USEC=")
	told("READY=1")
	p.signal(syscall.SIGTERM)
	told("STOPPING=1")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.log())
	}
}

// The default address is a convenience: a flow runs without it.
func TestRunGoesOnWithoutItsDefaultAdminAddress(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:9464")
	if err == nil { // else somebody else has it, which is as good
		defer l.Close()
	}
	p := launch(t, nil, "run", write(t, goodFlow))
	p.await("no admin server: its address is taken", "will try again")
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.log())
	}
}

// running is a penstock that runs.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	// admin is the URL of the admin server, once await has seen the line "metrics and health".
	admin string
	all   strings.Builder
}

// launch starts one, which is killed with the test.
func launch(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, binary, append(args, "--log-format", "json")...)
	cmd.Env = append([]string{password, "HOME=" + t.TempDir(), "DB=" + filepath.Join(t.TempDir(), "t.db")}, env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &running{t: t, cmd: cmd, lines: make(chan string, 1000)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		p.wait()
	})
	return p
}

// await reads the log until there was a line with each of the texts, in any order.
func (p *running) await(texts ...string) {
	p.t.Helper()
	for len(texts) > 0 {
		line, ok := <-p.lines
		if !ok {
			p.t.Fatalf("the process has ended before it said %q:\n%s", texts, p.log())
		}
		fmt.Fprintln(&p.all, line)
		var l struct{ Address string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Address != "" {
			p.admin = strings.TrimSuffix(l.Address, "/metrics")
		}
		texts = slices.DeleteFunc(texts, func(text string) bool { return strings.Contains(line, text) })
	}
}

func (p *running) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// wait reads the rest of the log and returns the exit code.
func (p *running) wait() int {
	for line := range p.lines {
		fmt.Fprintln(&p.all, line)
	}
	_ = p.cmd.Wait() // its state says more
	return p.cmd.ProcessState.ExitCode()
}

func (p *running) log() string { return p.all.String() }

// get asks until somebody answers.
func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	for file, args := range map[string][]string{
		"flow-file.md":          {"schema", "--format", "markdown"},
		"flow-file.schema.json": {"schema"},
	} {
		path := filepath.Join("..", "..", "docs", "reference", file)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v; write it with: go generate ./cmd/penstock", err)
		}
		if got := penstock(t, nil, args...).stdout; got != string(want) {
			t.Errorf("%s is not current; write it with: go generate ./cmd/penstock", path)
		}
	}
}

func TestBinarySize(t *testing.T) {
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	const most = 40 << 20 // clients of Kafka and PostgreSQL, SQLite, CEL, OpenTelemetry
	if info.Size() > most {
		t.Errorf("the stripped binary has %d MiB, want at most %d", info.Size()>>20, most>>20)
	}
	t.Logf("the stripped binary has %.1f MiB", float64(info.Size())/(1<<20))
}
