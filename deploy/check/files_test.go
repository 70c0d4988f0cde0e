package check

import (
	"bytes"
	"debug/elf"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

func composeFile(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"../compose/compose.yaml"}, cli.WithConsistency(true), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComposeFile(t *testing.T) {
	p := composeFile(t)
	s := p.Services["penstock"]
	if s.DependsOn["postgres"].Condition != types.ServiceConditionHealthy || !s.ReadOnly {
		t.Errorf("penstock waits for %v, read-only %t", s.DependsOn, s.ReadOnly)
	}
	for _, port := range s.Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %s is open to %q", port.Published, port.HostIP)
		}
	}
	// The image of Kafka drops its own settings where there are variables, and keeps records in /tmp.
	kafka := p.Services["kafka"]
	if dir := kafka.Environment["KAFKA_LOG_DIRS"]; dir == nil || *dir != kafka.Volumes[0].Target {
		t.Errorf("Kafka writes to %v, which is not in the volume at %s: the positions in PostgreSQL outlive the topics", dir, kafka.Volumes[0].Target)
	}
	if _, err := filepath.Glob(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
}

// The unit is one that systemd understands, and keeps the process in a small cage.
func TestSystemdUnit(t *testing.T) {
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not on this machine: only the file's text is checked")
	} else {
		out, err := exec.CommandContext(t.Context(), path, "verify", "../systemd/penstock.service").CombinedOutput()
		for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
			// The binary is not installed where the test runs.
			if line != "" && !strings.Contains(line, "/usr/local/bin/penstock is not executable") {
				t.Errorf("%v: %s", err, line)
			}
		}
		out, err = exec.CommandContext(t.Context(), path, "security", "--offline=true", "--threshold=20", "../systemd/penstock.service").CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	text := readFile(t, "../systemd/penstock.service")
	// systemd looks at the exit code of the main process alone: what fails before it is started again for ever.
	if strings.Contains(text, "\nExecStartPre=") || !strings.Contains(text, "\nRestartPreventExitStatus=2\n") {
		t.Error("a wrong flow file makes systemd start the process again and again")
	}
	for _, line := range []string{"Type=notify", "ExecReload=/bin/kill -HUP $MAINPID", "NoNewPrivileges=true", "ProtectSystem=strict"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// What the image builds needs nothing of the image: it is linked statically.
func TestImageHoldsAStaticBinary(t *testing.T) {
	text := readFile(t, "../docker/Dockerfile")
	m := regexp.MustCompile(`CGO_ENABLED=0 go build (-trimpath -ldflags="[^"]*") -o /penstock (\S+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("the Dockerfile does not build as this test expects")
	}
	binary := filepath.Join(t.TempDir(), "penstock")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "CGO_ENABLED=0 go build "+m[1]+" -o "+binary+" "+m[2])
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, _ := f.ImportedLibraries(); len(libs) > 0 {
		t.Errorf("it needs %v", libs)
	}
	last := text[strings.LastIndex(text, "\nFROM "):]
	for _, line := range []string{"\nFROM scratch\n", "\nUSER 65532:65532\n", "\nSTOPSIGNAL SIGTERM\n"} {
		if !strings.Contains(last, line) {
			t.Errorf("the image's last stage has no %q", line)
		}
	}
	if out, err := exec.CommandContext(t.Context(), binary, "version").CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("penstock ")) {
		t.Errorf("%v: %s", err, out)
	}
}
