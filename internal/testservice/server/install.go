package server

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

const kafkaVersion = "4.1.0"

//go:embed kafka-pom.xml
var kafkaPOM []byte

//go:embed kafka-log4j2.properties
var kafkaLogConfig []byte

const logConfigName = "log4j2.properties"

// Installer puts on the machine what a service needs and is not there.
type Installer struct {
	// Out receives what is being installed.
	Out     io.Writer
	updated bool
}

// MissingError says that a service cannot be started, and what to do.
type MissingError struct {
	Service  string
	Program  string
	Packages []string
	Err      error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s cannot be started: %s is missing and could not be installed: %v\n"+
		"  install it yourself (Debian, Ubuntu: sudo apt-get install %s),\n"+
		"  or point at a server of your own (see `go run ./test/services help`),\n"+
		"  or run what needs no service: make test-fast",
		e.Service, e.Program, e.Err, e.Packages[0])
}

func (e *MissingError) Unwrap() error { return e.Err }

// Postgres makes sure that there is a PostgreSQL.
func (in *Installer) Postgres(ctx context.Context) error {
	return in.need(ctx, "PostgreSQL", "postgres", func() error { _, err := findPostgres(); return err }, "postgresql")
}

// PgBouncer makes sure that there is a PgBouncer.
func (in *Installer) PgBouncer(ctx context.Context) error {
	return in.need(ctx, "PgBouncer", "pgbouncer", func() error { _, err := findPgBouncer(); return err }, "pgbouncer")
}

// KafkaLibs returns the folder with Kafka's jars, fetched from Maven Central
// the first time. It lies in the user's cache folder.
func (in *Installer) KafkaLibs(ctx context.Context) (string, error) {
	err := in.need(ctx, "Kafka", "java 17 or newer", javaIsThere, "openjdk-17-jre-headless", "openjdk-21-jre-headless", "default-jre-headless")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "penstock")
	dir := filepath.Join(cache, "kafka-"+kafkaVersion)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(dir + ".lock") // another run may be fetching them
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(dir, logConfigName)); err == nil {
		return dir, nil
	}
	err = in.need(ctx, "Kafka", "mvn", func() error { _, err := exec.LookPath("mvn"); return err }, "maven")
	if err != nil {
		return "", err
	}
	in.printf("fetching Kafka %s from Maven Central into %s\n", kafkaVersion, dir)
	tmp, err := os.MkdirTemp(cache, "kafka-fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a leftover in a cache harms nobody
	pom := filepath.Join(tmp, "pom.xml")
	if err := os.WriteFile(pom, kafkaPOM, 0o644); err != nil {
		return "", err
	}
	jars := filepath.Join(tmp, "jars")
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+jars) //nolint:gosec // our own arguments
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Kafka's jars with Maven (without Maven Central: set %s to a broker of your own, or make test-fast): %w\n%s", EnvKafka, err, out)
	}
	// The last file to be written says that the folder is complete.
	if err := os.WriteFile(filepath.Join(jars, logConfigName), kafkaLogConfig, 0o644); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.Rename(jars, dir)
}

// CachedKafkaLibs returns the folder with Kafka's jars if it is there.
func CachedKafkaLibs() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "penstock", "kafka-"+kafkaVersion)
	if _, err := os.Stat(filepath.Join(dir, logConfigName)); err != nil {
		return "", fmt.Errorf("the jars of Kafka are not in the cache: %w", err)
	}
	return dir, nil
}

func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

func javaIsThere() error {
	out, err := exec.Command("java", "-version").CombinedOutput() //nolint:noctx // it prints and ends
	if err != nil {
		return err
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("cannot tell the version of java from %q", out)
	}
	if n, _ := strconv.Atoi(string(m[1])); n < 17 {
		return fmt.Errorf("java is version %d, Kafka %s needs 17", n, kafkaVersion)
	}
	return nil
}

// need runs check, and installs the first of the packages that can be had if
// it fails.
func (in *Installer) need(ctx context.Context, service, program string, check func() error, packages ...string) error {
	err := check()
	if err == nil {
		return nil
	}
	if e := in.apt(ctx, check, packages); e != nil {
		return &MissingError{Service: service, Program: program, Packages: packages, Err: errors.Join(err, e)}
	}
	return nil
}

func (in *Installer) apt(ctx context.Context, check func() error, packages []string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("there is no apt-get here")
	}
	if os.Geteuid() != 0 {
		return errors.New("installing it needs root")
	}
	if !in.updated {
		in.printf("apt-get update\n")
		if err := aptGet(ctx, "update"); err != nil {
			return err
		}
		in.updated = true
	}
	var errs []error
	for _, p := range packages {
		in.printf("apt-get install %s\n", p)
		err := aptGet(ctx, "install", "-y", "--no-install-recommends", p)
		if err == nil {
			err = check()
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...) //nolint:gosec // our own arguments
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return nil
}

func (in *Installer) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(in.Out, "services: "+format, args...)
}
